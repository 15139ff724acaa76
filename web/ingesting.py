"""From a source and its options to a committed ingestion, for the API and the pages alike."""

import hashlib
from codecs import getincrementaldecoder
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from flask import Response, after_this_request
from sqlalchemy import Connection

from shared.database import new_id
from shared.errors import ProblemError
from shared.ingestions import intake, queries
from shared.ingestions.addresses import classify_source
from shared.ingestions.archives import archive_kind
from shared.ingestions.intake import IngestionOptions, NewSource
from shared.models import resolve
from shared.settings import Settings
from web.services import services
from web.spooling import SpooledForm
from web.submission import current_caller
from web.values import invalid

_ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".zst", ".tzst")
_HEAD_BYTES = 4096
_NAME_CHARACTERS = 255
_FULL_SECONDS = 30  # an ingestion takes minutes, and an upload is sent again for each try


@dataclass(frozen=True)
class Given:
    """Where an ingestion's images are to come from.

    Attributes:
        kind: Of `shared.tables.SOURCE_KINDS`.
        name: Its address, or the name of the uploaded file, if it has one.
        path: Where that file lies, if one was uploaded.
    """

    kind: str
    name: str | None
    path: Path | None = None


def accept(given: Given, options: IngestionOptions, *, idempotency_key: str | None = None) -> UUID:
    """Accept an ingestion, to ring for it afterwards; when this returns, it is committed.

    Raises:
        ProblemError: The model is unknown or not installed, the owner has too many unfinished
            ingestions, or the Idempotency-Key stands for another request or a deleted one.
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
        _check_room(connection, caller.owner, own.settings.max_ingestions_per_owner)
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

    @after_this_request
    def ring(response: Response) -> Response:
        # Once the answer is made: it shows the ingestion as it was accepted.
        own.bell.ring_expander()
        return response

    return accepted


def _check_room(connection: Connection, owner: str, most: int) -> None:
    """Refuse one more than an owner may have; several handed in at the same moment all have room.

    Raises:
        ProblemError: `too_many_ingestions`.
    """
    if most and queries.count_unfinished(connection, owner, most=most) >= most:
        raise ProblemError(
            "too_many_ingestions",
            f"At most {most:,} of your ingestions may be unfinished at a time. Try again when one "
            "has ended.",
            retry_after_seconds=_FULL_SECONDS,
        )


def _content(given: Given) -> str:
    """What an Idempotency-Key stands for: the SHA-256 of what was uploaded, or the address."""
    if given.path is None:
        return given.name or ""
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
        return Given(kind_of(path), _clean(name) or "archive", path)
    if not form.images:
        raise invalid("archive", "an archive, a list or images are needed")
    return Given("archive", _folder(form.images), form.pack.path)


def source_at(settings: Settings, url: str) -> Given:
    """What an address names. A file is looked at when it is fetched: here its kind is a guess.

    Raises:
        ProblemError: `invalid_value`, `unsupported_source`, or `source_refused`.
    """
    found = classify_source(settings, url)
    kind: str = found.kind
    if kind == "file":
        path = urlsplit(found.url).path
        kind = "archive" if path.lower().endswith(_ARCHIVE_SUFFIXES) else "list"
    return Given(kind, found.url)


def kind_of(path: Path) -> str:
    """What an uploaded file is, by its content, whatever its name is.

    Raises:
        ProblemError: `unsupported_source`.
    """
    if archive_kind(path) is not None:
        return "archive"
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not _is_text(head):
        raise ProblemError(
            "unsupported_source",
            "This is neither an archive (zip, tar, tar.gz, tar.zst) nor a list as text, CSV or "
            "JSONL.",
        )
    return "list"


def _is_text(head: bytes) -> bool:
    """Whether a list could begin so: not with a piece of HTML, and not with nothing."""
    try:
        text = getincrementaldecoder("utf-8-sig")().decode(head)  # its last character may be cut
    except UnicodeDecodeError:
        return False
    return bool(text.strip()) and "\0" not in text and not text.lstrip().startswith("<")


def _folder(names: list[str]) -> str:
    """The folder that all of them are in, if there is one; and how many they are."""
    count = f"{len(names):,} {'image' if len(names) == 1 else 'images'}"
    tops = {name.partition("/")[0] for name in names if "/" in name}
    alike = len(tops) == 1 and all("/" in name for name in names)
    return f"{_clean(tops.pop())} ({count})" if alike else count


def _clean(name: str) -> str:
    return "".join(c for c in name if c.isprintable())[-_NAME_CHARACTERS:].strip()
