"""samples.html: one file that shows the samples of a run in any browser, without anything from outside."""

from __future__ import annotations

import base64
import html
import io
import json
from functools import lru_cache
from itertools import groupby
from pathlib import Path

STEPS_SHOWN = 20  # the newest, and the first one to compare with
THUMBNAIL_SIDE, THUMBNAIL_BYTES = 96, 12_000  # pixels; larger ones are left out
MEDIA_SHOWN = 3
SCORES = (("format", "format"), ("rank", "rank"), ("gap", "gap"), ("length", "length"), ("reward", "reward"), ("advantage", "adv."))  # fmt: skip


def write_page(run_dir: Path, stage: str) -> Path:
    """Make `<run_dir>/samples.html` from `<run_dir>/samples/<stage>/step-*.jsonl`."""
    files = sorted((run_dir / "samples" / stage).glob("step-*.jsonl"))
    shown = files[-STEPS_SHOWN:] if len(files) <= STEPS_SHOWN else [files[0], *files[1:][-STEPS_SHOWN + 1 :]]  # fmt: skip
    steps = "".join(_step(file, opened=file == shown[-1]) for file in reversed(shown))
    title = html.escape(f"{run_dir.resolve().name}: {stage} samples")
    left_out = len(files) - len(shown)
    note = (
        f"<p class=note>{left_out} earlier steps are in samples/{stage}/ alone.</p>"
        if left_out
        else ""
    )
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8>"
        f"<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<meta name=color-scheme content='light dark'><title>{title}</title><style>{STYLE}</style>"
        f"<h1>{title}</h1>{note}{steps}</html>\n"
    )
    target = run_dir / "samples.html"
    partial = target.with_suffix(".partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(target)
    return target


def _step(file: Path, opened: bool) -> str:
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    step = int(file.stem.removeprefix("step-"))
    right = sum(row["nearest_right"] for row in rows)
    summary = f"step {step} · {right} of {len(rows)} nearest to their own pair"
    if rows and "reward" in rows[0]:
        summary += f" · mean reward {sum(row['reward'] for row in rows) / len(rows):.3f}"
    key = lambda row: (row.get("process", 0), row["pair"], row["side"])
    body = "".join(_side(list(group)) for _, group in groupby(sorted(rows, key=key), key))
    return f"<details class=step{' open' if opened else ''}><summary>{summary}</summary>{body}</details>"


def _side(rows: list[dict]) -> str:
    """One side of one pair: its prompt once, then every completion."""
    first = rows[0]
    head = f"<h2>{html.escape(first['source'])} · pair {first['pair']} · {first['side']}</h2>"
    prompt = f"<pre class=prompt>{html.escape(first['prompt'])}</pre>"
    reference = first.get("reference")
    wanted = (
        f"<details><summary>the record's own response</summary><pre>{html.escape(reference)}</pre></details>"
        if reference
        else ""
    )
    completions = "".join(_completion(row) for row in rows)
    return f"<section>{head}{_media(first['media'])}{prompt}{wanted}{completions}</section>"


def _completion(row: dict) -> str:
    scores = "".join(
        f"<span class=score>{label} <b>{row[key]:+.2f}</b></span>"
        if key == "advantage"
        else f"<span class=score>{label} <b>{row[key]:.2f}</b></span>"
        for key, label in SCORES
        if key in row
    )
    mark = "right" if row["nearest_right"] else "wrong"
    nearest = "no &lt;gen_emb&gt;: no vector" if row["nearest"] is None else html.escape(row["nearest"])  # fmt: skip
    return (
        f"<div class='completion {mark}'><p>{scores}<span class=score>{row['tokens']} tokens, "
        f"{html.escape(row['finish'])}</span></p><pre>{html.escape(row['completion'])}</pre>"
        f"<p class=nearest>{'✓' if mark == 'right' else '✗'} nearest: {nearest}</p></div>"
    )


def _media(paths: list[str]) -> str:
    if not paths:
        return ""
    pictures = "".join(
        f"<img alt='{html.escape(Path(path).name, quote=True)}' src='{uri}'>"
        if (uri := thumbnail(path))
        else f"<code>{html.escape(Path(path).name)}</code> "
        for path in paths[:MEDIA_SHOWN]
    )
    more = f" and {len(paths) - MEDIA_SHOWN} more" if len(paths) > MEDIA_SHOWN else ""
    return f"<p class=media>{pictures}{more}</p>"


@lru_cache(maxsize=512)
def thumbnail(path: str) -> str | None:
    """A small JPEG as a data URI; None for what is no picture, cannot be read, or stays too large."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            picture = picture.convert("RGB")
        picture.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=70)
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    if len(buffer.getvalue()) > THUMBNAIL_BYTES:
        return None
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


STYLE = """
:root{--bg:#fff;--fg:#1c2430;--soft:#f3f5f8;--line:#d5dbe3;--good:#2e7d4f;--bad:#b5523b;--dim:#5d6b7c}
@media(prefers-color-scheme:dark){:root{--bg:#14181e;--fg:#dfe5ec;--soft:#1d232b;--line:#333c47;--good:#63b985;
--bad:#e08a72;--dim:#93a1b2}}
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:1.5rem auto;
padding:0 1rem}
h1{font-size:1.3rem}h2{font-size:1rem;margin:.2rem 0}
summary{cursor:pointer;color:var(--dim)}.step>summary{font-weight:600;color:var(--fg);padding:.4rem 0}
section{border-top:1px solid var(--line);padding:.8rem 0}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0;font:13px/1.45 ui-monospace,monospace}
.prompt{background:var(--soft);padding:.5rem .7rem;border-radius:6px;max-height:14rem;overflow:auto}
.completion{border-left:3px solid var(--bad);padding:.1rem .8rem;margin:.6rem 0}.completion.right{border-color:var(--good)}
.completion p{margin:.2rem 0}.score{display:inline-block;margin-right:1rem;color:var(--dim)}
.score b{color:var(--fg);font-variant-numeric:tabular-nums}.nearest,.note{color:var(--dim)}
.media img{border-radius:4px;margin-right:.4rem;vertical-align:middle}
"""
