"use strict";
// Everything from a data set reaches the page through textContent, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const pictures = JSON.parse(document.getElementById("pictures").textContent);
const byId = (id) => document.getElementById(id);
const columns = new Map(data.columns.map((column) => [column.key, column]));
const ranked = data.columns.filter((column) => column.name !== "oracle");
const PAGE = 50;
const OUTCOMES = { win: "better", loss: "worse", both_right: "both right", both_wrong: "both wrong", right: "right", wrong: "wrong" };
data.queries.forEach((query, number) => { query.id = number; });
let shown = PAGE;
let listed = [];

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function option(select, value, text) {
  const node = element("option", "", text);
  node.value = value;
  select.append(node);
}

function chosen() {
  if (!byId("first")) return [ranked[0].key, null];
  return [byId("first").value, byId("second").value];
}

function minus(text) { return text.replace("-", "\u2212"); }

// what two columns differ by on a row of a table; stored for one order of the two
function difference(row, first, second) {
  const stored = data.pairs[first + "|" + second];
  if (stored) return stored[row];
  const other = (data.pairs[second + "|" + first] || {})[row];
  if (!other) return null;
  const [mean, low, high] = other.points;
  const counts = other.counts && [other.counts[1], other.counts[0], other.counts[2], other.counts[3]];
  return { points: [-mean, high === null ? null : -high, low === null ? null : -low], missing: other.missing, counts };
}

function showDifferences() {
  const [first, second] = chosen();
  if (second === null) return;
  for (const tr of document.querySelectorAll("tr[data-row]")) {
    const cell = tr.querySelector(".difference");
    const counts = tr.querySelector(".counts");
    const found = first === second ? null : difference(tr.dataset.row, first, second);
    cell.textContent = "\u2013";
    counts.textContent = "\u2013";
    delete cell.dataset.value;
    delete counts.dataset.value;
    if (!found) continue;
    const [mean, low, high] = found.points;
    const arrow = low !== null && low > 0 ? "\u25b2 " : high !== null && high < 0 ? "\u25bc " : "";
    cell.dataset.value = mean;
    cell.textContent = arrow + minus((mean < 0 ? "" : "+") + mean.toFixed(1));
    if (found.missing) {
      const mark = element("sup", "", "*");
      mark.title = found.missing + " tasks have only one of the two";
      cell.append(mark);
    }
    if (low !== null) cell.append(element("small", "", "[" + minus(low.toFixed(1)) + ", " + minus(high.toFixed(1)) + "]"));
    if (found.counts) {
      counts.textContent = found.counts[0] + " : " + found.counts[1];
      counts.dataset.value = found.counts[0] - found.counts[1];
    }
  }
}

function sortTable(th) {
  const table = th.closest("table");
  const place = [...th.parentNode.children].indexOf(th);
  const numeric = th.classList.contains("number");
  const before = th.getAttribute("aria-sort");
  const up = before ? before === "descending" : !numeric;
  for (const other of th.parentNode.children) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", up ? "ascending" : "descending");
  const key = (tr) => {
    const cell = tr.children[place];
    if (!numeric) return cell.textContent.trim();
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  };
  const body = table.tBodies[0];
  const rows = [...body.rows].map((tr) => [key(tr), tr]);
  rows.sort(([one], [two]) => {
    // rows without a value stay last in both directions
    if (one === null || two === null) return (one === null) - (two === null);
    const order = numeric ? one - two : one.localeCompare(two, "en", { numeric: true });
    return up ? order : -order;
  });
  body.append(...rows.map(([, tr]) => tr));
}

function outcome(query, first, second) {
  const one = query.columns[first];
  if (second === null || first === second) return one ? (one.hit ? "right" : "wrong") : null;
  const two = query.columns[second];
  if (!one || !two || !data.same[query.task].includes(columns.get(first).run + "|" + columns.get(second).run)) return null;
  if (one.value !== two.value) return two.value > one.value ? "win" : "loss";
  return two.hit ? "both_right" : "both_wrong";
}

// everything that the search looks at, once per query
function haystack(query) {
  if (query.haystack === undefined) {
    const parts = [query.task, String(query.row), query.text || ""];
    const candidates = data.candidates[query.task];
    for (const place of query.right) parts.push(candidates[place].name, candidates[place].text || "");
    for (const column of Object.values(query.columns)) {
      if (column.wrote) parts.push(column.wrote.reasoning || "", column.wrote.summary || "");
      for (const place of column.top) parts.push(candidates[place].name, candidates[place].text || "");
    }
    query.haystack = parts.join("\n").toLowerCase();
  }
  return query.haystack;
}

const ORDERS = {
  "as in the task": () => 0,
  "lost most first": (one, two) => one.gain - two.gain,
  "won most first": (one, two) => two.gain - one.gain,
  "right one ranked lowest first": (one, two) => two.worst - one.worst,
  "longest reasoning first": (one, two) => two.length - one.length,
};

function measures(query, first, second) {
  const one = query.columns[first];
  const two = query.columns[second === null ? first : second] || one;
  const rank = (column) => (column ? (column.rank === null ? Infinity : column.rank) : 0);
  const wrote = (two && two.wrote) || (one && one.wrote);
  return {
    query,
    kind: outcome(query, first, second),
    gain: one && two ? two.value - one.value : 0,
    worst: Math.max(rank(one), rank(two)),
    length: wrote && wrote.reasoning ? wrote.reasoning.length : 0,
  };
}

function filterQueries() {
  const [first, second] = chosen();
  const task = byId("task").value;
  const wanted = byId("outcome").value;
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  listed = data.queries
    .filter((query) => !task || query.task === task)
    .map((query) => measures(query, first, second))
    .filter((one) => one.kind !== null && (!wanted || one.kind === wanted))
    .filter((one) => words.every((word) => haystack(one.query).includes(word)));
  listed.sort(ORDERS[byId("order").value]);
  shown = PAGE;
  showList();
}

function showList() {
  byId("list").replaceChildren(...listed.slice(0, shown).map(listItem));
  byId("more").hidden = listed.length <= shown;
  const total = data.queries.length;
  const all = data.total === total ? "" : ` The page lists ${total} of ${data.total} queries: of each task lost, won, wrong and right ones in turn.`;
  byId("count").textContent = `${listed.length} ${listed.length === 1 ? "query" : "queries"}.${all}`;
}

function fillOutcomes() {
  const select = byId("outcome");
  const before = select.value;
  const [first, second] = chosen();
  select.replaceChildren();
  option(select, "", "all");
  const kinds = second === null || first === second ? ["right", "wrong"] : ["win", "loss", "both_right", "both_wrong"];
  for (const kind of kinds) {
    const who = kind === "win" || kind === "loss" ? columns.get(second).label + " " : "";
    option(select, kind, who + OUTCOMES[kind]);
  }
  select.value = kinds.includes(before) ? before : "";
}

function update() {
  showDifferences();
  fillOutcomes();
  filterQueries();
}

function listen() {
  for (const th of document.querySelectorAll("table.sortable thead th")) {
    const button = th.querySelector("button");
    if (button) button.addEventListener("click", () => sortTable(th));
  }
  for (const id of ["first", "second"]) if (byId(id)) byId(id).addEventListener("change", update);
  if (byId("swap")) byId("swap").addEventListener("click", () => {
    [byId("first").value, byId("second").value] = [byId("second").value, byId("first").value];
    update();
  });
  for (const id of ["task", "outcome", "order"]) byId(id).addEventListener("change", filterQueries);
  byId("search").addEventListener("input", filterQueries);
  byId("more").addEventListener("click", () => { shown += PAGE; showList(); });
  byId("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", openFromAddress);
}

for (const name of new Set(data.queries.map((query) => query.task))) option(byId("task"), name, name);
for (const name of Object.keys(ORDERS)) option(byId("order"), name, name);
listen();
update();
openFromAddress();
