// Runs before the first paint: scripts are on, and the colours follow the system's.
(() => {
  "use strict";
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const follow = () => root.setAttribute("data-bs-theme", dark.matches ? "dark" : "light");
  root.classList.add("js");
  dark.addEventListener("change", follow);
  follow();
})();
