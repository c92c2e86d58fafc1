"""Why a medium of a request is not used."""

from __future__ import annotations


class MediaRefused(ValueError):
    """The message says what is wrong and what is wanted, without the medium's place in the request.

    code: "media_unsupported" (a kind of file or address that is not served), "media_too_large",
    "media_damaged", "media_url_refused" (an address that must not be opened) or
    "media_download_failed".
    """

    def __init__(self, reason: str, code: str):
        super().__init__(reason)
        self.code = code


def unsupported(reason: str) -> MediaRefused:
    return MediaRefused(reason, "media_unsupported")


def too_large(reason: str) -> MediaRefused:
    return MediaRefused(reason, "media_too_large")


def damaged(reason: str) -> MediaRefused:
    return MediaRefused(reason, "media_damaged")


def url_refused(reason: str) -> MediaRefused:
    return MediaRefused(reason, "media_url_refused")


def download_failed(reason: str) -> MediaRefused:
    return MediaRefused(reason, "media_download_failed")
