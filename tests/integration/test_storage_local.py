"""How a directory fails as a storage, and its writers beside its deleters."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ObjectMissing, Unavailable
from shared.storage.local import LocalStorage
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


def test_a_root_that_is_gone_is_no_missing_object(storage: LocalStorage, root: Path) -> None:
    storage.write(NAME, b"data")
    root.rename(root.with_name("elsewhere"))
    with pytest.raises(Unavailable):
        storage.read(NAME)
    with pytest.raises(Unavailable):
        storage.fetch_directory("models/1", Path("cache"))


def test_another_directory_in_its_place_is_no_empty_storage(root: Path) -> None:
    """A disk that is not mounted leaves an empty directory, and what is written there is hidden."""
    storage = LocalStorage(root, marked=True)
    storage.begin(is_new=True)
    storage.write(NAME, b"data")
    root.rename(root.with_name("elsewhere"))
    for _ in range(2):
        for use in (
            lambda: storage.write(NAME, b"data"),
            lambda: storage.read(NAME),
            lambda: storage.fetch_directory("models/1", Path("cache")),
            lambda: LocalStorage(root, marked=True).begin(is_new=False),
        ):
            with pytest.raises(Unavailable):
                use()
        root.mkdir(exist_ok=True)  # and as an empty directory
    assert list(root.iterdir()) == []
    root.rmdir()
    root.with_name("elsewhere").rename(root)
    LocalStorage(root, marked=True).begin(is_new=False)
    assert storage.read(NAME) == b"data"


def test_a_storage_from_before_the_mark_is_taken_over(root: Path) -> None:
    LocalStorage(root).write("models/1/model.keras", b"weights")
    storage = LocalStorage(root, marked=True)
    storage.begin(is_new=False)
    storage.write(NAME, b"data")


def test_a_root_that_cannot_be_written_is_unavailable(root: Path) -> None:
    root.write_bytes(b"a file in its place")
    storage = LocalStorage(root)
    for use in (lambda: storage.write(NAME, b"data"), storage.check, lambda: storage.read(NAME)):
        with pytest.raises(Unavailable):
            use()


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


def test_what_cannot_be_deleted_keeps_nothing_else(storage: LocalStorage, root: Path) -> None:
    for name in ("images/a/1", "images/c/1"):
        storage.write(name, b"data")
    (root / "images/b/1").mkdir(parents=True)  # no file: it cannot be unlinked
    with pytest.raises(Unavailable):
        storage.delete("images/a/1", "images/b/1", "images/c/1")
    assert names(storage) == []


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
