"""The page at `/`: static files that name nothing outside the server."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from fastapi import APIRouter, Request, Response

from umer1.serving.errors import ApiError

FOLDER = Path(__file__).parent.parent / "page"
TYPES = {".css": "text/css", ".js": "text/javascript"}
# scripts and styles come from this server alone; previews of chosen files and thumbnails are blobs,
# the icon is in the page
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src blob: data:",
        "media-src blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # asked again each time: a new server's page is never mixed with an old one's scripts
    "Cache-Control": "no-cache",
}


router = APIRouter(include_in_schema=False)


@router.get("/")
async def page(request: Request) -> Response:
    """The page. Like its files it holds nothing of the model or the indexes, and needs no key."""
    limit = str(request.app.state.settings.max_body_bytes)
    text = page_files()["index.html"].replace(b"{{MAX_BODY_BYTES}}", limit.encode())
    return Response(text, media_type="text/html; charset=utf-8", headers=HEADERS)


@router.get("/page/{name}")
async def page_file(name: str) -> Response:
    kind = TYPES.get(Path(name).suffix)
    if kind is None or name not in page_files():
        raise ApiError(404, f"the page has no file {name[:80]!r}", code="not_found")
    media_type = f"{kind}; charset=utf-8"
    return Response(page_files()[name], media_type=media_type, headers=HEADERS)


@cache
def page_files() -> dict[str, bytes]:
    """Name -> content of the page and every file that it may ask for."""
    return {path.name: path.read_bytes() for path in FOLDER.iterdir() if path.is_file()}
