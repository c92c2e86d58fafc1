// Pictures and clips as they are: the server gets the very bytes of the file.

const KINDS = [
  ["image", "image/png", (b) => starts(b, [0x89, 0x50, 0x4e, 0x47])],
  ["image", "image/jpeg", (b) => starts(b, [0xff, 0xd8, 0xff])],
  ["image", "image/gif", (b) => starts(b, "GIF8")],
  ["image", "image/webp", (b) => starts(b, "RIFF") && starts(b, "WEBP", 8)],
  ["image", "image/bmp", (b) => starts(b, "BM")],
  ["image", "image/tiff", (b) => starts(b, [0x49, 0x49, 0x2a, 0]) || starts(b, [0x4d, 0x4d, 0, 0x2a])],
  ["video", "video/quicktime", (b) => starts(b, "ftypqt", 4)],
  ["video", "video/mp4", (b) => starts(b, "ftyp", 4)],
  ["video", "video/webm", (b) => matroska(b) && text(b).includes("webm")],
  ["video", "video/x-matroska", matroska],
];

// { kind: "image" | "video" | "text", url: data URI, text, name, bytes }; throws Error with a plain reason.
// A file is what its first bytes say, whatever it is called.
export async function readMedium(file) {
  const head = new Uint8Array(await file.slice(0, 64).arrayBuffer());
  if (!file.size) throw new Error(`“${file.name}” is empty.`);
  const found = KINDS.find(([, , is]) => is(head));
  if (found) {
    const [kind, type] = found;
    const url = await dataUri(new Blob([file], { type }));
    return { kind, url, name: file.name || `pasted ${kind}`, bytes: url.length, blob: file };
  }
  if (file.type.startsWith("text/") && file.size < 1 << 20) {
    return { kind: "text", text: await file.text(), name: file.name };
  }
  throw new Error(
    `“${file.name}” is not a file this page can send. It takes PNG, JPEG, WebP, GIF, BMP and TIFF ` +
      "pictures, MP4, MOV, WebM and MKV clips, and plain texts."
  );
}

// The user turn: media first, then the text, as the models were trained.
export function userTurn(media, written) {
  const parts = media.map(({ kind, url }) => ({ type: `${kind}_url`, [`${kind}_url`]: { url } }));
  if (written) parts.push({ type: "text", text: written });
  return [{ role: "user", content: parts }];
}

export function size(bytes) {
  const units = ["bytes", "KB", "MB", "GB"];
  let unit = 0;
  for (; bytes >= 1000 && unit < 3; unit += 1) bytes /= 1000;
  return `${bytes < 10 && unit ? bytes.toFixed(1) : Math.round(bytes)} ${units[unit]}`;
}

function dataUri(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file could not be read."));
    reader.readAsDataURL(blob);
  });
}

function starts(bytes, wanted, at = 0) {
  const codes = typeof wanted === "string" ? [...wanted].map((letter) => letter.charCodeAt(0)) : wanted;
  return codes.every((code, place) => bytes[at + place] === code);
}

function matroska(bytes) {
  return starts(bytes, [0x1a, 0x45, 0xdf, 0xa3]);
}

function text(bytes) {
  return String.fromCharCode(...bytes);
}
