"""Copying an archive or a list to this machine, from wherever an address may lead."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from shared.errors import Unavailable
from shared.settings import Settings
from tests.host import Handler, Host, host
from tests.services import S3Server
from worker.sources import copying
from worker.sources.copying import copy_file
from worker.sources.protocol import SourceEnded

MOST = 3 * 2**20


@pytest.fixture
def server() -> Iterator[Host]:
    with host() as running:
        yield running


def make(**values: Any) -> Settings:
    return Settings(_env_file=None, **{"max_source_bytes": MOST, **values})


def end(settings: Settings, url: str, target: Path) -> str:
    with pytest.raises(SourceEnded) as ended:
        copy_file(settings, url, target)
    assert not target.exists()
    return ended.value.code


def test_a_file_comes_from_hosts_buckets_and_paths(
    server: Host, s3_server: S3Server, tmp_path: Path
) -> None:
    content, target = bytes(range(256)) * 10_000, tmp_path / "target"
    bucket, root = s3_server.url(), tmp_path / "root"
    root.mkdir()
    (root / "a.zip").write_bytes(content)
    (root / "too-large.zip").write_bytes(bytes(MOST + 1))
    (root / "link.zip").symlink_to("/etc/passwd")
    key = bucket.removeprefix("s3://")
    with requests.Session() as session:
        session.put(f"{s3_server.endpoint}/{key}/a.zip", data=content, timeout=5)
        session.put(f"{s3_server.endpoint}/{key}/too-large.zip", data=bytes(MOST + 1), timeout=5)
    server.pages = {
        "/a.zip": lambda handler: handler.answer(302, Location="/b.zip"),
        "/b.zip": content,
        "/too-large.zip": bytes(MOST + 1),
    }
    settings = make(
        **s3_server.settings,
        source_prefixes=bucket,
        source_roots=f"{root}",
        source_hosts=server.name,
    )
    for place in (server.url, bucket, root.as_uri()):
        steps: list[int] = []
        copy_file(settings, f"{place}/a.zip", target, steps.append)
        assert target.read_bytes() == content
        assert steps == sorted(steps)
        assert steps[-1] == len(content)
        assert end(settings, f"{place}/too-large.zip", target) == "source_too_large"
        assert end(settings, f"{place}/gone.zip", target) == "source_missing"
    assert end(settings, f"{root.as_uri()}/link.zip", target) == "source_refused"
    assert end(settings, "https://example.com/a.zip", target) == "source_refused"
    nowhere = make(**s3_server.settings, source_prefixes="s3://no-such-bucket")
    assert end(nowhere, "s3://no-such-bucket/a.zip", target) == "source_missing"


def test_a_place_that_is_away_is_tried_later(
    server: Host, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(handler: Handler) -> None:
        handler.answer(200, b"half", Content_Length="99")
        handler.close_connection = True

    server.pages = {
        "/cut": cut,
        "/busy": lambda handler: handler.answer(503),
        "/slow": lambda handler: handler.answer(200, b"slow"),
    }
    target, bucket = tmp_path / "target", s3_server.url()
    settings = make(**s3_server.settings, source_hosts=server.name, source_prefixes=bucket)
    for page in ("cut", "busy"):
        with pytest.raises(Unavailable, match="did not give it"):
            copy_file(settings, f"{server.url}/{page}", target)
    with s3_server.refusing_keys(), pytest.raises(Unavailable, match="InvalidAccessKeyId"):
        copy_file(settings, f"{bucket}/a.zip", target)
    monkeypatch.setattr(copying, "_PATIENCE_SECONDS", -1.0)
    with pytest.raises(Unavailable, match="too slowly"):
        copy_file(settings, f"{server.url}/slow", target)
    assert not target.exists()


def test_whoever_watches_may_end_it(server: Host, tmp_path: Path) -> None:
    def stop(there: int) -> None:
        raise KeyboardInterrupt

    server.pages = {"/a.zip": b"zip"}
    with pytest.raises(KeyboardInterrupt):
        copy_file(make(source_hosts=server.name), f"{server.url}/a.zip", tmp_path / "t", stop)
    assert not (tmp_path / "t").exists()
