"""From a source and its options to a committed ingestion, for the API and the pages alike."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from shared.database import new_id
from shared.errors import ProblemError
from shared.ingestions import intake
from shared.ingestions.intake import IngestionOptions, NewSource
from shared.models import resolve
from web.services import services
from web.spooling import SpooledForm
from web.submission import current_caller
from web.values import invalid

# https://en.wikipedia.org/wiki/List_of_file_signatures: zip (also an empty one), gzip, Zstandard;
# a tar says what it is after the name of its first entry.
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
_TAR, _TAR_AT = b"ustar", 257
_HEAD_BYTES = 4096
_NAME_CHARACTERS = 255


@dataclass(frozen=True)
class Given:
    """Where an ingestion's images are to come from.

    Attributes:
        kind: Of `shared.tables.SOURCE_KINDS`.
        name: Its address, or the name of the uploaded file.
        path: Where that file lies, if one was uploaded.
    """

    kind: str
    name: str
    path: Path | None = None


def accept(given: Given, options: IngestionOptions, *, idempotency_key: str | None = None) -> UUID:
    """Accept an ingestion and ring for it; when this returns, it is committed.

    Raises:
        ProblemError: The model is unknown or not installed, or the Idempotency-Key stands for
            another request or a deleted ingestion.
        Unavailable: Database or storage is away; nothing was accepted.
    """
    if not options.model.isprintable():  # PostgreSQL cannot even be asked for a name with NUL
        raise ProblemError("model_unknown", f"There is no model {options.model!r}.")
    own, caller = services(), current_caller(idempotency_key)
    content = _content(given) if idempotency_key is not None else ""
    with own.database.read() as connection:
        if idempotency_key is not None:
            # Before the model is looked at: a replay gets what it made whatever became of that.
            known = intake.replayed(connection, caller, content, options)
            if known is not None:
                return known
        target = resolve(connection, options.model)
    new, stored = new_id(), None
    if given.path is not None:
        stored = f"sources/{new}/{new_id()}"
        own.storage.write_file(stored, given.path)
    accepted = intake.submit(
        own.database,
        NewSource(given.kind, given.name, stored),
        options,
        target,
        caller,
        ingestion_id=new,
        content=content,
        part_rows=own.settings.output_part_rows,
    )
    own.bell.ring_expander()
    return accepted


def _content(given: Given) -> str:
    """What an Idempotency-Key stands for: the SHA-256 of what was uploaded, or the address."""
    if given.path is None:
        return given.name
    with given.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def source_of(form: SpooledForm) -> Given:
    """The archive or list of a form, or its images as an archive; named for people.

    Raises:
        ProblemError: `invalid_value`: it has neither or both. `unsupported_source`.
    """
    if form.archive is not None:
        if form.images:
            raise invalid("archive", "either an archive or list is taken, or images")
        name, path = form.archive
        return Given(_kind(path), _clean(name) or "archive", path)
    if not form.images:
        raise invalid("archive", "an archive, a list or images are needed")
    return Given("archive", _folder(form.images), form.pack.path)


def _kind(path: Path) -> str:
    """By its content, whatever its name is."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(_ARCHIVES) or head[_TAR_AT:].startswith(_TAR):
        return "archive"
    if not head or b"\0" in head:
        raise ProblemError(
            "unsupported_source",
            "This is neither an archive (zip, tar, tar.gz, tar.zst) nor a list as text, CSV or "
            "JSONL.",
        )
    return "list"


def _folder(names: list[str]) -> str:
    """The folder that all of them are in, if there is one; and how many they are."""
    count = f"{len(names):,} {'image' if len(names) == 1 else 'images'}"
    tops = {name.partition("/")[0] for name in names if "/" in name}
    alike = len(tops) == 1 and all("/" in name for name in names)
    return f"{_clean(tops.pop())} ({count})" if alike else count


def _clean(name: str) -> str:
    return "".join(c for c in name if c.isprintable())[-_NAME_CHARACTERS:].strip()
