"""The one way by which images and videos of a request come in.

    gate = MediaGate(settings)
    media = gate.request()                # counts what one request brings
    item = await media.open_item(item)    # every source that the client wrote is now checked bytes

Nothing is decoded here. What comes out are the bytes of files whose kind, outline, size and count
of frames were read from their own structure and lie within limits, so that decoding them later
costs what these limits say and no more. Paths and `file:` addresses are never looked at.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from umer1.media import EVALUATION_LIMITS, MediaLimits
from umer1.prompts import Item, Medium
from umer1.serving.errors import ApiError
from umer1.serving.media.checks import GateLimits, check_picture, check_video
from umer1.serving.media.data_uris import read_data_uri
from umer1.serving.media.refusals import MediaRefused, too_large, unsupported, url_refused
from umer1.serving.media.urls import MediaUrls
from umer1.serving.settings import ServerSettings


class MediaGate:
    """Args:
    sizes: to which the model's processor resizes media.
    urls: what opens addresses if `settings.allow_media_urls`.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        sizes: MediaLimits = EVALUATION_LIMITS,
        limits: GateLimits | None = None,
        urls: MediaUrls | None = None,
    ):
        self.settings, self.sizes, self.limits = settings, sizes, limits or GateLimits()
        self.urls = None
        if settings.allow_media_urls:
            self.urls = urls or MediaUrls(
                ports=settings.media_ports, domains=settings.media_domains
            )

    def request(self) -> RequestMedia:
        """The gate for one request, whose media are counted together."""
        return RequestMedia(self)

    async def open(self, kind: str, url: object, where: str) -> bytes:
        """The file of one medium by itself, as `Medium.source` takes it.

        Args:
            kind: "image" or "video".
            url: a data URI or, where they are allowed, an http or https address.
            where: names the medium in errors.

        Raises ApiError: status 400, the message begins with `where`.
        """
        return (await self.request().open_medium(Medium(kind, url, where))).source


class RequestMedia:
    """The media of one request."""

    def __init__(self, gate: MediaGate):
        self._gate = gate
        self._count = self._bytes = 0

    async def open_item(self, item: Item) -> Item:
        """The item with the bytes of files in place of what the client wrote. ApiError 400."""
        opened, tokens, most = {}, 0, self._gate.settings.max_prompt_tokens
        for medium in item.media:
            opened[id(medium)], more = await self._opened(medium)
            tokens += more
            # before decoding: each visual token becomes 19 kB of patches
            if tokens > most:
                raise ApiError(
                    400,
                    f"{medium.where}: with it the media of this item have {tokens} visual tokens, "
                    f"wants at most {most}: give fewer or smaller ones (max_pixels, nframes)",
                    param=medium.where,
                    code="media_too_large",
                )
        change = lambda part: opened[id(part)] if isinstance(part, Medium) else part
        return replace(
            item, media=tuple(map(change, item.media)), layout=tuple(map(change, item.layout))
        )

    async def open_medium(self, medium: Medium) -> Medium:
        """One medium with the bytes of its file, or of the files of its frames, as its source."""
        return (await self._opened(medium))[0]

    async def _opened(self, medium: Medium) -> tuple[Medium, int]:
        """The medium, and its visual tokens at most."""
        if medium.kind == "image" or not isinstance(medium.source, (list, tuple)):
            data, tokens = await self._file(medium, medium.kind, medium.source, medium.where)
            return replace(medium, source=data), tokens
        frames = [
            await self._file(medium, "image", frame, f"{medium.where}, frame {place}")
            for place, frame in enumerate(medium.source)
        ]
        source = [data for data, _ in frames]
        return replace(medium, source=source), sum(tokens for _, tokens in frames)

    async def _file(self, medium: Medium, kind: str, url: object, where: str) -> tuple[bytes, int]:
        """Bytes and visual tokens of one file."""
        gate = self._gate
        check = check_picture if kind == "image" else check_video
        try:
            declared, data = await self._read(kind, url)
            return data, await asyncio.to_thread(
                check, data, declared, medium, gate.limits, gate.sizes
            )
        except MediaRefused as error:
            raise ApiError(400, f"{where}: {error}", param=where, code=error.code) from None

    async def _read(self, kind: str, url: object) -> tuple[str | None, bytes]:
        """(media type as declared, bytes)."""
        limits, urls = self._gate.limits, self._gate.urls
        self._count += 1
        if self._count > limits.request_media:
            raise too_large(f"more than {limits.request_media} media in one request")
        wanted = f"wants data:{kind}/…;base64,…" + (
            "" if urls is None else " or an http(s) address"
        )
        if not isinstance(url, str):
            raise unsupported(f"a source of type {type(url).__name__}, {wanted}")
        left = limits.request_bytes - self._bytes
        most = min(limits.image_bytes if kind == "image" else limits.video_bytes, left)
        scheme = url[:16].partition(":")[0].lower()
        if scheme == "data":
            declared, data = await asyncio.to_thread(read_data_uri, url, kind, most)
        elif scheme not in ("http", "https"):
            raise unsupported(f"a source that is no data URI, {wanted}")
        elif urls is None:
            raise url_refused(f"this server opens no addresses (--allow-media-urls), {wanted}")
        else:
            declared, data = None, await urls.read(url, kind, most)
        self._bytes += len(data)
        return declared, data
