"""Which addresses a client may name, as a source, in a list, or for result files.

Nothing is fetched or listed here: web asks before it accepts, and the worker asks again before it
opens anything, since only there a path's links are the true ones.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit, urlunsplit

from shared.errors import ProblemError
from shared.settings import Settings, variable_of

MAX_ADDRESS = 2_000
BUCKET_SCHEMES = ("s3", "gs", "az")
_PORTS = {"http": 80, "https": 443}
# An address that ends so is one file, fetched before it is read; what is in it says which kind.
FILE_SUFFIXES = (
    *(".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".tzst"),
    *(".txt", ".csv", ".jsonl", ".ndjson"),
)
# Parsers disagree about these; in an address they belong percent-encoded.
_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\\\ud800-\udfff]")
_UNPRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")

SourceKind = Literal["directory", "bucket", "file"]


@dataclass(frozen=True)
class Address:
    """An address that may be used.

    Attributes:
        scheme: `file`, `http`, `https`, or one of `BUCKET_SCHEMES`.
        url: What was given, in the one form that is opened and compared.
        path: Of `file://`: the absolute path, without links as far as this machine knows.
        bucket: Of a bucket: its name.
        key: Of a bucket: the key, or the prefix without `/` at its ends; may be empty.
    """

    scheme: str
    url: str
    path: Path | None = None
    bucket: str = ""
    key: str = ""


@dataclass(frozen=True)
class SourceAddress:
    """An address that may be used as the source of an ingestion.

    Attributes:
        kind: `directory` and `bucket` are read where they are; a `file` (archive or list) is
            fetched first.
        url: See `Address.url`.
        address: What it leads to.
    """

    kind: SourceKind
    url: str
    address: Address


def classify_source(settings: Settings, url: str) -> SourceAddress:
    """What kind of source this address names.

    By the address alone: `/` at the end says directory or prefix, a suffix of `FILE_SUFFIXES` a
    file, and what comes by HTTP is always one.

    Raises:
        ProblemError: `invalid_value`, `unsupported_source`, or `source_refused`.
    """
    address = check_address(settings, url)
    if address.scheme in _PORTS:
        return SourceAddress("file", address.url, address)
    last = address.key if address.path is None else address.path.name
    if last.lower().endswith(FILE_SUFFIXES) and not url.endswith("/"):
        return SourceAddress("file", address.url, address)
    return SourceAddress(
        "bucket" if address.path is None else "directory", address.url.rstrip("/"), address
    )


def check_address(settings: Settings, url: str) -> Address:
    """The address, if the operator allows that it is read.

    Raises:
        ProblemError: `invalid_value`, `unsupported_source`, or `source_refused`.
    """
    parts = _split(url)
    if parts.scheme in _PORTS:
        return _check_host(settings.source_hosts, parts)
    if parts.scheme in BUCKET_SCHEMES:
        return _check_prefix(settings.source_prefixes, parts, "source_prefixes")
    return _check_path(settings.source_roots, parts, "source_roots")


def check_output(settings: Settings, url: str) -> Address:
    """The address, if the operator allows that result files are written below it.

    Raises:
        ProblemError: `invalid_value`, `unsupported_source`, or `source_refused`.
    """
    parts = _split(url)
    allowed = settings.output_prefixes
    if parts.scheme in BUCKET_SCHEMES:
        return _check_prefix(allowed, parts, "output_prefixes")
    if parts.scheme in _PORTS:
        raise ProblemError("unsupported_source", f"Results cannot be written to {parts.scheme}://.")
    roots = [_path_of(urlsplit(place)) for place in allowed if place.startswith("file:")]
    return _check_path(roots, parts, "output_prefixes")


def _split(url: str) -> SplitResult:
    """The parts of an address that all parsers understand alike."""
    if len(url) > MAX_ADDRESS:
        raise ProblemError("invalid_value", f"An address has at most {MAX_ADDRESS} characters.")
    scheme = url.partition(":")[0].lower()
    if "://" not in url or scheme not in {"file", *_PORTS, *BUCKET_SCHEMES}:
        raise ProblemError(
            "unsupported_source",
            "An address begins with s3://, gs://, az://, file://, http:// or https://.",
        )
    # Keys are taken as they are, also with blanks and with what would end a path elsewhere.
    if scheme in BUCKET_SCHEMES:
        bucket, _, key = url[len(scheme) + 3 :].partition("/")
        return SplitResult(scheme, bucket, key, "", "")
    if _UNSAFE.search(url):
        raise ProblemError(
            "invalid_value",
            "In an address, blanks, control characters and backslashes are percent-encoded.",
        )
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is no number
    except ValueError as error:
        raise ProblemError("invalid_value", f"This is no address: {error}.") from error
    return parts


def _check_host(allowed: Iterable[str], parts: SplitResult) -> Address:
    if "@" in parts.netloc:
        raise ProblemError("source_refused", "Addresses with a user or a password are not taken.")
    host = (parts.hostname or "").rstrip(".")
    if not host:
        raise ProblemError("invalid_value", "The address names no host.")
    shown = f"[{host}]" if ":" in host else host
    usual = _PORTS[parts.scheme]
    port = usual if parts.port is None else parts.port
    place = shown if port == usual else f"{shown}:{port}"
    if {place, f"{shown}:{port}"}.isdisjoint(host.lower() for host in allowed):
        raise _refused("source_hosts", place)
    return Address(
        parts.scheme, urlunsplit((parts.scheme, place, parts.path or "/", parts.query, ""))
    )


def _check_prefix(allowed: Iterable[str], parts: SplitResult, setting: str) -> Address:
    """Compared part by part, so that `photos` allows `photos/1`, and not `photos-of-others`."""
    bucket, key = parts.netloc, parts.path.strip("/")
    if not _BUCKET.fullmatch(bucket):
        raise ProblemError("invalid_value", "The address names no bucket.")
    if any(part in {"", ".", ".."} for part in key.split("/")) and key:
        raise ProblemError("invalid_value", "A key has no empty parts, and none is `.` or `..`.")
    if _UNPRINTED.search(key):
        raise ProblemError("invalid_value", "A key with control characters is not taken.")
    url = f"{parts.scheme}://{bucket}/{key}"
    if not any(f"{url}/".startswith(f"{place.rstrip('/')}/") for place in allowed):
        raise _refused(setting, url)
    return Address(parts.scheme, url, bucket=bucket, key=key)


def _check_path(roots: Iterable[Path], parts: SplitResult, setting: str) -> Address:
    path = _path_of(parts)
    if not any(path.is_relative_to(os.path.realpath(root)) for root in roots):
        raise _refused(setting, path.as_uri())
    return Address("file", path.as_uri(), path=path)


def _path_of(parts: SplitResult) -> Path:
    """The path of a `file://` address, without links, `.` and `..`."""
    if parts.netloc not in {"", "localhost"}:
        raise ProblemError(
            "invalid_value", "A file:// address names a path of the server: file:///path."
        )
    if parts.query or parts.fragment:
        raise ProblemError("invalid_value", "In a file:// address, ? and # are percent-encoded.")
    raw = unquote_to_bytes(parts.path)
    if not raw.startswith(b"/") or b"\x00" in raw:
        raise ProblemError("invalid_value", "A file:// address has an absolute path.")
    return Path(os.path.realpath(os.fsdecode(raw)))


def _refused(setting: str, what: str) -> ProblemError:
    return ProblemError(
        "source_refused", f"{variable_of(setting)} does not allow {what}; the operator sets it."
    )
