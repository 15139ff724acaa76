"""From what a command names to an ingestion: what is sent, in which form, and that once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

from ops.client import Client
from ops.packing import found, packed
from shared.errors import ProblemError, ServiceError
from shared.ingestions.archives import archive_kind
from web.ingesting import kind_of

_PATH = "/v1/ingestions"
_PATIENCE_SECONDS = 60.0  # less than for one that is under way: nothing is lost yet
_TAR = "application/x-tar"
_MEDIA_TYPES = {
    "zip": "application/zip",
    "gzip": "application/gzip",
    "zstd": "application/zstd",
    "tar": _TAR,
}


def is_address(source: str) -> bool:
    """Whether a source is one that the service fetches by itself."""
    return "://" in source


def hand_in(
    client: Client, sources: tuple[str, ...], options: dict[str, Any], key: str | None
) -> dict[str, Any]:
    """Send the source; the ingestion.

    Args:
        client: Of the service.
        sources: One address, or paths: of an archive, a list, folders or images.
        options: Of the ingestion; `metadata` is parsed already.
        key: The Idempotency-Key: an upload that broke off is sent again, and is the same ingestion.

    Raises:
        ServiceError: A path cannot be read, or there is nothing in it.
        Refused, Away: See `Client.ask`.
    """
    headers = {"Idempotency-Key": key or str(uuid4())}
    how: dict[str, Any] = {"headers": headers, "patience_seconds": _PATIENCE_SECONDS}
    if is_address(sources[0]):
        body = {"source": sources[0], **options}
        return dict(client.json("POST", _PATH, json=body, **how))
    paths = [Path(source) for source in sources]
    for path in paths:
        if not path.exists():
            raise ServiceError(f"{path} is not there.")
    headers["Content-Type"], make = _body(paths)
    texts = {
        name: json.dumps(value) if name == "metadata" else value for name, value in options.items()
    }
    return dict(client.json("POST", _PATH, params=texts, body=make, **how))


def _body(paths: list[Path]) -> tuple[str, Callable[[], Any]]:
    """The type of what is sent, and how it is made: archives and lists as they are."""
    [first, *others] = paths
    if not others and first.is_file():
        try:
            media_type = _media_type(first)
        except OSError as error:
            raise ServiceError(f"{first} cannot be read: {error.strerror}") from error
        if media_type is not None:
            return media_type, lambda: first.open("rb")
    if next(found(paths), None) is None:
        raise ServiceError(f"There are no files in {', '.join(map(str, paths))}.")
    return _TAR, lambda: packed(paths)


def _media_type(path: Path) -> str | None:
    """Of an archive or a list, by its content, as the service itself looks at it; else None."""
    packed_as = archive_kind(path)
    if packed_as is not None:
        return _MEDIA_TYPES[packed_as]
    try:
        kind_of(path)
    except ProblemError:
        return None
    return "text/plain"
