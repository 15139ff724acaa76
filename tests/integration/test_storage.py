"""What every storage does, in a directory and in a bucket: whole or not at all, missing or there.

How each of them fails is in `test_storage_local.py` and `test_storage_s3.py`.
"""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from shared.database import utc_now
from shared.errors import ObjectMissing, Unavailable
from shared.settings import Settings
from shared.storage.opening import open_storage
from shared.storage.protocol import Storage
from tests.integration.helpers import in_threads
from tests.services import S3Server

NAME = "images/abc/1"
LARGE = 20 * 2**20  # more than two parts of an upload


@pytest.fixture(params=["local", "s3"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """The settings that lead to an empty storage of each kind."""
    if request.param == "local":
        return Settings(_env_file=None, data_dir=tmp_path)
    server: S3Server = request.getfixturevalue("s3_server")
    return Settings(_env_file=None, data_dir=tmp_path, storage_url=server.url(), **server.settings)


@pytest.fixture
def storage(settings: Settings) -> Storage:
    found = open_storage(settings)
    found.begin(is_new=True)
    return found


def names(storage: Storage, prefix: str = "images") -> list[str]:
    return sorted(found.name for found in storage.list(prefix))


def test_what_is_written_can_be_read(storage: Storage) -> None:
    data = os.urandom(100_000)
    storage.write(NAME, data)
    assert storage.read(NAME) == data
    storage.write(NAME, b"other")
    assert storage.read(NAME) == b"other"
    assert names(storage) == [NAME]


def test_an_image_of_the_largest_size_goes_in_and_out(storage: Storage) -> None:
    data = os.urandom(1024) * 32 * 1024
    storage.write(NAME, data)
    assert storage.read(NAME) == data


def test_it_outlives_the_process_that_wrote(storage: Storage, settings: Settings) -> None:
    storage.write(NAME, b"data")
    assert open_storage(settings).read(NAME) == b"data"


def test_files_are_copied_in_and_fetched_as_a_directory(storage: Storage, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    data = os.urandom(LARGE)
    source.write_bytes(data)
    storage.write_file("models/1/weights", source)
    storage.write("models/1/more/labels.txt", b"labels")
    storage.write("models/11/weights", b"of another")
    assert source.read_bytes() == data
    assert storage.read("models/1/weights") == data
    directory = storage.fetch_directory("models/1", tmp_path / "cache" / "1")
    files = {str(p.relative_to(directory)): p for p in directory.rglob("*") if p.is_file()}
    assert sorted(files) == ["more/labels.txt", "weights"]
    assert files["weights"].read_bytes() == data
    assert files["more/labels.txt"].read_bytes() == b"labels"


def test_a_source_that_cannot_be_read_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        storage.write_file(NAME, tmp_path / "not there")
    assert names(storage) == []


def test_a_missing_object_is_missing(storage: Storage, tmp_path: Path) -> None:
    storage.write("images/abc/11", b"other")
    with pytest.raises(ObjectMissing):
        storage.read(NAME)
    with pytest.raises(ObjectMissing):
        storage.fetch_directory("models/1", tmp_path / "cache")


def test_a_storage_that_takes_writes_passes_its_check(storage: Storage) -> None:
    storage.check()
    storage.check()
    assert names(storage) == []


def test_objects_are_deleted_by_one_or_by_many_and_twice_is_no_error(storage: Storage) -> None:
    others = [f"images/{letter}/{number}" for letter in "bc" for number in range(3)]
    for name in (NAME, *others):
        storage.write(name, b"data")
    storage.delete(NAME)
    storage.delete(NAME)
    assert names(storage) == others
    storage.delete(*others[:4], NAME)
    assert names(storage) == others[4:]
    storage.delete()
    assert names(storage) == others[4:]


def test_the_list_has_what_lies_below_the_prefix(storage: Storage) -> None:
    for name in ("images/a/1", "images/a/2", "images/ab/1", "models/1/weights"):
        storage.write(name, b"data")
    assert names(storage) == ["images/a/1", "images/a/2", "images/ab/1"]
    assert names(storage, "images/a") == ["images/a/1", "images/a/2"]
    assert names(storage, "nothing") == []
    [first, *_] = storage.list("images")
    assert utc_now() - timedelta(minutes=1) < first.modified_at < utc_now() + timedelta(minutes=1)


def test_threads_that_write_read_and_delete_do_not_disturb_each_other(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the race is about names

    def churn(number: int) -> None:
        for round_ in range(25):
            name = f"images/abc/{number}-{round_}"
            storage.write(name, name.encode())
            assert storage.read(name) == name.encode()
            storage.delete(name)

    in_threads(4, churn)
    assert names(storage) == []


def test_an_installation_whose_only_name_is_a_url_is_found_again(tmp_path: Path) -> None:
    place = tmp_path / "a b"
    settings = Settings(_env_file=None, data_dir=tmp_path, storage_url=place.as_uri())
    storage = open_storage(settings)
    storage.begin(is_new=True)
    storage.write(NAME, b"data")
    assert (place / NAME).read_bytes() == b"data"
