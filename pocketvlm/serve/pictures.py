"""The pictures of a request: data: URLs, files below one directory, which no path leaves, and what was fetched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pocketvlm.errors import ChatError, ImageError, one_line
from pocketvlm.files import found, read_bounded
from pocketvlm.images.open import MAX_FILE_BYTES
from pocketvlm.serve.errors import RequestError

if TYPE_CHECKING:
    from pocketvlm.serve.schema import ChatRequest, ContentPart


def url_of(part: ContentPart) -> str | None:
    """Where a part's image is, if it has one."""
    return part.image_url if isinstance(part.image_url, str | None) else part.image_url.url


def remote_urls(request: ChatRequest) -> Iterator[tuple[str, str]]:
    """The URLs of a request that lead to other hosts, each with the parameter that it stands in."""
    for index, message in enumerate(request.messages):
        for part in message.content if isinstance(message.content, list) else ():
            if (url := url_of(part)) is not None and _scheme(url) in ("http", "https"):
                yield url, f"messages.{index}.content"


def picture_bytes(url: str, directory: Path | None, param: str, fetched: Mapping[str, bytes] | None = None) -> bytes:
    """The encoded image that ``url`` names; ``directory`` has the files that may be named, ``param`` is for errors.
    ``fetched``: what came from other hosts, by its URL.

    :raises RequestError: it is damaged, was not fetched, or is no file below ``directory``
    """
    scheme = _scheme(url)
    if scheme == "data":
        return _of_data(url, param)
    if scheme in ("", "file"):
        return _of_file(url, directory, param)
    if fetched is not None and url in fetched:
        return fetched[url]
    what = (
        f"an image at {one_line(url, 60)!r} is not fetched: send its bytes as a data: URL, or start the server with "
        "--allow-remote-images HOST"
    )
    raise RequestError(400, what, param, "unsupported_image_url")


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower() if ":" in url[:16] else ""


def _of_data(url: str, param: str) -> bytes:
    from pocketvlm.runtime.chat import content_of

    try:
        (span,) = content_of([{"type": "image_url", "image_url": url}])
    except ChatError as error:
        raise RequestError(400, str(error), param, "invalid_image") from None
    source: bytes = span.source  # type: ignore[union-attr] # of a data: URL always bytes
    return source


def _of_file(url: str, directory: Path | None, param: str) -> bytes:
    shown = one_line(url, 80)
    if directory is None:
        what = f"an image must be a data: URL, not {shown!r}: files need a server that was started with --images DIR"
        raise RequestError(400, what, param, "unsupported_image_url")
    parts = urlsplit(url) if url[:5].lower() == "file:" else None
    if parts is not None and parts.netloc not in ("", "localhost"):
        raise RequestError(400, f"{shown!r} is a file of another host", param, "unsupported_image_url")
    # One line for what is missing and for what lies outside: whether a file exists there is nobody's business.
    missing = RequestError(
        400, f"there is no image {shown!r} below the server's --images directory", param, "no_such_image"
    )
    root = directory.resolve()
    try:
        path = (root / (url if parts is None else unquote(parts.path))).resolve()
    except (OSError, RuntimeError, ValueError):  # names that no file can have, links that lead to each other
        raise missing from None
    if not path.is_relative_to(root) or not found(path.is_file):
        raise missing
    try:
        return read_bounded(path, MAX_FILE_BYTES, ImageError)
    except ImageError as error:
        raise RequestError(400, f"{shown!r}: {str(error).rpartition(': ')[2]}", param, "invalid_image") from None
