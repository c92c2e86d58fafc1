// What the user gives: a text, pictures and clips; dropped, pasted or chosen.

import { element, fill } from "./dom.js";
import { readMedium, size } from "./media.js";

const at = (id) => document.getElementById(id);
const limit = Number(document.querySelector("meta[name=max-body-bytes]").content);
// what the request holds besides the media and the text
const ENVELOPE = 2048;
let media = [];

export function given() {
  return { media, text: at("text").value };
}

export function tell(message) {
  fill(at("wrong"), message);
}

export function attachInputs() {
  at("choose").addEventListener("click", () => at("file").click());
  at("file").addEventListener("change", async () => {
    await add([...at("file").files]);
    at("file").value = "";
  });
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    const text = event.clipboardData.getData("text/plain");
    if (files.length) {
      event.preventDefault();
      add(files);
    } else if (text && !event.target.closest("input, textarea")) {
      event.preventDefault();
      write(text);
    }
  });
  attachDrops();
  at("text").addEventListener("input", grow);
}

function attachDrops() {
  let depth = 0;
  const over = (entering) => {
    depth = Math.max(0, depth + entering);
    at("ask").classList.toggle("over", depth > 0);
  };
  document.addEventListener("dragenter", () => over(1));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    depth = 0;
    over(0);
    const files = [...event.dataTransfer.files];
    const text = event.dataTransfer.getData("text/plain");
    if (files.length) add(files);
    else if (text) write(text);
  });
}

async function add(files) {
  tell("");
  const wrong = [];
  for (const file of files) {
    try {
      // before reading: a film of many gigabytes is not worth it
      if (file.size * (4 / 3) > limit) {
        throw new Error(`“${file.name}” has ${size(file.size)}; this server takes requests of ${size(limit)}.`);
      }
      const medium = await readMedium(file);
      if (medium.kind === "text") write(medium.text);
      else if (used() + medium.bytes > limit) {
        throw new Error(`With “${medium.name}” the request would be larger than the ${size(limit)} this server takes.`);
      } else media.push(medium);
    } catch (error) {
      wrong.push(error.message);
    }
  }
  if (wrong.length) tell(wrong.join(" "));
  showMedia();
  at("text").focus();
}

function used() {
  return media.reduce((sum, medium) => sum + medium.bytes, ENVELOPE + at("text").value.length);
}

function write(text) {
  const box = at("text");
  box.setRangeText(text, box.selectionStart, box.selectionEnd, "end");
  box.focus();
  grow();
}

function grow() {
  const box = at("text");
  box.style.height = "auto";
  box.style.height = `${Math.min(box.scrollHeight + 2, 320)}px`;
}

function showMedia() {
  at("media").hidden = !media.length;
  fill(at("media"), ...media.map(chip));
}

function chip(medium) {
  medium.address ??= URL.createObjectURL(medium.blob);
  const shown = preview(medium);
  const remove = element("button", { type: "button", "aria-label": `Remove ${medium.name}` }, "×");
  remove.addEventListener("click", () => {
    URL.revokeObjectURL(medium.address);
    media = media.filter((one) => one !== medium);
    showMedia();
    at("text").focus();
  });
  return element("li", {}, shown, element("span", {}, medium.name), remove);
}

// A browser that cannot show a format (TIFF, MKV) says so; the server may still read it.
function preview(medium) {
  const name = medium.kind === "image" ? "img" : "video";
  const shown = element(name, { alt: name === "img" ? "" : null, "aria-hidden": "true" });
  if (name === "video") Object.assign(shown, { muted: true, preload: "metadata" });
  shown.addEventListener("error", () => {
    shown.replaceWith(element("span", { class: "unseen" }, "no preview"));
  });
  // the fragment makes a browser show the first picture of a clip
  shown.src = name === "img" ? medium.address : `${medium.address}#t=0.01`;
  return shown;
}
