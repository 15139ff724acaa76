"""Weights over HTTP from a local server that misbehaves in every way we have a sentence for."""

import hashlib
import io
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from sqlalchemy import Row

from ops import download, fetch
from ops.catalogue import APPLICATIONS, Entry, Source
from ops.download import pull
from ops.fetch import FetchError, Interrupted
from ops.install import Labels, NotAModel
from ops.lease import Busy
from shared import models
from shared.database import Database
from shared.errors import ProblemError, ServiceError
from shared.migrations import upgrade
from shared.models import ModelSpec
from shared.storage.local import LocalStorage
from tests.mirror import Mirror, mirror
from tests.services import free_port, wait_until


def weights(seed: int) -> bytes:
    """A file of 2 MiB that looks like weights of Keras."""
    file = io.BytesIO()
    with h5py.File(file, "w") as content:
        numbers = np.random.default_rng(seed).integers(0, 256, 2**21, np.uint8)
        content.create_group("layers").create_dataset("numbers", data=numbers)
    return file.getvalue()


CONTENT, OTHER = weights(1), weights(2)


@pytest.fixture
def server() -> Iterator[Mirror]:
    with mirror(CONTENT) as running:
        yield running


class Place:
    """A database, a storage and a directory for downloads."""

    def __init__(self, directory: Path, entry: Entry) -> None:
        self.entry = entry
        self.database = Database(f"sqlite:///{directory / 'classifier.db'}")
        upgrade(self.database)
        self.storage = LocalStorage(directory / "objects")
        self.downloads = directory / "downloads"
        self.partial = self.downloads / "small.part"
        self.mark = self.downloads / "small.mark"
        self.database.transact(lambda connection: models.register(connection, "small"))

    def pull(self, url: str, **options: object) -> str:
        return pull(
            self.database,
            self.storage,
            self.entry,
            url,
            self.downloads,
            **options,  # type: ignore[arg-type]
        )

    def begin(self, content: bytes, of: bytes = CONTENT) -> None:
        """Leave what an earlier download leaves: these bytes, of that file."""
        self.downloads.mkdir(exist_ok=True)
        self.partial.write_bytes(content)
        self.mark.write_text(f'"{hashlib.sha1(of).hexdigest()}"')

    def row(self) -> Row[tuple[object, ...]]:
        with self.database.read() as connection:
            return models.states(connection)[0]

    def accepts(self) -> bool:
        with self.database.read() as connection:
            try:
                models.resolve(connection, "small")
            except ProblemError as problem:
                assert problem.code == "model_unavailable"
                return False
        return True


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    labels = tmp_path / "labels.tsv"
    labels.write_text("n01\ttench\nn02\tgoldfish\n")
    md5 = hashlib.md5(CONTENT).hexdigest()
    source = Source("small/weights.h5", md5)
    entry = Entry("small", APPLICATIONS["vgg16"], 224, 224, labels, source=source)
    place = Place(tmp_path, entry)
    yield place
    place.database.close()


def test_good_file_is_installed_and_current(place: Place, server: Mirror) -> None:
    told: list[tuple[int, int | None]] = []
    version = place.pull(server.url, progress=lambda done, total: told.append((done, total)))
    row = place.row()
    assert row.current_version is not None
    assert (row.downloading, row.download_error) in ((None, None), (False, None))
    with place.database.read() as connection:
        installed = models.load_version(connection, row.current_version)
    assert installed.version == version
    assert installed.labels == (("n01", "tench"), ("n02", "goldfish"))
    assert installed.spec.sha256 == hashlib.sha256(CONTENT).hexdigest()
    assert installed.spec.source == "small/weights.h5"
    assert place.storage.read(f"models/{version}/weights.weights.h5") == CONTENT
    assert told[0] == (0, len(CONTENT))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert list(place.downloads.iterdir()) == []


def test_wrong_checksum_is_refused_and_deleted(place: Place, server: Mirror) -> None:
    place.pull(server.url)
    good = place.row().current_version
    server.content = OTHER
    with pytest.raises(FetchError, match=r"is not weights\.h5: its MD5 is .* were deleted"):
        place.pull(server.url)
    assert place.row().current_version == good
    assert not place.partial.exists()


def test_short_body_is_refused(place: Place, server: Mirror) -> None:
    """The server says, and sends, less than the whole file."""
    server.content = CONTENT[:1000]
    with pytest.raises(FetchError, match=r"is not weights\.h5"):
        place.pull(server.url)
    assert not place.partial.exists()
    assert not place.accepts()
    assert "MD5" in str(place.row().download_error)


def test_not_found(place: Place, server: Mirror) -> None:
    server.status = 404
    with pytest.raises(FetchError, match=r"127\.0\.0\.1 answered 404 Not Found for http"):
        place.pull(server.url)
    assert place.row().download_error.startswith("127.0.0.1 answered 404 Not Found")
    assert not place.accepts()


def test_refused_connection(place: Place) -> None:
    with pytest.raises(
        FetchError, match=r"127\.0\.0\.1 could not be reached \(connection refused\)"
    ):
        place.pull(f"http://127.0.0.1:{free_port()}")
    assert place.row().download_error == ("127.0.0.1 could not be reached (connection refused).")
    assert not place.accepts()


def test_name_that_cannot_be_resolved(place: Place) -> None:
    with pytest.raises(FetchError, match=r"no-such-host\.invalid could not be reached \(name"):
        place.pull("https://no-such-host.invalid/x")


def test_hanging_name_lookup_is_given_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(fetch, "_REACH_SECONDS", 0.2)

    def hang(*_: object, **__: object) -> None:
        ended.wait(20)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    started = time.monotonic()
    with pytest.raises(FetchError, match=r"could not be reached \(no answer\)"):
        place.pull("https://weights.example")
    assert time.monotonic() - started < 2
    ended.set()
    for thread in threading.enumerate():
        if thread.name == "reach":
            thread.join()


def test_real_limit_is_below_ten_seconds() -> None:
    assert fetch._REACH_SECONDS < 10


def test_unreachable_proxy_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(FetchError, match=r"the proxy 127\.0\.0\.1 could not be reached"):
        place.pull("http://weights.example")


def test_break_is_resumed_within_one_pull(place: Place, server: Mirror) -> None:
    server.break_after = [700_000]
    place.pull(server.url)
    assert server.seen[0] is None
    assert server.seen[1] is not None
    assert server.seen[1].startswith("bytes=")
    assert place.row().current_version is not None


def test_next_pull_goes_on_from_where_the_last_broke(place: Place, server: Mirror) -> None:
    place.begin(CONTENT[:1_000_000])
    place.pull(server.url)
    assert server.seen == ["bytes=1000000-"]
    assert place.row().current_version is not None


@pytest.mark.parametrize("ranges", [True, False])
def test_useless_partial_file_is_begun_anew(place: Place, server: Mirror, ranges: bool) -> None:
    server.ranges = ranges
    place.begin(b"x" * (len(CONTENT) + 5))
    place.pull(server.url)
    assert place.row().current_version is not None


def test_a_beginning_of_another_file_is_begun_anew(place: Place, server: Mirror) -> None:
    """Two halves of different files would make a whole that nobody has seen."""
    place.begin(OTHER[:1_000_000], of=OTHER)
    place.pull(server.url)
    assert server.seen == ["bytes=1000000-"]
    assert place.row().current_version is not None


def test_a_beginning_of_nobody_knows_what_is_begun_anew(place: Place, server: Mirror) -> None:
    server.etag = False
    server.break_after = [700_000]
    place.pull(server.url)
    assert server.seen == [None, None]
    assert place.row().current_version is not None


def test_a_file_that_was_complete_is_not_fetched_again(place: Place, server: Mirror) -> None:
    """As after a kill between the last byte and the installation."""
    place.begin(CONTENT)
    told: list[tuple[int, int | None]] = []
    place.pull(server.url, progress=lambda done, total: told.append((done, total)))
    assert server.seen == [f"bytes={len(CONTENT)}-"]
    assert told == [(len(CONTENT), len(CONTENT))]
    assert place.row().current_version is not None
    assert list(place.downloads.iterdir()) == []


def test_server_that_always_breaks_off(
    place: Place, server: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.begin(CONTENT[:1000])
    server.break_after = [0] * 10
    monkeypatch.setattr(threading.Event, "wait", lambda *_: False)
    with pytest.raises(FetchError, match="broke the connection 3 times"):
        place.pull(server.url)
    assert place.partial.stat().st_size == 1000


def test_jobs_are_accepted_while_it_runs_and_not_before(place: Place, server: Mirror) -> None:
    assert not place.accepts()
    server.hold = threading.Event()
    first = threading.Thread(target=place.pull, args=(server.url,))
    first.start()
    wait_until(place.accepts, seconds=10, what="a download that jobs can wait for")
    wait_until(
        lambda: 0 < (place.row().download_bytes or 0) < len(CONTENT), seconds=10, what="progress"
    )
    assert place.row().download_total_bytes == len(CONTENT)
    with pytest.raises(Busy):
        place.pull(server.url)
    # Another host has a directory of its own, but the same row.
    place.downloads = place.downloads.with_name("elsewhere")
    with pytest.raises(Busy):
        place.pull(server.url)
    assert place.row().downloading
    server.hold.set()
    first.join()
    assert place.row().current_version is not None


def test_interrupted_download_can_be_taken_up(place: Place, server: Mirror) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Interrupted):
        place.pull(server.url, stop=stop)
    row = place.row()
    assert not row.downloading
    assert row.download_error is None
    assert place.partial.stat().st_size > 0
    place.pull(server.url)
    assert server.seen[1] is not None


def test_cache_of_keras_is_used_when_its_sum_is_right(place: Place, server: Mirror) -> None:
    cache = Path.home() / ".keras" / "models"
    cache.mkdir(parents=True)
    (cache / "weights.h5").write_bytes(CONTENT)
    version = place.pull(server.url)
    assert server.seen == []
    assert place.storage.read(f"models/{version}/weights.weights.h5") == CONTENT


def test_damaged_cache_of_keras_is_passed_over(place: Place, server: Mirror) -> None:
    cache = Path.home() / ".keras" / "models"
    cache.mkdir(parents=True)
    (cache / "weights.h5").write_bytes(CONTENT[:-1])
    place.pull(server.url)
    assert server.seen == [None]


def test_full_disk_is_noticed_before(
    place: Place, server: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = download.shutil.disk_usage(place.downloads.parent)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    with pytest.raises(FetchError, match=r"4\.0 MiB are needed in .*, and 1\.0 MiB are free"):
        place.pull(server.url)
    assert not place.accepts()


def test_same_content_is_the_same_version_everywhere(place: Place, server: Mirror) -> None:
    first = place.pull(server.url)
    assert place.pull(server.url) == first
    place.entry = replace(place.entry, height=128)
    assert place.pull(server.url) != first


def test_who_was_killed_takes_up_its_own_download_at_once(place: Place, server: Mirror) -> None:
    """Its lease has not lapsed; another one's would have to."""

    def leave(connection: object) -> None:
        lease = download.Lease(place.database, "small", place.downloads, lambda *_: None)
        assert models.begin_download(connection, "small", lease.token, 60)  # type: ignore[arg-type]

    place.database.transact(leave)
    place.pull(server.url)
    assert place.row().current_version is not None


def test_a_model_that_nobody_knew_is_known_once_it_is_pulled(place: Place, server: Mirror) -> None:
    place.entry = replace(place.entry, name="another")
    place.pull(server.url)
    with place.database.read() as connection:
        assert [row.name for row in models.states(connection)] == ["another", "small"]


class Judge:
    """What stands in for loading the weights; the real thing is in the end-to-end test."""

    def __init__(self, error: ServiceError | None = None) -> None:
        self.error = error
        self.seen: list[tuple[str, list[str]]] = []

    def __call__(self, spec: ModelSpec, labels: Labels, directory: Path) -> None:
        self.seen.append((spec.sha256, [path.name for path in directory.iterdir()]))
        if self.error is not None:
            raise self.error


@pytest.fixture
def sumless(place: Place) -> Place:
    """A place whose model Keras has no sum for."""
    place.entry = replace(place.entry, source=Source("small/weights.h5"))
    return place


def test_without_a_sum_of_keras_it_is_loaded_first(sumless: Place, server: Mirror) -> None:
    judge = Judge()
    sumless.pull(server.url, check=judge)
    assert judge.seen == [(hashlib.sha256(CONTENT).hexdigest(), ["weights.weights.h5"])]


def test_what_cannot_be_loaded_is_deleted_and_replaces_nothing(
    sumless: Place, server: Mirror
) -> None:
    with pytest.raises(FetchError, match=r"sent cannot be used: too small \(2\.0 MiB came, and w"):
        sumless.pull(server.url, check=Judge(NotAModel("too small")))
    assert not sumless.partial.exists()
    assert not sumless.mark.exists()
    assert not sumless.accepts()


@pytest.mark.parametrize("content", [b"<html>Sign in</html>" * 99, CONTENT[:-1000]])
def test_a_page_and_a_short_file_are_told_without_loading_them(
    sumless: Place, server: Mirror, content: bytes
) -> None:
    server.content = content
    judge = Judge()
    with pytest.raises(FetchError, match=r"sent is (not an HDF5 weights file|damaged)"):
        sumless.pull(server.url, check=judge)
    assert judge.seen == []


def test_a_machine_that_cannot_load_it_keeps_what_came(sumless: Place, server: Mirror) -> None:
    """That says nothing about the file."""
    with pytest.raises(ServiceError, match="too little memory"):
        sumless.pull(server.url, check=Judge(ServiceError("too little memory")))
    assert sumless.partial.read_bytes() == CONTENT
    assert sumless.row().download_error == "too little memory."


def test_the_source_cannot_exchange_a_file_later(sumless: Place, server: Mirror) -> None:
    version = sumless.pull(server.url, check=Judge())
    good = sumless.row().current_version
    server.content = OTHER
    with pytest.raises(FetchError, match=r"is not what was installed from there before: its SHA"):
        sumless.pull(server.url, check=Judge())
    assert sumless.row().current_version == good
    server.content = CONTENT
    judge = Judge()
    assert sumless.pull(server.url, check=judge) == version
    assert judge.seen == []  # its sum is known now
    assert sumless.row().download_error is None


def test_a_cached_file_that_cannot_be_loaded_is_passed_over(sumless: Place, server: Mirror) -> None:
    cache = Path.home() / ".keras" / "models"
    cache.mkdir(parents=True)
    (cache / "weights.h5").write_bytes(CONTENT[:-1])
    sumless.pull(server.url, check=Judge())
    assert server.seen == [None]
    assert (cache / "weights.h5").exists()
