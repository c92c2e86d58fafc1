// Requests to the server and its errors.

let key = sessionStorage.getItem("umer1-key") || "";

export function setKey(value) {
  key = value;
  sessionStorage.setItem("umer1-key", value);
}

// An answer that is no answer; `message` is for people. status 0: the server was not reached.
export class Refused extends Error {
  constructor(message, status = 0, wait = null) {
    super(message);
    this.status = status;
    this.wait = wait;
  }
}

export async function getJson(path) {
  return (await request(path, {})).json();
}

export async function postJson(path, body, signal) {
  return (await request(path, { body, signal })).json();
}

// Thumbnails come as blobs: an <img> cannot send the key.
const pictures = new Map();

export function picture(path) {
  if (!pictures.has(path)) {
    const loading = request(path, {}).then((answer) => answer.blob()).then(URL.createObjectURL);
    loading.catch(() => pictures.delete(path));
    pictures.set(path, loading);
  }
  return pictures.get(path);
}

// The JSON of every event of a stream, up to [DONE]. A stream that ends without it is an error.
export async function* events(path, body, signal) {
  const answer = await request(path, { body, signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { done, value } = await read(reader);
      if (done) throw new Refused("The answer broke off before the vectors came.");
      pending += value;
      const parts = pending.split(/\r?\n\r?\n/);
      pending = parts.pop();
      for (const part of parts) {
        const data = part
          .split(/\r?\n/)
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).trimStart())
          .join("\n");
        if (data === "[DONE]") return;
        if (!data) continue;
        const event = JSON.parse(data);
        if (event.error) throw new Refused(`The server broke off: ${event.error.message}`);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The connection broke off before the vectors came.");
  }
}

async function request(path, { body, signal }) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    // relative: the server may live below a path of a proxy
    answer = await fetch(path, {
      method: body ? "POST" : "GET",
      body: body && JSON.stringify(body),
      headers,
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is it running, and is the network up?");
  }
  if (answer.ok) return answer;
  const wait = Number(answer.headers.get("Retry-After")) || null;
  throw new Refused(await explain(answer), answer.status, wait);
}

async function explain(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The server answered ${answer.status} without a reason.`;
  }
}
