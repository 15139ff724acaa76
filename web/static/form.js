// What a script adds to the form: it takes dropped and pasted images and folders, shows what was
// chosen, and how far a long upload is. The form works without it.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const element = (tag, className, text) =>
    Object.assign(document.createElement(tag), { className, textContent: text || "" });
  const form = byId("form");
  const input = byId("image");
  const zone = byId("zone");
  const chosen = byId("chosen");
  const predict = byId("predict");

  const folder = byId("folder");
  const archive = byId("archive");
  const sending = byId("sending");
  const most = Number(form.dataset.most);
  const ARCHIVE = /\.(zip|tar|tgz|gz|zst|txt|csv|jsonl)$/i;
  // Images from a folder, with their paths, where the input of images cannot hold them.
  let many = [];

  const size = (bytes) => {
    if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
    return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
  };

  const line = (mark, name, bytes, label, remove) => {
    const item = element("li", "chosen-item");
    const button = element("button", "btn-close btn-sm");
    button.type = "button";
    button.setAttribute("aria-label", label);
    button.addEventListener("click", () => {
      remove();
      input.focus();
    });
    item.append(mark, element("span", "chosen-name", name), element("span", "chosen-size", size(bytes)), button);
    return item;
  };

  const pictured = (file) => {
    const picture = element("img", "chosen-picture");
    picture.alt = "";
    picture.addEventListener("error", () => {
      URL.revokeObjectURL(picture.src);
      picture.replaceWith(element("span", "chosen-picture unseen"));
    });
    picture.src = URL.createObjectURL(file);
    return picture;
  };

  const unseen = () => element("span", "chosen-picture unseen");
  const total = (files) => files.reduce((sum, { file }) => sum + file.size, 0);
  const counted = (count) => `${count.toLocaleString("en")} ${count === 1 ? "file" : "files"}`;

  // A browser gives the files of a folder in any order.
  const sorted = (files) =>
    files.sort((one, other) => one.path.localeCompare(other.path, "en", { numeric: true }));

  // What is chosen, wherever: one archive, or the images of the input and of a folder.
  const selected = () => [
    ...Array.from(input.files, (file) => ({ file, path: file.name })),
    ...sorted(Array.from(folder.files, (file) => ({ file, path: file.webkitRelativePath || file.name }))),
    ...many,
  ];
  const isIngestion = (files) => archive.files.length > 0 || many.length + folder.files.length > 0 || files.length > most;

  const forget = () => {
    many = [];
    input.value = folder.value = "";
    show();
  };

  const show = () => {
    for (const picture of chosen.querySelectorAll("img")) URL.revokeObjectURL(picture.src);
    const files = selected();
    const lines = [];
    if (files.length > most) {
      lines.push(line(unseen(), counted(files.length), total(files), "Remove these files", forget));
    } else {
      files.forEach(({ file, path }, index) => {
        lines.push(line(pictured(file), path, file.size, `Remove ${file.name}`, () => {
          put(selected().filter((_, other) => other !== index));
        }));
      });
    }
    for (const file of archive.files) {
      lines.push(line(unseen(), file.name, file.size, `Remove ${file.name}`, () => {
        archive.value = "";
        show();
      }));
    }
    chosen.replaceChildren(...lines);
    predict.textContent = isIngestion(files)
      ? "Hand in as one ingestion"
      : files.length > 1 ? `Predict ${files.length} images` : "Predict";
  };

  // Plain files go into the input, which also a form without scripts has; what has a path can't.
  const put = (files) => {
    const transfer = new DataTransfer();
    for (const { file, path } of files) if (path === file.name) transfer.items.add(file);
    many = files.filter(({ file, path }) => path !== file.name);
    input.files = transfer.files;
    folder.value = "";
    show();
  };

  const add = (files) => {
    const archives = files.filter(({ file }) => ARCHIVE.test(file.name));
    if (archives.length === 1 && files.length === 1) {
      const transfer = new DataTransfer();
      transfer.items.add(archives[0].file);
      archive.files = transfer.files;
      show();
    } else {
      put([...selected(), ...files]);
    }
  };

  // A folder that is dropped is walked; the browser gives its entries some at a time.
  const walk = async (entry) => {
    const ask = (method, object) => new Promise((give, fail) => object[method](give, fail));
    if (entry.isFile) return [{ file: await ask("file", entry), path: entry.fullPath.slice(1) }];
    const reader = entry.createReader();
    const found = [];
    for (;;) {
      const some = await ask("readEntries", reader);
      if (!some.length) return found;
      for (const each of some) found.push(...(await walk(each)));
    }
  };

  const drop = async (transfer) => {
    // The entries are gone once this event is over.
    const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
    const plain = Array.from(transfer.files, (file) => ({ file, path: file.name }));
    if (!entries.some((entry) => entry && entry.isDirectory)) return add(plain);
    const found = [];
    for (const entry of entries) if (entry) found.push(...(await walk(entry)));
    add(sorted(found));
  };

  // Dropped anywhere: beside the zone the browser would leave the page to show the file.
  const drag = (event) => {
    if (!event.dataTransfer || !event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    zone.classList.toggle("over", event.type === "dragover");
    if (event.type === "drop") drop(event.dataTransfer);
  };
  for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, drag);

  document.addEventListener("paste", (event) => {
    const { files } = event.clipboardData;
    if (files.length) add(Array.from(files, (file) => ({ file, path: file.name })));
  });
  for (const each of [input, folder, archive]) each.addEventListener("change", show);

  // ---- Sending much ----------------------------------------------------------------------------
  const complain = (text) => {
    const old = byId("refusals");
    if (old) old.remove();
    const alert = element("div", "alert alert-danger", text);
    alert.id = "refusals";
    alert.setAttribute("role", "alert");
    form.before(alert);
  };

  const ready = () => {
    predict.disabled = false;
    sending.hidden = true;
    show();
  };

  // As the form would be, but with the paths of what was dropped, and with its progress.
  const send = (files) => {
    const body = new FormData();
    body.append("model", byId("model").value);
    for (const { file, path } of files) body.append("image", file, path);
    for (const file of archive.files) body.append("archive", file);
    const [bar, told] = sending.children;
    const request = new XMLHttpRequest();
    request.upload.addEventListener("progress", ({ loaded, total: all }) => {
      bar.value = all ? loaded / all : 0;
      told.textContent = loaded < all ? `${size(loaded)} of ${size(all)}` : "Being taken in…";
    });
    request.addEventListener("load", () => {
      if (request.status < 300) return location.assign(request.responseURL);
      const page = new DOMParser().parseFromString(request.responseText, "text/html");
      const refused = page.querySelector("#refusals") || page.querySelector(".problem .lead");
      complain(refused ? refused.textContent.trim() : `It was not taken (${request.status}).`);
      ready();
    });
    request.addEventListener("error", () => {
      complain("The upload broke off. Nothing was taken; send it again.");
      ready();
    });
    sending.hidden = false;
    request.open("POST", form.action);
    request.setRequestHeader("Accept", "text/html");
    request.send(body);
  };

  form.addEventListener("submit", (event) => {
    const files = selected();
    if (isIngestion(files)) {
      event.preventDefault();
      const bytes = total(files) + Array.from(archive.files).reduce((sum, { size: more }) => sum + more, 0);
      if (archive.files.length && files.length) {
        return complain("Choose either an archive or a list, or images.");
      }
      if (files.length > Number(form.dataset.mostMany)) {
        return complain(`${counted(files.length)} are too many to be uploaded one by one: pack them into an archive.`);
      }
      if (bytes > Number(form.dataset.mostBytes)) {
        return complain(`${size(bytes)} are too much for one upload; at most ${size(Number(form.dataset.mostBytes))} are taken.`);
      }
      send(files);
    }
    predict.disabled = true;
    predict.textContent = "Uploading…";
  });
  // Back from a result, the page may come as it was left; and browsers restore what was chosen.
  window.addEventListener("pageshow", ready);
})();
