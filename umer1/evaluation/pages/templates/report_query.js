// One query of the list: its row, and what opens below it.
function words(text) { return (text || "").replace(/<\|[a-z_]+\|>/g, " ").replace(/\s+/g, " ").trim(); }

function rankText(column, label) {
  if (!column) return "";
  const rank = column.rank === null ? "not ranked" : `rank ${column.rank} of ${column.of}`;
  return `${label}: ${rank}`;
}

function firstPicture(query) {
  for (const medium of query.media) if (medium.id) return pictures[medium.id];
  for (const place of query.right) {
    for (const medium of data.candidates[query.task][place].media) if (medium.id) return pictures[medium.id];
  }
  return null;
}

function listItem({ query, kind }) {
  const [first, second] = chosen();
  const item = element("li");
  item.id = `q-${query.id}`;
  const row = element("button", "row");
  row.type = "button";
  row.setAttribute("aria-expanded", "false");
  row.append(element("span", `badge ${kind}`, OUTCOMES[kind]));
  const source = firstPicture(query);
  if (source) {
    const picture = element("img", "thumb");
    picture.src = source;
    picture.alt = "";
    picture.loading = "lazy";
    row.append(picture);
  } else row.append(element("span"));
  const about = element("span", "about");
  about.append(element("b", "", `${query.task} ${query.row}`), element("span", "", words(query.text) || "(no text)"));
  row.append(about);
  const ranks = element("span", "ranks");
  for (const key of first === second || second === null ? [first] : [first, second]) {
    ranks.append(element("div", "", rankText(query.columns[key], columns.get(key).label)));
  }
  row.append(ranks);
  row.addEventListener("click", () => toggle(item, query));
  item.append(row);
  return item;
}

function toggle(item, query, open) {
  const row = item.querySelector(".row");
  const isOpen = row.getAttribute("aria-expanded") === "true";
  if (open === isOpen) return;
  row.setAttribute("aria-expanded", String(!isOpen));
  if (isOpen) {
    item.querySelector(".detail").remove();
  } else {
    item.append(detail(query));
    history.replaceState(null, "", `#${item.id}`);
  }
}

function detail(query) {
  const [first, second] = chosen();
  const keys = first === second || second === null ? [first] : [first, second];
  const box = element("div", "detail");
  box.append(element("p", "why", keys.map((key) => reason(query, key)).join(" ")));
  const left = element("div");
  left.append(element("h3", "", "Query"), media(query.media), element("p", "text", (query.text || "").trim() || "(no text stored with this run)"));
  const right = element("div");
  const more = query.right_count > query.right.length ? ` (${query.right.length} of ${query.right_count})` : "";
  right.append(element("h3", "", `Right${more}`), candidateList(query, query.right));
  box.append(left, right);
  for (const key of keys) box.append(panel(query, key));
  const others = ranked.filter((column) => !keys.includes(column.key) && query.columns[column.key]);
  if (others.length) {
    const line = others.map((column) => rankText(query.columns[column.key], column.label)).join("; ");
    box.append(element("p", "why fine", `Elsewhere: ${line}.`));
  }
  return box;
}

// why this query is right or wrong, in one sentence
function reason(query, key) {
  const column = query.columns[key];
  const label = columns.get(key).label;
  if (!column) return `${label} has not answered it.`;
  const near = (value) => (value === null || value === undefined ? "" : ` at ${minus(value.toFixed(3))}`);
  const name = (place) => `\u201c${words(data.candidates[query.task][place].name).slice(0, 80)}\u201d`;
  if (column.rank === 1) return `${label} ranks a right candidate first${near(column.right_similarity)}.`;
  const where = column.rank === null ? "ranks no right candidate" : `ranks the right one ${ordinal(column.rank)} of ${column.of}${near(column.right_similarity)}`;
  const wrote = column.wrote && column.wrote.finish !== "gen_emb" ? " Its generation ended without <gen_emb>." : "";
  return `${label} ${where}, behind ${name(column.top[0])}${near(column.top_similarity[0])}.${wrote}`;
}

function ordinal(number) {
  const tail = number % 100 > 10 && number % 100 < 14 ? "th" : { 1: "st", 2: "nd", 3: "rd" }[number % 10] || "th";
  return number + tail;
}

function panel(query, key) {
  const column = query.columns[key];
  const box = element("div", `panel ${column && column.hit ? "hit" : "miss"}`);
  box.append(element("h3", "", `${columns.get(key).label}: ranked first`));
  if (!column) return box;
  box.append(candidateList(query, column.top, column.top_similarity, column.top_right));
  if (column.wrote) box.append(element("h3", "", "What it wrote about the query"), wroteText(column.wrote));
  const run = String(columns.get(key).run);
  const usesGen = columns.get(key).name === "gen" || columns.get(key).name.endsWith("-gen");
  const about = query.right.map((place) => data.candidates[query.task][place].wrote[run]).filter(Boolean);
  if (usesGen && about.length) {
    const details = element("details");
    details.append(element("summary", "", "What it wrote about the right candidate"), ...about.map(wroteText));
    box.append(details);
  }
  return box;
}

function wroteText(wrote) {
  const box = element("div", "reasoning");
  box.append(element("p", "text", wrote.reasoning || "(no reasoning)"));
  if (wrote.summary) box.append(element("p", "text summary", wrote.summary));
  if (wrote.finish !== "gen_emb") box.append(element("p", "warn", `Ended with \u201c${wrote.finish}\u201d, without <gen_emb>: its vector is a stand-in.`));
  if (wrote.tokens !== undefined) box.append(element("p", "fine", `${wrote.tokens} tokens`));
  return box;
}

// similarities and rights are given for ranked candidates, not for the list of right ones
function candidateList(query, places, similarities, rights) {
  const list = element("ol", "candidates");
  places.forEach((place, number) => {
    const candidate = data.candidates[query.task][place];
    const isRight = rights && rights[number];
    const item = element("li", isRight ? "right" : "");
    const line = element("div", "text");
    const similarity = similarities && similarities[number];
    if (similarity !== undefined && similarity !== null) line.append(element("span", "fine", minus(similarity.toFixed(3)) + "  "));
    if (isRight) line.append(element("span", "mark", "\u2713 "));
    line.append(candidate.name);
    item.append(line);
    if (candidate.media.length) item.append(media(candidate.media));
    else if (candidate.text && candidate.text.trim() !== candidate.name.trim()) item.append(element("p", "text fine", candidate.text));
    list.append(item);
  });
  return list;
}

function media(items) {
  const box = element("div", "media");
  for (const medium of items) {
    if (!medium.id) {
      box.append(element("span", "fine", `(${medium.kind === "video" ? "video" : "picture"} not in this page)`));
      continue;
    }
    const picture = element("img");
    picture.src = pictures[medium.id];
    picture.alt = medium.kind === "video" ? `sheet of frames, ${medium.frames} in the video` : "picture";
    picture.loading = "lazy";
    box.append(picture);
  }
  return box;
}

function onKey(event) {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && !typing) {
    event.preventDefault();
    byId("search").focus();
  } else if (event.key === "Escape") {
    if (typing) document.activeElement.blur();
    for (const row of document.querySelectorAll('#list .row[aria-expanded="true"]')) row.click();
  } else if (!typing && (event.key === "j" || event.key === "k")) {
    const rows = [...document.querySelectorAll("#list .row")];
    const inside = document.activeElement.closest("#list > li");
    const now = inside ? rows.indexOf(inside.querySelector(".row")) : -1;
    const next = rows[Math.min(rows.length - 1, Math.max(0, now + (event.key === "j" ? 1 : -1)))];
    if (next) {
      next.focus();
      next.scrollIntoView({ block: "nearest" });
    }
  }
}

function openFromAddress() {
  const match = /^#q-(\d+)$/.exec(location.hash);
  if (!match) return;
  const place = listed.findIndex((one) => one.query === data.queries[Number(match[1])]);
  if (place < 0) return;
  if (place >= shown) {
    shown = place + 1;
    showList();
  }
  const item = byId(`q-${match[1]}`);
  toggle(item, listed[place].query, true);
  item.scrollIntoView({ block: "start" });
}
