"""A prefix of a bucket as a source, on moto's server."""

from typing import Any

import obstore
import pytest
import requests

from shared.errors import Unavailable
from shared.settings import Settings
from tests.services import S3Server
from worker.sources.bucket import BucketSource
from worker.sources.objects import Bucket
from worker.sources.patience import IN_A_ROW, held_back
from worker.sources.protocol import Entry, EntryError, SourceEnded

MOST = 100


def source(server: S3Server, url: str, **values: Any) -> BucketSource:
    given = {"source_prefixes": url, "max_image_bytes": MOST, **server.settings, **values}
    return BucketSource(Settings(_env_file=None, **given), url)


def put(server: S3Server, url: str, *names: str, data: bytes | None = None) -> list[str]:
    """Objects below an address, which hold their own keys; the keys, in S3's order."""
    place = url.removeprefix(f"s3://{server.bucket}/")
    keys = [f"{place}/{name}" for name in names]
    with requests.Session() as session:
        for key in keys:
            address = requests.utils.quote(f"{server.bucket}/{key}")
            body = key.encode() if data is None else data
            session.put(f"{server.endpoint}/{address}", data=body, timeout=5).raise_for_status()
    return sorted(keys, key=str.encode)


def errors(entries: list[Entry]) -> dict[str, str]:
    return {entry.name: entry.error[0] for entry in entries if entry.error is not None}


def test_objects_come_by_their_keys_and_go_on_at_every_checkpoint(s3_server: S3Server) -> None:
    url = s3_server.url()
    keys = put(
        *(s3_server, url, "b.png", "a/1.png", "a.png", "a b%20+?#.png", "é/日本.png", "a/b/c.png"),
        *("B.png", "~[x].png", "a0.png"),
    )
    put(s3_server, url, "a/._1.png", "Thumbs.db", "__MACOSX/x.png")
    put(s3_server, f"{url}-beside", "not-mine.png")
    whole = list(source(s3_server, url).entries(None))
    assert [entry.name for entry in whole] == keys
    assert [entry.data for entry in whole] == [key.encode() for key in keys]
    for number, entry in enumerate(whole):
        assert list(source(s3_server, url).entries(entry.checkpoint)) == whole[number + 1 :]
        assert source(s3_server, url).fetch(entry.name) == entry.data


def test_keys_that_stand_for_directories_are_passed_over(s3_server: S3Server) -> None:
    """A listing tells `a/` as `a`, which may be there as well, or have neighbours in between."""
    url = s3_server.url()
    keys = put(s3_server, url, "a", "a.png", "a/x.png", "c.png", "c/1.png", "d")
    put(s3_server, url, "a/", "c/", "e/", data=b"")
    put(s3_server, url, "d/", data=b"somebody put a page here")
    whole = list(source(s3_server, url).entries(None))
    assert [entry.name for entry in whole] == keys
    for number, entry in enumerate(whole):
        assert list(source(s3_server, url).entries(entry.checkpoint)) == whole[number + 1 :]


def test_too_large_an_object_is_not_fetched(s3_server: S3Server) -> None:
    url = s3_server.url()
    (huge,) = put(s3_server, url, "huge.png", data=b"x" * (MOST + 1))
    put(s3_server, url, "ok.png", data=b"x" * MOST)
    whole = list(source(s3_server, url).entries(None))
    assert errors(whole) == {huge: "image_too_large"}
    assert s3_server.requests("GET", f"/{s3_server.bucket}/{huge}") == 0
    with pytest.raises(EntryError):
        source(s3_server, url).fetch(huge)


def test_an_object_that_vanished_is_told(s3_server: S3Server) -> None:
    url = s3_server.url()
    keys = put(s3_server, url, *(f"{number:02}" for number in range(40)))
    entries = source(s3_server, url).entries(None)
    first = next(entries)
    settings = Settings(_env_file=None, **s3_server.settings)
    obstore.delete(Bucket(settings, f"s3://{s3_server.bucket}").store, keys[-1])
    whole = [first, *entries]
    assert [entry.name for entry in whole] == keys
    assert errors(whole) == {keys[-1]: "source_missing"}


def test_one_object_may_be_named_as_if_it_were_a_prefix(s3_server: S3Server) -> None:
    url = s3_server.url()
    (key,) = put(s3_server, url, "cat.jpg")
    (entry,) = source(s3_server, f"{url}/cat.jpg").entries(None)
    assert (entry.name, entry.data) == (key, key.encode())
    assert list(source(s3_server, f"{url}/cat.jpg").entries(entry.checkpoint)) == []


def test_what_is_not_there_or_not_allowed_ends_the_source(s3_server: S3Server) -> None:
    url = s3_server.url()
    for asked, allowed, code in (
        (url, url, "source_missing"),
        ("s3://no-such-bucket/x", "s3://no-such-bucket", "source_missing"),
        (url, f"{url}x", "source_refused"),
    ):
        with pytest.raises(SourceEnded) as ended:
            next(source(s3_server, asked, source_prefixes=allowed).entries(None))
        assert ended.value.code == code
    with pytest.raises(EntryError) as refused:
        source(s3_server, url).fetch("of-somebody-else.png")
    assert refused.value.code == "source_refused"


def test_a_key_that_cannot_be_read_ends_the_source_behind_the_last_page(
    s3_server: S3Server,
) -> None:
    url = s3_server.url()
    put(s3_server, url, "a.png", "b//c.png")
    with pytest.raises(SourceEnded) as ended:
        list(source(s3_server, url).entries(None))
    assert ended.value.code == "source_damaged"
    assert "b//c.png" in ended.value.detail


def test_a_bucket_that_does_not_answer_is_tried_again_later(s3_server: S3Server) -> None:
    url = s3_server.url()
    keys = put(s3_server, url, *(f"{number:02}" for number in range(30)))
    entries = source(s3_server, url, source_timeout_seconds=0.5).entries(None)
    taken = next(entries)
    with s3_server.refusing_keys(), pytest.raises(Unavailable, match="InvalidAccessKeyId"):
        list(source(s3_server, url).entries(taken.checkpoint))
    s3_server.freeze()
    try:
        with pytest.raises(Unavailable):
            for entry in entries:
                taken = entry
    finally:
        s3_server.thaw()
    rest = list(source(s3_server, url).entries(taken.checkpoint))
    assert [entry.name for entry in rest] == keys[keys.index(taken.name) + 1 :]


def test_a_bucket_that_gives_no_object_makes_the_source_wait(s3_server: S3Server) -> None:
    """Where listing is allowed and reading is not, a million items would fail."""

    def failed(number: int) -> tuple[Entry, str | None]:
        return Entry(f"{number}", None, number, error=("source_missing", "No.")), "s3://b"

    had = Entry("had", b"", "had"), None
    few = [*map(failed, range(IN_A_ROW - 1)), had, *map(failed, range(IN_A_ROW - 1))]
    assert [entry.name for entry in held_back(iter(few))] == [entry.name for entry, _ in few]
    taken = []
    with pytest.raises(Unavailable, match="in a row"):
        for entry in held_back(iter([had, *map(failed, range(IN_A_ROW))])):
            taken.append(entry.name)
    assert taken == ["had"]
