"""The one place that chooses a source, by an ingestion's kind."""

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shared.database import Database, new_id
from shared.errors import ObjectMissing, Unavailable
from shared.ingestions import expansion as expanding
from shared.ingestions.expansion import Expansion
from shared.settings import Settings
from shared.storage.protocol import Storage
from worker.sources.archives import is_archive, open_archive
from worker.sources.bucket import BucketSource
from worker.sources.copying import copy_file
from worker.sources.directory import DirectorySource
from worker.sources.limits import Limits
from worker.sources.lists import ListSource
from worker.sources.protocol import Refetching, Source, SourceEnded


def open_source(
    database: Database, storage: Storage, settings: Settings, expansion: Expansion
) -> Source:
    """The source of an ingestion; a file that an address names is brought into the storage first.

    Raises:
        SourceEnded: There is no such source.
        Unavailable: It cannot be had right now.
        Lost: The claim has ended.
    """
    row = expansion.row
    if (in_place := _in_place(settings, row)) is not None:
        return in_place
    path = _file(database, storage, settings, expansion)
    # By content: an address does not tell what it leads to. An archive that is none says so.
    if row.source_kind == "archive" or is_archive(path):
        return open_archive(path, Limits.of(settings))
    return ListSource(settings, path, _place(row))


def open_again(settings: Settings, expansion: Expansion) -> Refetching:
    """The source of which single entries are to be had again."""
    row = expansion.row
    return _in_place(settings, row) or ListSource(settings, None, _place(row))


def forget_file(storage: Storage, settings: Settings, expansion: Expansion) -> None:
    """Remove the file of a source that was read to its end, here and in the storage."""
    prefix = _prefix(expansion)
    storage.delete(*(found.name for found in storage.list(prefix)))
    shutil.rmtree(_cache(settings, expansion), ignore_errors=True)


def _in_place(settings: Settings, row: Any) -> DirectorySource | BucketSource | None:
    """A source that is read where it is; None of a file."""
    if row.source_kind == "directory":
        return DirectorySource(settings, row.source)
    return BucketSource(settings, row.source) if row.source_kind == "bucket" else None


def _file(database: Database, storage: Storage, settings: Settings, expansion: Expansion) -> Path:
    """The file of the source, on this machine."""
    row, cache = expansion.row, _cache(settings, expansion)
    name: str | None = row.object
    if name is None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        fetched = cache.with_name(f"{cache.name}.fetched")
        copy_file(settings, row.source, fetched)
        name = f"{_prefix(expansion)}/{new_id()}"
        storage.write_file(name, fetched)
        fetched.unlink()
        expanding.set_object(database, expansion, name)
    try:
        path = storage.fetch_directory(_prefix(expansion), cache) / name.rpartition("/")[2]
    except ObjectMissing as error:
        raise SourceEnded("source_missing", "The file of the source is gone.") from error
    if not path.is_file():
        shutil.rmtree(cache, ignore_errors=True)  # of a copy that another expander has replaced
        raise Unavailable("the file of the source was exchanged meanwhile")
    return path


def _prefix(expansion: Expansion) -> str:
    return f"sources/{expansion.id}"


def _cache(settings: Settings, expansion: Expansion) -> Path:
    return settings.data_dir / "expanding" / str(expansion.id)


def _place(row: Any) -> str | None:
    """Relative lines of a list are meant from where the list itself lies."""
    if row.source is None or "://" not in row.source:
        return None
    url = urlsplit(row.source)
    return f"{url.scheme}://{url.netloc}{url.path.rpartition('/')[0]}/"
