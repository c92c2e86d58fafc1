// A few helpers: everything from outside becomes text, never markup.

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

export function fill(target, ...children) {
  target.replaceChildren(...children.filter((child) => child !== null));
}

export function grouped(number) {
  return number.toLocaleString("en");
}

export function ordinal(number) {
  const ending = { one: "st", two: "nd", few: "rd", other: "th" };
  return `${grouped(number)}${ending[RULES.select(number)]}`;
}

const RULES = new Intl.PluralRules("en", { type: "ordinal" });

// `text` with the words in `wanted` (a Set, lower case) marked.
export function marked(text, wanted) {
  const pieces = document.createDocumentFragment();
  let last = 0;
  for (const found of text.matchAll(WORD)) {
    if (!wanted.has(found[0].toLowerCase())) continue;
    pieces.append(text.slice(last, found.index), element("mark", {}, found[0]));
    last = found.index + found[0].length;
  }
  pieces.append(text.slice(last));
  return pieces;
}

export function words(text) {
  return new Set([...(text || "").matchAll(WORD)].map(([word]) => word.toLowerCase()));
}

const WORD = /[\p{L}\p{M}\p{N}]+/gu;
