// Why disc and gen differ: how far apart they are, what moved, and what the summary's words explain.

import { element, fill, ordinal, words } from "./dom.js";
import { ranksOf, title } from "./results.js";

// words that say nothing about an item
const SMALL = words("a an the of in on at to and or is are was it its this that with for from by as be");

export function cosine(a, b) {
  let dot = 0, aa = 0, bb = 0;
  for (let place = 0; place < a.length; place += 1) {
    dot += a[place] * b[place];
    aa += a[place] * a[place];
    bb += b[place] * b[place];
  }
  return dot / Math.sqrt(aa * bb);
}

export function summaryWords(summary) {
  return new Set([...words(summary)].filter((word) => !SMALL.has(word)));
}

export function showCosine(disc, gen) {
  const value = cosine(disc, gen);
  fill(
    document.getElementById("cosine"),
    element("b", {}, value.toFixed(2).replace("-", "−")),
    element("span", {}, "cosine between your input’s two vectors")
  );
}

// found: as in results.js. wanted: the summary's words.
export function showWhy(found, { shown, wanted, aligned }) {
  const lines = [];
  if (found?.disc?.length && found?.gen?.length) {
    lines.push(first(found), shared(found, shown), ...moved(found, shown));
  }
  document.getElementById("spaces").hidden = aligned;
  fill(document.getElementById("why"), ...lines.filter(Boolean).map((line) => element("li", {}, ...[line].flat())));
  fill(document.getElementById("words"), table(found, shown, wanted));
}

function named(hit) {
  const name = title(hit);
  return element("b", {}, name.length > 60 ? `${name.slice(0, 59)}…` : name);
}

function first({ disc, gen }) {
  if (disc[0].number === gen[0].number) return ["Both put ", named(gen[0]), " first."];
  const rank = ranksOf(disc).get(gen[0].number);
  const there = rank ? `${ordinal(rank)} by disc` : `beyond disc’s first ${disc.length}`;
  return ["Gen puts ", named(gen[0]), ` first (${there}); disc puts `, named(disc[0]), " first."];
}

function shared({ disc, gen }, shown) {
  const top = new Set(disc.slice(0, shown).map((hit) => hit.number));
  const listed = gen.slice(0, shown);
  const both = listed.filter((hit) => top.has(hit.number)).length;
  return `${both} of the first ${listed.length} are in both lists.`;
}

// The item of the gen list that rose furthest, and that of the disc list that fell furthest.
function moved({ disc, gen }, shown) {
  const inDisc = ranksOf(disc), inGen = ranksOf(gen);
  const rise = furthest(gen.slice(1, shown), (hit) => inDisc.get(hit.number) - inGen.get(hit.number));
  const fall = furthest(disc.slice(0, shown), (hit) => inGen.get(hit.number) - inDisc.get(hit.number));
  const tell = (hit, verb) => [
    `${verb} `, named(hit), `: ${ordinal(inDisc.get(hit.number))} by disc, ${ordinal(inGen.get(hit.number))} by gen.`,
  ];
  return [rise && tell(rise, "Gen lifts"), fall && tell(fall, "Gen lowers")].filter(Boolean);
}

function furthest(hits, distance) {
  const known = hits.filter((hit) => distance(hit) >= 2);
  return known.reduce((best, hit) => (!best || distance(hit) > distance(best) ? hit : best), null);
}

// How many of the items in each list have each of the summary's words.
function table(found, shown, wanted) {
  if (!found?.disc?.length || !found?.gen?.length || !wanted.size) return null;
  const texts = (hits) => hits.slice(0, shown).map((hit) => words(`${hit.text || ""} ${hit.summary || ""}`));
  const lists = [texts(found.disc), texts(found.gen)];
  if (lists.flat().every((set) => !set.size)) {
    return element("p", { class: "fine" }, "The items of this index carry no texts to compare the summary with.");
  }
  const rows = [...wanted].slice(0, 12).map((word) => {
    const counts = lists.map((sets) => sets.filter((set) => set.has(word)).length);
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, element("mark", {}, word)),
      ...counts.map((count, place) => bar(count, lists[place].length, place ? "gen" : "disc"))
    );
  });
  return element(
    "table",
    { class: "words" },
    element("caption", {}, "The summary’s words in the items found"),
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        element("th", { scope: "col" }, "word"),
        element("th", { scope: "col" }, `disc’s first ${lists[0].length}`),
        element("th", { scope: "col" }, `gen’s first ${lists[1].length}`)
      )
    ),
    element("tbody", {}, ...rows)
  );
}

function bar(count, most, mode) {
  const fillBar = element("span", { class: `bar-fill ${mode}`, "aria-hidden": "true" });
  // through the object model, which the content security policy allows
  fillBar.style.width = `${(100 * count) / most}%`;
  const track = element("span", { class: "track", "aria-hidden": "true" }, fillBar);
  return element("td", {}, element("span", { class: "count" }, String(count)), track);
}
