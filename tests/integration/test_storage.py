"""The local storage: whole or not at all, missing or away, and writers beside deleters."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ObjectMissing, Unavailable
from shared.storage.local import LocalStorage, open_storage
from tests.integration.helpers import in_threads
from tests.services import ROOT

NAME = "images/abc/1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "objects"


@pytest.fixture
def storage(root: Path) -> LocalStorage:
    return LocalStorage(root)


def names(storage: LocalStorage, prefix: str = "images") -> list[str]:
    return sorted(found.name for found in storage.list(prefix))


def test_what_is_written_can_be_read(storage: LocalStorage) -> None:
    data = os.urandom(100_000)
    storage.write(NAME, data)
    assert storage.read(NAME) == data
    storage.write(NAME, b"other")
    assert storage.read(NAME) == b"other"
    assert names(storage) == [NAME]


def test_a_file_is_copied_in(storage: LocalStorage, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    source.write_bytes(b"weights")
    storage.write_file("models/1/weights", source)
    assert source.read_bytes() == b"weights"
    assert storage.read("models/1/weights") == b"weights"
    directory = storage.fetch_directory("models/1", tmp_path / "cache")
    assert (directory / "weights").read_bytes() == b"weights"


def test_the_storage_of_a_data_directory_outlives_its_object(tmp_path: Path) -> None:
    open_storage(tmp_path).write(NAME, b"data")
    assert open_storage(tmp_path).read(NAME) == b"data"


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [None, b"before"])
def test_a_write_that_fails_leaves_all_as_it_was(
    storage: LocalStorage,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    before: bytes | None,
) -> None:
    storage.write("images/abc/other", b"other")
    if before is not None:
        storage.write(NAME, before)
    there = names(storage)

    def fail(_descriptor: int) -> None:
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(Unavailable if isinstance(failure, OSError) else KeyboardInterrupt):
            storage.write(NAME, b"after")
    assert names(storage) == there
    if before is None:
        with pytest.raises(ObjectMissing):
            storage.read(NAME)
    else:
        assert storage.read(NAME) == before


def test_a_source_that_cannot_be_read_leaves_nothing(storage: LocalStorage, tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        storage.write_file(NAME, tmp_path / "not there")
    assert names(storage) == []


_DIE_WRITING = """
import os, signal, sys
from pathlib import Path
from shared.storage.local import LocalStorage
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
LocalStorage(Path(sys.argv[1])).write(sys.argv[2], b"data" * 100000)
"""


def test_a_writer_that_is_killed_leaves_no_object(storage: LocalStorage, root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _DIE_WRITING, str(root), NAME], cwd=ROOT, check=False
    )
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(ObjectMissing):
        storage.read(NAME)
    # What it left has another name, is listed, and so can be swept.
    leftovers = names(storage)
    assert NAME not in leftovers
    for leftover in leftovers:
        storage.delete(leftover)
    assert names(storage) == []


def test_a_missing_object_is_missing(storage: LocalStorage) -> None:
    storage.write("images/other/1", b"other")
    with pytest.raises(ObjectMissing):
        storage.read(NAME)
    with pytest.raises(ObjectMissing):
        storage.fetch_directory("models/1", Path("cache"))


def test_a_root_that_is_gone_is_no_missing_object(storage: LocalStorage, root: Path) -> None:
    storage.write(NAME, b"data")
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(Unavailable):
        storage.read(NAME)
    with pytest.raises(Unavailable):
        storage.fetch_directory("models/1", Path("cache"))


def test_a_root_that_cannot_be_written_is_unavailable(root: Path) -> None:
    root.write_bytes(b"a file in its place")
    storage = LocalStorage(root)
    for use in (lambda: storage.write(NAME, b"data"), storage.check, lambda: storage.read(NAME)):
        with pytest.raises(Unavailable):
            use()


def test_a_storage_that_takes_writes_passes_its_check(storage: LocalStorage) -> None:
    storage.check()
    storage.check()
    assert names(storage) == []


def test_deleting_twice_is_no_error_and_leaves_no_directory(
    storage: LocalStorage, root: Path
) -> None:
    storage.write(NAME, b"data")
    storage.write("images/abc/2", b"second")
    storage.delete(NAME)
    storage.delete(NAME)
    assert names(storage) == ["images/abc/2"]
    storage.delete("images/abc/2")
    assert list(root.glob("images/*")) == []


def test_the_list_has_what_lies_below_the_prefix(storage: LocalStorage) -> None:
    for name in ("images/a/1", "images/a/2", "images/b/1", "models/1/weights"):
        storage.write(name, b"data")
    assert names(storage) == ["images/a/1", "images/a/2", "images/b/1"]
    assert names(storage, "images/a") == ["images/a/1", "images/a/2"]
    assert names(storage, "nothing") == []
    times = [found.modified_at for found in storage.list("images")]
    assert all(time.tzinfo is not None for time in times)


def test_writers_and_deleters_of_one_image_do_not_disturb_each_other(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the race is about names

    def churn(number: int) -> None:
        for round_ in range(150):
            name = f"images/abc/{number}-{round_}"
            storage.write(name, b"data")
            assert storage.read(name) == b"data"
            storage.delete(name)

    in_threads(4, churn)
    assert names(storage) == []


def test_a_directory_that_goes_away_as_it_is_found_is_made_again(
    storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.write("images/abc/old", b"old")
    make = os.mkdir
    raced: list[Any] = []

    def race(path: Any, *rest: Any) -> None:
        try:
            make(path, *rest)
        except FileExistsError:
            if not raced:  # a delete of the last object comes in right here
                raced.append(path)
                storage.delete("images/abc/old")
            raise

    monkeypatch.setattr(os, "mkdir", race)
    storage.write(NAME, b"data")
    assert raced
    assert storage.read(NAME) == b"data"
