// The two lists, and the lines that join what is in both.

import { picture } from "./api.js";
import { element, fill, marked, ordinal } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";

// found: { disc: [hit...], gen: [hit...] | undefined }, best first, deeper than `shown`.
// wanted: the summary's words. items: how many the index holds.
export function showLists(found, { shown, wanted, items }) {
  for (const [mode, other] of [["disc", "gen"], ["gen", "disc"]]) {
    const list = document.getElementById(mode);
    if (!found[mode]) {
      fill(list, element("li", { class: "fine" }, `This index holds no ${mode} vectors.`));
      continue;
    }
    const ranks = found[other] && ranksOf(found[other]);
    const rows = found[mode].slice(0, shown).map((hit, place) =>
      row(hit, place + 1, wanted, ranks && elsewhere(other, ranks.get(hit.number), found, items))
    );
    fill(list, ...rows);
  }
  drawSlopes();
}

export function ranksOf(hits) {
  return new Map(hits.map((hit, place) => [hit.number, place + 1]));
}

// What a hit is called: the name of its file, or its text.
export function title(hit) {
  if (!hit.thumbnail) return hit.text || hit.id;
  return hit.id.split(/[\\/]/).filter(Boolean).pop() || hit.id;
}

function elsewhere(other, rank, found, items) {
  if (rank) return { text: `${other} ${ordinal(rank)}`, rank };
  const depth = found[other].length;
  return { text: depth < items ? `${other} beyond ${depth}` : `not in ${other}`, rank: Infinity };
}

function row(hit, rank, wanted, other) {
  const more = element("div", { class: "more", hidden: "" });
  const name = title(hit);
  const below = [hit.summary, hit.text].find((text) => text && text !== name) || "";
  const head = element(
    "button",
    { type: "button", "aria-expanded": "false" },
    element("span", { class: "rank" }, String(rank)),
    thumbnail(hit),
    element(
      "span",
      { class: "about" },
      element("b", {}, marked(name, wanted)),
      below ? element("span", {}, marked(below, wanted)) : null
    ),
    element(
      "span",
      { class: "numbers" },
      element("span", { class: "score" }, hit.score.toFixed(3)),
      other && element("span", { class: `move ${direction(rank, other.rank)}` }, other.text)
    )
  );
  head.addEventListener("click", () => {
    const open = head.getAttribute("aria-expanded") === "false";
    head.setAttribute("aria-expanded", open);
    more.hidden = !open;
    if (open && !more.hasChildNodes()) fill(more, ...details(hit, wanted));
  });
  const line = element("li", { "data-number": hit.number, "data-rank": rank }, head, more);
  for (const [event, lit] of [["pointerenter", true], ["pointerleave", false], ["focusin", true], ["focusout", false]]) {
    line.addEventListener(event, () => light(hit.number, lit));
  }
  return line;
}

function direction(rank, other) {
  if (rank === other) return "same";
  return rank < other ? "better" : "worse";
}

function thumbnail(hit) {
  const frame = element("span", { class: "thumb" });
  if (!hit.thumbnail) {
    frame.classList.add("letters");
    frame.setAttribute("aria-hidden", "true");
    frame.append("Aa");
    return frame;
  }
  // the name beside it says what it is
  const image = element("img", { alt: "" });
  picture(hit.thumbnail.replace(/^\//, ""))
    .then((address) => {
      image.src = address;
      frame.append(image);
      if (hit.kind === "video") frame.append(element("span", { class: "clip" }, "clip"));
    })
    .catch((error) => {
      frame.classList.add("lost");
      frame.title = error.message;
      frame.append("no preview");
    });
  return frame;
}

function details(hit, wanted) {
  const large = element("img", { alt: `Preview of ${title(hit)}`, class: "large" });
  const rows = [
    ["Text", hit.text],
    ["Its summary", hit.summary],
    ["Id", hit.id],
  ].filter(([, value]) => value);
  if (hit.thumbnail) {
    picture(hit.thumbnail.replace(/^\//, "")).then((address) => (large.src = address), () => large.remove());
  }
  return [
    hit.thumbnail ? large : null,
    element(
      "dl",
      {},
      ...rows.flatMap(([name, value]) => [
        element("dt", {}, name),
        element("dd", {}, name === "Id" ? value : marked(value, wanted)),
      ])
    ),
  ];
}

function light(number, lit) {
  for (const one of document.querySelectorAll(`[data-number="${number}"]`)) {
    one.classList.toggle("lit", lit);
  }
}

// A line from an item's row in disc to its row in gen; a short end where it is in one list only.
function drawSlopes() {
  const svg = document.getElementById("slopes");
  svg.replaceChildren();
  const box = svg.getBoundingClientRect();
  if (!box.width) return;
  svg.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
  const heights = { disc: middles("disc", box.top), gen: middles("gen", box.top) };
  if (!heights.disc.size || !heights.gen.size) return;
  for (const [number, left] of heights.disc) {
    const right = heights.gen.get(number);
    if (right === undefined) svg.append(path(number, `M0 ${left.y} h${box.width * 0.14}`, "ends"));
    else svg.append(path(number, curve(left.y, right.y, box.width), direction(right.rank, left.rank)));
  }
  for (const [number, right] of heights.gen) {
    if (!heights.disc.has(number)) {
      svg.append(path(number, `M${box.width} ${right.y} h${-box.width * 0.14}`, "ends"));
    }
  }
}

function middles(mode, top) {
  const rows = document.querySelectorAll(`#${mode} > li[data-number]`);
  return new Map(
    [...rows].map((one) => {
      const box = one.firstElementChild.getBoundingClientRect();
      return [Number(one.dataset.number), { y: box.top + box.height / 2 - top, rank: Number(one.dataset.rank) }];
    })
  );
}

function curve(from, to, width) {
  return `M0 ${from} C${width / 2} ${from} ${width / 2} ${to} ${width} ${to}`;
}

function path(number, shape, kind) {
  const made = document.createElementNS(SVG, "path");
  made.setAttribute("d", shape);
  const lit = document.querySelector(`li.lit[data-number="${number}"]`);
  made.setAttribute("class", lit ? `${kind} lit` : kind);
  made.setAttribute("data-number", number);
  return made;
}

new ResizeObserver(drawSlopes).observe(document.getElementById("lists"));
