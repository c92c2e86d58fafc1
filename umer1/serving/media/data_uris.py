"""`data:` URIs of requests, measured before a byte of them is decoded."""

from __future__ import annotations

import base64
import binascii

from umer1.serving.media.kinds import MEDIA_TYPES
from umer1.serving.media.refusals import damaged, too_large, unsupported

# "data:", the longest media type and ";base64" are shorter
_HEADER_CHARACTERS = 64


def read_data_uri(uri: str, kind: str, most_bytes: int) -> tuple[str, bytes]:
    """(media type as declared, the bytes) of `data:image/png;base64,…`.

    Args:
        kind: "image" or "video": which media types are wanted.
        most_bytes: of the decoded data.

    Raises MediaRefused for another form, another media type, too much data or broken base64.
    """
    header, comma, payload = uri[:_HEADER_CHARACTERS].partition(",")
    wanted = f"wants data:{kind}/…;base64, and the data"
    if not comma:
        raise unsupported(f"a data URI that does not begin as it should, {wanted}")
    media_type, *parameters = header[len("data:") :].lower().split(";")
    known = MEDIA_TYPES[kind]
    if media_type not in known:
        raise unsupported(f"the media type {media_type!r}, wants one of {', '.join(known)}")
    if parameters != ["base64"]:
        raise unsupported(f"a data URI with the parameters {parameters}, {wanted}")
    start = len(header) + 1
    size = (len(uri) - start) * 3 // 4
    if size > most_bytes + 2:
        raise too_large(f"{size} bytes of data, wants at most {most_bytes}")
    if size == 0:
        raise damaged("a data URI without data")
    try:
        return media_type, base64.b64decode(uri[start:], validate=True)
    except (binascii.Error, ValueError):
        raise damaged("a data URI with broken base64 (no spaces or line breaks, padded)") from None
