// What a script adds to pages that work without one: parts that refresh themselves, and little
// helps. The server makes all the HTML.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const element = (tag, className, text) =>
    Object.assign(document.createElement(tag), { className, textContent: text || "" });

  // ---- Parts that refresh themselves -----------------------------------------------------------
  // Elements marked data-live are replaced by those of the same id in a new answer, for as long as
  // one of them is marked data-pending; its value, if it has one, is the pause in milliseconds.
  const FIRST_MS = 700;
  const LONGEST_MS = 3000;
  const address = document.body.dataset.refresh;
  let pause = FIRST_MS;
  let timer;
  // As the server made them: what scripts changed since does not count.
  const served = new Map();
  for (const part of document.querySelectorAll("[data-live]")) served.set(part.id, part.outerHTML);

  const schedule = () => {
    clearTimeout(timer);
    const pending = document.querySelector("[data-pending]");
    if (address && !document.hidden && pending) {
      timer = setTimeout(refresh, Number(pending.dataset.pending) || pause);
    }
  };

  // The same picture again would be blank for a moment.
  const keepPictures = (old, next) => {
    const seen = new Map();
    for (const picture of old.querySelectorAll("img")) seen.set(picture.getAttribute("src"), picture);
    for (const picture of next.querySelectorAll("img")) {
      const kept = seen.get(picture.getAttribute("src"));
      if (kept) picture.replaceWith(kept);
    }
  };

  const swap = (fresh) => {
    let changed = false;
    const focused = document.activeElement && document.activeElement.id;
    for (const old of document.querySelectorAll("[data-live]")) {
      const next = fresh.getElementById(old.id);
      // A list that is being chosen from is left alone until the next time.
      if (!next || next.outerHTML === served.get(old.id) || old === document.activeElement) continue;
      served.set(old.id, next.outerHTML);
      const chosen = old.value;
      keepPictures(old, next);
      if (next.dataset.announce && next.dataset.announce !== old.dataset.announce) {
        byId("announce").textContent = next.dataset.announce;
      }
      old.replaceWith(document.adoptNode(next));
      if (chosen !== undefined) next.value = chosen;
      changed = true;
    }
    if (changed && focused && byId(focused)) byId(focused).focus({ preventScroll: true });
    document.title = fresh.title;
    return changed;
  };

  async function refresh() {
    let changed = false;
    try {
      const answer = await fetch(address, { headers: { Accept: "text/html" }, cache: "no-store" });
      if (answer.status === 404) return location.reload(); // deleted meanwhile
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      changed = swap(new DOMParser().parseFromString(await answer.text(), "text/html"));
      byId("away").hidden = true;
    } catch {
      byId("away").hidden = false;
    }
    pause = changed ? FIRST_MS : Math.min(pause * 1.3, LONGEST_MS);
    schedule();
  }

  const start = () => {
    pause = FIRST_MS;
    schedule();
  };
  document.addEventListener("visibilitychange", start);
  // Back from another page, it may come as it was left.
  window.addEventListener("pageshow", start);
  // An answer to a form gets the address under which it can be reloaded without sending it again.
  if (address) history.replaceState(history.state, "", address);
  start();

  // ---- Pictures that do not come ----------------------------------------------------------------
  // A rendered picture is refused while too many are being rendered: it is asked for once more.
  const AGAIN_MS = 3000;
  const missed = (picture) => {
    if (picture.dataset.picture === "again") {
      picture.replaceWith(element("p", "no-picture", "No preview"));
    } else {
      picture.dataset.picture = "again";
      setTimeout(() => { picture.src = picture.src; }, AGAIN_MS);
    }
  };
  document.addEventListener("error", ({ target }) => {
    if (target instanceof HTMLImageElement && "picture" in target.dataset) missed(target);
  }, true);
  for (const picture of document.querySelectorAll("img[data-picture]")) {
    if (picture.complete && !picture.naturalWidth) missed(picture);
  }

  // ---- Ask before what cannot be undone ---------------------------------------------------------
  document.addEventListener("submit", (event) => {
    const question = event.target.dataset.confirm;
    if (question && !window.confirm(question)) event.preventDefault();
  });

  // ---- Copy a command --------------------------------------------------------------------------
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      byId("announce").textContent = button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(button.parentElement.querySelector("code"));
    }
  });

  // ---- Choose another model --------------------------------------------------------------------
  // The link alone loads the page anew, and the images that were chosen would be gone.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-choose]");
    const list = byId("model");
    if (!link || !list) return;
    event.preventDefault();
    list.value = link.dataset.choose;
    list.focus();
  });
})();
