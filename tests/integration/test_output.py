"""Result files: the same ones at the end, whatever becomes of writer, target or rows."""

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest

from shared.database import new_id
from shared.ingestions import results, retrying, transitions
from shared.ingestions.output import Output
from shared.settings import Settings
from shared.storage.opening import open_storage
from shared.storage.protocol import Storage
from shared.sweep import Sweep
from shared.tables import ingestions, result_files
from tests.integration.bulk import Bulk
from tests.integration.helpers import ONE, SEVEN, MemoryStorage, Stage
from tests.integration.test_results import UNREADABLE
from tests.services import S3Server

TOKEN = UUID(int=1)


class KilledError(BaseException):
    """The process ends here: nothing that follows is run."""


class Fragile(MemoryStorage):
    """Kills its caller at the n-th call, before or after it was carried out."""

    def __init__(self, at: int | None = None, *, after: bool = False) -> None:
        super().__init__()
        self.calls = 0
        self._at = at
        self._after = after

    def _call(self, work: Callable[[], None]) -> None:
        self.calls += 1
        fatal = self.calls == self._at
        if fatal and not self._after:
            raise KilledError
        work()
        if fatal:
            raise KilledError

    def write(self, name: str, data: bytes) -> None:
        self._call(lambda: super(Fragile, self).write(name, data))

    def delete(self, *names: str) -> None:
        self._call(lambda: super(Fragile, self).delete(*names))


class World:
    """A writer of result files into a target that a test can look into."""

    def __init__(self, stage: Stage, directory: Path) -> None:
        self.bulk = Bulk(stage)
        self.database = stage.database
        self.settings = Settings(_env_file=None, data_dir=directory)
        self.target: MemoryStorage = MemoryStorage()

    def writer(self, token: UUID = TOKEN) -> Output:
        return Output(
            self.database, self.settings, token, open_target=lambda _, __, ___: self.target
        )

    def expand(self, *contents: str | None, rows: int = 2, **values: Any) -> UUID:
        return self.bulk.expand(
            *contents, output="s3://bucket/results", output_part_rows=rows, **values
        )

    def again(self, ingestion: UUID, target: MemoryStorage) -> None:
        """As if nothing had been written yet."""
        self.target = target
        self.arrange(ingestion, output_parts=0, written_at=None)

    def arrange(self, ingestion: UUID, **values: Any) -> None:
        self.bulk.stage.change(ingestions, where=ingestions.c.id == ingestion, **values)

    def later(self, ingestion: UUID) -> None:
        """Every pause and every lease is over."""
        self.arrange(ingestion, output_lease_until=datetime(2020, 1, 1, tzinfo=UTC))

    def lines(self, ingestion: UUID) -> list[Any]:
        pages = results.pages(self.database, ingestion, embeds=False)
        return [line for page in pages for line in page]

    def parts(self) -> dict[str, bytes]:
        return {name: data for name, data in self.target.objects.items() if name.startswith("part")}

    @property
    def manifest(self) -> Any:
        return json.loads(self.target.objects["manifest.json"])

    def written_lines(self) -> list[Any]:
        return [
            json.loads(line)
            for name, data in sorted(self.parts().items())
            if name.endswith(".jsonl")
            for line in data.decode().splitlines()
        ]


@pytest.fixture
def world(stage: Stage, tmp_path: Path) -> World:
    return World(stage, tmp_path / "data")


def test_parts_are_written_as_they_fill_and_the_manifest_last(world: World, tmp_path: Path) -> None:
    ingestion = world.expand("a", None, "b", "c", "d")
    world.writer().step()
    assert world.target.objects == {}
    world.bulk.work(SEVEN)
    world.writer().step()
    assert sorted(world.target.objects) == ["part-00000.jsonl", "part-00000.parquet"]
    assert world.bulk.row(ingestion).output_parts == 1
    world.bulk.work(ONE, UNREADABLE, SEVEN)
    world.writer().step()
    assert len(world.parts()) == 4  # the last one may still grow
    world.bulk.close(ingestion)
    world.writer().step()
    row = world.bulk.row(ingestion)
    assert (row.output_parts, row.output_error, row.output_token) == (3, None, None)
    assert row.written_at is not None
    assert world.written_lines() == world.lines(ingestion)
    assert len(world.written_lines()) == 5

    manifest = world.manifest
    assert (manifest["model"], manifest["status"]) == ("digits", "partially_succeeded")
    assert manifest["counts"] == {
        "total": 5, "succeeded": 3, "failed": 2, "canceled": 0, "expired": 0, "not_images": 1,
    }  # fmt: skip
    for part in manifest["parts"]:
        data = world.target.objects[part["name"]]
        assert part["sha256"] == hashlib.sha256(data).hexdigest()
        assert part["size_bytes"] == len(data)
    assert [part["rows"] for part in manifest["parts"]] == [2, 2, 2, 2, 1, 1]

    path = tmp_path / "part.parquet"
    path.write_bytes(world.target.objects["part-00000.parquet"])
    assert pq.read_table(path).column("label").to_pylist() == ["7", None]
    assert list((world.settings.data_dir / "result-files").iterdir()) == []


def test_killed_between_any_two_steps_the_files_are_the_same(world: World) -> None:
    ingestion = world.expand("a", None, "b", "a", "c")
    world.bulk.work(SEVEN, UNREADABLE, SEVEN, ONE)
    world.bulk.close(ingestion)
    undisturbed = Fragile()
    world.target = undisturbed
    world.writer().step()
    files = world.parts()
    assert undisturbed.calls == 8  # three parts of two files, the manifest, and one taken away
    for call in range(1, undisturbed.calls + 1):
        for after in (False, True):
            world.again(ingestion, Fragile(call, after=after))
            with pytest.raises(KilledError):
                world.writer().step()
            assert world.bulk.row(ingestion).output_token == TOKEN
            world.writer(new_id()).step()  # the lease holds
            assert world.bulk.row(ingestion).written_at is None
            world.writer().step()  # its successor goes on at once
            assert world.bulk.row(ingestion).written_at is not None
            assert world.parts() == files
            assert len(world.manifest["parts"]) == 6


def test_after_a_lapsed_lease_another_goes_on(world: World) -> None:
    ingestion = world.expand("a", "b", "c")
    world.bulk.work(SEVEN, SEVEN, SEVEN)
    world.bulk.close(ingestion)
    world.target = Fragile(3)
    with pytest.raises(KilledError):
        world.writer().step()
    world.later(ingestion)
    world.writer(new_id()).step()
    assert world.written_lines() == world.lines(ingestion)
    assert len(world.manifest["parts"]) == 4


def test_a_target_that_is_away_is_told_and_tried_again(world: World) -> None:
    ingestion = world.expand("a", "b")
    other = world.expand("c", "d")
    world.bulk.work(SEVEN, SEVEN, SEVEN, SEVEN)
    world.bulk.close(ingestion)
    world.target.away = True
    writer = world.writer()
    writer.step()
    for each in (ingestion, other):
        row = world.bulk.row(each)
        assert (row.output_error, row.output_token) == ("the storage is away", None)
    pauses = [world.bulk.row(ingestion).output_lease_until]
    writer.step()  # the pause is not over
    assert world.bulk.row(ingestion).output_lease_until == pauses[0]
    before = dict(writer._pauses)
    world.later(ingestion)
    writer.step()
    assert writer._pauses[ingestion] > before[ingestion]
    world.target.away = False
    world.later(ingestion)
    writer.step()
    row = world.bulk.row(ingestion)
    assert (row.output_error, row.written_at is not None) == (None, True)


def test_a_retry_writes_again_from_its_first_item_on(world: World) -> None:
    ingestion = world.expand("a", "b", "c", "d", "e")
    world.bulk.work(SEVEN, SEVEN, UNREADABLE, SEVEN, SEVEN)
    world.bulk.close(ingestion)
    world.writer().step()
    first = world.parts()
    retrying.retry(world.database, ingestion)
    row = world.bulk.row(ingestion)
    assert (row.output_parts, row.written_at) == (1, None)
    world.writer().step()
    assert "manifest.json" in world.target.objects  # as long as it tells the truth
    world.bulk.work(ONE)
    world.target = Fragile(3)  # taken away, one file of the part, and no more
    world.target.objects = {**first, "manifest.json": b"{}"}
    with pytest.raises(KilledError):
        world.writer().step()
    assert "manifest.json" not in world.target.objects
    world.bulk.close(ingestion)
    world.writer().step()
    assert world.manifest["status"] == "succeeded"
    assert world.written_lines() == world.lines(ingestion)
    second = world.parts()
    assert {name for name in first if first[name] != second[name]} == {
        "part-00001.jsonl",
        "part-00001.parquet",
    }


def test_a_retry_while_a_part_is_written_is_not_lost(world: World) -> None:
    """The writer is slow: what it read is old when it is stored, over what may be newer."""
    ingestion = world.expand("a", "b", rows=5)
    world.bulk.work(UNREADABLE, SEVEN)
    world.bulk.close(ingestion)
    slow = world.writer()
    store = world.target.write_file

    def retried_meanwhile(name: str, path: Path) -> None:
        world.target.write_file = store  # type: ignore[method-assign]
        retrying.retry(world.database, ingestion)
        world.bulk.work(ONE)
        world.bulk.close(ingestion)
        world.later(ingestion)
        world.writer(new_id()).step()
        assert world.manifest["status"] == "succeeded"
        store(name, path)

    world.target.write_file = retried_meanwhile  # type: ignore[method-assign]
    slow.step()
    assert world.bulk.row(ingestion).written_at is None
    world.later(ingestion)
    slow.step()
    assert world.written_lines() == world.lines(ingestion)
    assert world.manifest["counts"]["succeeded"] == 2


def test_a_last_part_grows_when_the_source_is_read_on(world: World) -> None:
    ingestion = world.bulk.ingest(output="s3://bucket/results", output_part_rows=2)
    held = world.bulk.must_claim()
    error = ("source_unreachable", "It stopped.")
    world.bulk.step(held, ["a", "b", "c"], ended=True, error=error)
    world.bulk.work(SEVEN, SEVEN, SEVEN)
    world.bulk.close(ingestion)
    world.writer().step()
    assert world.bulk.row(ingestion).output_parts == 2
    retrying.retry(world.database, ingestion)
    assert world.bulk.row(ingestion).output_parts == 1
    world.bulk.step(world.bulk.must_claim(), ["d", "e"], position=3, ended=True)
    world.bulk.work(SEVEN, SEVEN)
    world.bulk.close(ingestion)
    world.writer().step()
    assert world.written_lines() == world.lines(ingestion)
    assert [line["position"] for line in world.written_lines()] == list(range(5))


def test_what_holds_up_a_part_is_looked_at_alone(world: World) -> None:
    """A part may wait for one item for hours, while all others have ended."""
    ingestion = world.expand("a", "b", "c", "d")
    slow = world.bulk.stage.must_claim(lane="bulk", limit=1)
    world.bulk.work(SEVEN, SEVEN, SEVEN)
    writer = world.writer()
    writer.step()
    assert writer._waits_for == {ingestion: 0}
    assert world.bulk.row(ingestion).output_token is None
    writer.step()
    assert world.target.objects == {}
    world.bulk.stage.record(slow, ONE)
    writer.step()
    assert len(world.parts()) == 4


def test_an_ingestion_of_nothing_has_a_manifest(world: World) -> None:
    ingestion = world.expand()
    world.bulk.close(ingestion)
    world.writer().step()
    assert sorted(world.target.objects) == ["manifest.json"]
    assert world.manifest["parts"] == []


def test_a_deleted_one_is_not_written_and_leaves_no_rows(world: World) -> None:
    ingestion = world.expand("a", "b", "c")
    world.bulk.work(SEVEN, SEVEN)
    world.writer().step()
    assert world.bulk.stage.count(result_files) == 2
    world.database.transact(lambda c: transitions.delete(c, "local", ingestion))
    world.bulk.close(ingestion)
    world.writer().step()
    assert len(world.target.objects) == 2
    Sweep(world.database, world.bulk.stage.storage, world.settings).remove_deleted_ingestions()
    assert world.bulk.stage.count(result_files) == world.bulk.stage.count(ingestions) == 0


# Where they really go


@pytest.fixture(params=["file", "s3"])
def place(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[str, Storage, dict[str, Any]]]:
    """An address, a storage that reads there, and settings that lead to it."""
    given: dict[str, Any] = {"_env_file": None, "data_dir": tmp_path / "data"}
    if request.param == "file":
        url = (tmp_path / "results").as_uri()
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        url, given = server.url(), given | server.settings
    yield url, open_storage(Settings(storage_url=url, **given)), given


def test_files_lie_below_the_address(
    stage: Stage, place: tuple[str, Storage, dict[str, Any]]
) -> None:
    url, storage, given = place
    bulk = Bulk(stage)
    ingestion = bulk.expand("a", "b", "c", output=f"{url}/run-7", output_part_rows=2)
    bulk.work(SEVEN, ONE, SEVEN)
    bulk.close(ingestion)
    Output(bulk.database, Settings(**given), TOKEN).step()
    row = bulk.row(ingestion)
    assert (row.written_at, "does not allow" in row.output_error) == (None, True)
    bulk.stage.change(ingestions, where=ingestions.c.id == ingestion, output_lease_until=None)
    Output(bulk.database, Settings(output_prefixes=(url,), **given), TOKEN).step()
    row = bulk.row(ingestion)
    assert (row.written_at is not None, row.output_error) == (True, None)
    manifest = json.loads(storage.read(f"run-7/{ingestion}/manifest.json"))
    for part in manifest["parts"]:
        data = storage.read(f"run-7/{ingestion}/{part['name']}")
        assert part["sha256"] == hashlib.sha256(data).hexdigest()
    assert len(list(storage.list(""))) == 5


def test_a_bucket_that_refuses_is_told_in_a_sentence(
    stage: Stage, s3_server: S3Server, tmp_path: Path
) -> None:
    bulk = Bulk(stage)
    ingestion = bulk.expand("a", output="s3://nobodys/x")
    bulk.work(SEVEN)
    bulk.close(ingestion)
    settings = Settings(
        _env_file=None, data_dir=tmp_path, output_prefixes="s3://nobodys", **s3_server.settings
    )
    Output(bulk.database, settings, TOKEN).step()
    error = bulk.row(ingestion).output_error
    assert "NoSuchBucket" in error
    assert "\n" not in error
