"""A directory as a source: its order, its checkpoints, and what it does not follow."""

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.settings import Settings
from worker.sources.directory import DirectorySource
from worker.sources.protocol import Entry, EntryError, SourceEnded

MOST = 100


def source(root: Path, url: str | None = None, **values: Any) -> DirectorySource:
    settings = Settings(_env_file=None, source_roots=f"{root}", max_image_bytes=MOST, **values)
    return DirectorySource(settings, url or root.as_uri())


def fill(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def errors(entries: list[Entry]) -> dict[str, str]:
    return {entry.name: entry.error[0] for entry in entries if entry.error is not None}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may read everything."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_files_come_directory_by_directory_and_go_on_at_every_checkpoint(tmp_path: Path) -> None:
    fill(tmp_path, "b.png", "a/z/1.png", "a/z/2.png", "a/b.png", "a.png", "a-b/c.png", "é 1.png")
    fill(tmp_path, ".DS_Store", "a/._b.png", "__MACOSX/x/y.png", "a/Thumbs.db", "a/.hidden.png")
    (tmp_path / "empty").mkdir()
    whole = list(source(tmp_path).entries(None))
    assert [entry.name for entry in whole] == [
        *("a/.hidden.png", "a/b.png", "a/z/1.png", "a/z/2.png"),
        *("a-b/c.png", "a.png", "b.png", "é 1.png"),
    ]
    assert all(entry.data == entry.name.encode() for entry in whole)
    for number, entry in enumerate(whole):
        checkpoint = json.loads(json.dumps(entry.checkpoint))
        assert list(source(tmp_path).entries(checkpoint)) == whole[number + 1 :]
        assert source(tmp_path).fetch(entry.name) == entry.data


def test_a_checkpoint_whose_file_is_gone_is_gone_on_behind(tmp_path: Path) -> None:
    fill(tmp_path, "a/1", "a/2", "b/1", "c")
    whole = list(source(tmp_path).entries(None))
    (tmp_path / "a/1").unlink()
    assert list(source(tmp_path).entries(whole[0].checkpoint)) == whole[1:]
    (tmp_path / "a/2").unlink()
    (tmp_path / "a").rmdir()
    assert list(source(tmp_path).entries(whole[1].checkpoint)) == whole[2:]
    fill(tmp_path, "a")
    assert list(source(tmp_path).entries(whole[1].checkpoint)) == whole[2:]


def test_names_that_are_not_unicode_have_checkpoints_too(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff\xe4.png")).write_bytes(b"1")
    (tmp_path / "x\ny%2F.png").write_bytes(b"2")
    whole = list(source(tmp_path).entries(None))
    assert {entry.name for entry in whole} == {"\ufffd\ufffd.png", "x\ufffdy%2F.png"}
    for number, entry in enumerate(whole):
        entry.name.encode()
        assert list(source(tmp_path).entries(entry.checkpoint)) == whole[number + 1 :]


def test_links_and_special_files_are_told_and_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    fill(outside, "secret.png")
    fill(root, "ok.png")
    (root / "file-link.png").symlink_to(outside / "secret.png")
    (root / "link").symlink_to(outside)
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    whole = list(source(root).entries(None))
    told = {"file-link.png", "link", "dangling", "pipe"}
    assert errors(whole) == dict.fromkeys(told, "entry_refused")
    assert [entry.name for entry in whole if entry.data is not None] == ["ok.png"]
    for name in (*told, "link/secret.png", "../outside/secret.png", "/etc/passwd", "nothing", ""):
        with pytest.raises(EntryError):
            source(root).fetch(name)


def test_a_link_that_takes_a_directorys_place_leads_nowhere(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    fill(outside, "secret.png")
    fill(root, "a/1.png", "a/2.png")
    below = source(root, f"{root.as_uri()}/a")
    entries = below.entries(None)
    next(entries)
    (root / "a").rename(root / "b")
    (root / "a").symlink_to(outside)
    assert next(entries).data == b"a/2.png"  # of the directory that was opened
    with pytest.raises(SourceEnded) as refused:
        next(below.entries(None))
    assert refused.value.code == "source_refused"


def test_too_large_a_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**40)  # a hole: reading it would take all memory
    (tmp_path / "just.png").write_bytes(b"x" * MOST)
    huge, just = source(tmp_path).entries(None)
    assert errors([huge, just]) == {"huge.png": "image_too_large"}
    assert just.data == b"x" * MOST


def test_what_is_not_permitted_is_told() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        fill(root, "ok.png", "private.png", "locked/x.png")
        (root / "private.png").chmod(0)
        (root / "locked").chmod(0)
        with as_nobody():
            whole = list(source(root).entries(None))
        assert errors(whole) == {"private.png": "source_missing", "locked": "source_missing"}
        assert all("permitted" in entry.error[1] for entry in whole if entry.error is not None)
        (root / "locked").chmod(stat.S_IRWXU)


def test_absurd_depth_is_refused_and_leaves_no_descriptor_open(tmp_path: Path) -> None:
    fill(tmp_path, "/".join(["d"] * 101 + ["x.png"]), "z.png")
    before = os.listdir("/proc/self/fd") if Path("/proc/self/fd").is_dir() else []
    deep, last = source(tmp_path).entries(None)
    assert deep.error is not None and deep.error[0] == "entry_refused"
    assert last.name == "z.png"
    entries = source(tmp_path).entries(None)
    next(entries)
    entries.close()  # type: ignore[attr-defined]
    after = os.listdir("/proc/self/fd") if Path("/proc/self/fd").is_dir() else []
    assert len(after) == len(before)


def test_a_directory_that_is_not_there_ends_the_source(tmp_path: Path) -> None:
    fill(tmp_path, "file.png")
    for url in (f"{tmp_path.as_uri()}/gone", f"{tmp_path.as_uri()}/file.png"):
        with pytest.raises(SourceEnded) as ended:
            next(source(tmp_path, url).entries(None))
        assert ended.value.code == "source_missing"
    with pytest.raises(SourceEnded) as ended:
        next(source(tmp_path / "other", tmp_path.as_uri()).entries(None))
    assert ended.value.code == "source_refused"
