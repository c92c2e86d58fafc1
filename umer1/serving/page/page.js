// The page: what is given, what is asked, what is shown.

import { events, getJson, postJson, Refused, setKey } from "./api.js";
import { parts, showFacts, showWritten } from "./answer.js";
import { element, fill, grouped } from "./dom.js";
import { attachInputs, given, tell } from "./inputs.js";
import { userTurn } from "./media.js";
import { showLists, title } from "./results.js";
import "./theme.js";
import { showCosine, showWhy, summaryWords } from "./why.js";

// how deep ranks are known
const DEPTH = 100;
const at = (id) => document.getElementById(id);
let model = null;
let indexes = [];
let running = null;
let latest = null;

async function connect() {
  const [models, lists] = await Promise.all([getJson("v1/models"), getJson("v1/indexes")]);
  model = models.data[0].id;
  indexes = lists.data;
  const { dimension } = models.data[0];
  const size = dimension ? ` · ${grouped(dimension)} dimensions` : "";
  fill(at("server"), model.split(/[\\/]/).pop() + size);
  at("server").title = model;
  fill(
    at("index"),
    ...indexes.map((one) => element("option", { value: one.name }, `${one.name} (${grouped(one.items)})`)),
    element("option", { value: "" }, "nothing")
  );
  at("where").hidden = !indexes.length;
}

async function start() {
  tell("");
  try {
    await connect();
    if (!at("key").hidden) at("text").focus();
    at("key").hidden = true;
  } catch (error) {
    fill(at("server"), "not connected");
    refused(error);
  }
}

function refused(error) {
  if (error instanceof Refused && error.status === 401) {
    const again = !at("key").hidden;
    at("key").hidden = false;
    fill(at("server"), "wants a key");
    fill(at("key-wrong"), again ? error.message : "");
    at("secret").focus();
    return;
  }
  if (error.status) return tell(`The server refuses: ${error.message}${waiting(error)}`);
  tell(error.message);
}

// How long the server asks to wait, if its message does not say so itself.
function waiting({ wait, message }) {
  return wait && !message.includes(`${wait} s`) ? ` (try again in ${wait} s)` : "";
}

async function embed() {
  if (running) return;
  tell("");
  const { media, text } = given();
  if (!media.length && !text.trim()) {
    tell("There is nothing to embed yet: write something, or add a picture or a clip.");
    at("text").focus();
    return;
  }
  running = new AbortController();
  busy(true);
  try {
    if (!model) await connect();
    await run(userTurn(media, text), running.signal);
  } catch (error) {
    if (error.name === "AbortError") {
      at("status").textContent = "Stopped.";
      if (!latest) fill(at("facts"), "stopped before the vectors came");
    } else if (error instanceof Refused) {
      refused(error);
    } else {
      tell(`The page failed: ${error.message}`);
      throw error;
    }
  } finally {
    const wrote = [at("reasoning"), at("summary")];
    for (const one of wrote) one.classList.remove("writing");
    at("result").hidden = !latest && wrote.every((one) => !one.textContent);
    running = null;
    busy(false);
  }
}

async function run(messages, signal) {
  clear();
  const began = performance.now();
  const since = () => (performance.now() - began) / 1000;
  let written = "", firstSeconds = null, tokens = null, embedding = null;
  for await (const event of events("v1/chat/completions", request(messages), signal)) {
    const piece = event.choices?.[0]?.delta?.content;
    if (piece) {
      if (firstSeconds === null) fill(at("facts"));
      firstSeconds ??= since();
      written += piece;
      showWritten(parts(written), true);
    }
    tokens = event.usage?.completion_tokens ?? tokens;
    embedding = event.embedding ?? embedding;
  }
  if (!embedding?.gen) throw new Refused("The answer ended without vectors.");
  showWritten(embedding, false);
  showFacts({ tokens, seconds: since(), firstSeconds, finish: embedding.finish });
  latest = embedding;
  at("apart").hidden = !embedding.disc;
  if (embedding.disc) showCosine(embedding.disc, embedding.gen);
  await search(embedding, signal);
}

function request(messages) {
  const think = at("think").value;
  return {
    model,
    messages,
    mode: "both",
    stream: true,
    stream_options: { include_usage: true },
    // the index's disc vectors were read in one place of the two
    readout: chosen()?.readout ?? "at",
    temperature: Number(at("temperature").value) || 0,
    seed: Number(at("seed").value) || 0,
    ...(think === "" ? {} : { max_think_tokens: Number(think) }),
  };
}

function chosen() {
  return indexes.find((one) => one.name === at("index").value);
}

async function search(embedding, signal) {
  const wanted = summaryWords(embedding.summary);
  const index = chosen();
  at("no-index").hidden = indexes.length > 0;
  if (!index) {
    showWhy(null, { wanted, aligned: false });
    at("status").textContent = `Done. Summary: ${embedding.summary || "none"}.`;
    return;
  }
  const vector = { disc: embedding.disc, gen: embedding.gen };
  const modes = ["disc", "gen"].filter((mode) => index.modes.includes(mode) && vector[mode]);
  const answer = await postJson("v1/search", { index: index.name, vector, modes, k: DEPTH }, signal);
  const found = answer.results;
  const shown = Number(at("shown").value);
  fill(at("nearest-title"), "Nearest in ", element("em", {}, index.name));
  at("nearest").hidden = false;
  showLists(found, { shown, wanted, items: index.items });
  showWhy(found, { shown, wanted, aligned: index.aligned });
  at("status").textContent = [
    `Done. Summary: ${embedding.summary || "none"}.`,
    ...modes.map((mode) => found[mode].length && `First by ${mode}: ${title(found[mode][0])}.`),
  ].filter(Boolean).join(" ");
}

function clear() {
  latest = null;
  for (const id of ["nearest", "apart", "caution", "no-index"]) at(id).hidden = true;
  for (const id of ["facts", "why", "words", "disc", "gen", "cosine"]) fill(at(id));
  showWritten({ reasoning: "", summary: "" }, true);
  fill(at("facts"), "reading");
  at("result").hidden = false;
}

function busy(now) {
  at("stop").hidden = !now;
  at("embed").hidden = now;
  at("result").setAttribute("aria-busy", now);
  if (now) at("status").textContent = "The model reads and reasons.";
}

async function copy(mode, button) {
  const label = button.textContent;
  await toClipboard(JSON.stringify(latest[mode]));
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = label), 1500);
}

// Browsers have a clipboard only where the connection is safe: http from another machine is not.
async function toClipboard(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const box = element("textarea", { class: "hidden" });
  box.value = text;
  document.body.append(box);
  box.select();
  document.execCommand("copy");
  box.remove();
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  embed();
});
at("key").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(at("secret").value.trim());
  start();
});
at("stop").addEventListener("click", () => running?.abort());
at("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  embed();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key === "/" && !event.target.closest("input, textarea, select")) {
    event.preventDefault();
    at("text").focus();
  }
});
for (const mode of ["disc", "gen"]) {
  at(`copy-${mode}`).addEventListener("click", (event) => copy(mode, event.currentTarget));
}
attachInputs();
start();
