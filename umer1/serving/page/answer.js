// What the model writes, as it comes: <think>reasoning</think><answer>summary <gen_emb>

import { element, fill, grouped } from "./dom.js";

const TAGS = /<\/?(?:think|answer)>|<gen_emb>|<\|im_end\|>|<\|endoftext\|>/;

// { reasoning, summary } of a text that may break off anywhere, even inside a tag.
export function parts(written) {
  const text = written.replace(/<[^<>\s]{0,12}$/, "");
  const [before, after] = halves(text);
  return { reasoning: plain(before), summary: plain(after) };
}

function halves(text) {
  const place = text.indexOf("</think>");
  if (place >= 0) return [text.slice(0, place), text.slice(place)];
  return text.includes("<answer>") || !text.includes("<think>")
    ? ["", text]
    : [text, ""];
}

function plain(text) {
  return text.split(TAGS).join("").trim();
}

export function showWritten({ reasoning, summary }, writing) {
  const box = document.getElementById("reasoning");
  const line = document.getElementById("summary");
  fill(box, reasoning || (writing ? "" : "It gave no reasons."));
  fill(line, summary);
  box.classList.toggle("none", !reasoning && !writing);
  box.classList.toggle("writing", writing && !summary);
  line.classList.toggle("writing", writing && Boolean(summary));
  line.hidden = !summary;
  box.scrollTop = box.scrollHeight;
}

function time(seconds) {
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

// tokens: null if the server did not say. seconds: from sending to the last event.
export function showFacts({ tokens, seconds, finish, firstSeconds }) {
  const facts = [`${time(seconds)} in all`];
  if (firstSeconds !== null) facts.push(`first word after ${time(firstSeconds)}`);
  if (tokens !== null) facts.unshift(`${grouped(tokens)} ${tokens === 1 ? "token" : "tokens"}`);
  fill(document.getElementById("facts"), facts.join(" · "));
  const caution = document.getElementById("caution");
  caution.hidden = finish === "gen_emb";
  const how = {
    length: "The model ran into the limit of tokens and never wrote its <gen_emb>.",
    eos: "The model ended its turn without writing <gen_emb>.",
  }[finish];
  fill(
    caution,
    element("b", {}, "This gen vector is a stop-gap. "),
    `${how || `The model stopped early (${finish}).`} The vector is the state of its last token, ` +
      "so trust the gen list less."
  );
}
