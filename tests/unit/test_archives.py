"""Archives: every format, read on from every place, and what somebody may have put into them."""

import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.sources.archives import is_archive, open_archive
from worker.sources.limits import Limits
from worker.sources.names import is_junk, shown_name
from worker.sources.protocol import Entry, SourceEnded

LIMITS = Limits(max_image_bytes=2**20, max_expanded_bytes=2**24, max_expansion_ratio=100)
FILES = {f"folder/{n}.png": os.urandom(100 * n + 1) for n in range(7)}
FORMATS = ("zip", "stored", "tar", "tar.gz", "tar.zst")


def make_zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.mkdir("folder/")
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def make_tar(files: dict[str, bytes], **how: Any) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", **how) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


MAKE: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "zip": make_zip,
    "stored": lambda files: make_zip(files, zipfile.ZIP_STORED),
    "tar": make_tar,
    "tar.gz": lambda files: gzip.compress(make_tar(files)),
    "tar.zst": lambda files: zstd.compress(make_tar(files)),
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., tuple[list[Entry], SourceEnded | None]]:
    """Read an archive to its end, or to where it cannot be read."""

    def read(
        data: bytes, checkpoint: Any = None, limits: Limits = LIMITS
    ) -> tuple[list[Entry], SourceEnded | None]:
        path = tmp_path / "archive"
        path.write_bytes(data)
        found: list[Entry] = []
        try:
            for entry in open_archive(path, limits).entries(checkpoint):
                found.append(entry)
        except SourceEnded as ended:
            return found, ended
        return found, None

    return read


Read = Callable[..., tuple[list[Entry], SourceEnded | None]]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_its_files_and_is_read_on_from_any_place(read: Read, kind: str) -> None:
    data = MAKE[kind](FILES)
    whole, ended = read(data)
    assert ended is None
    assert {entry.name: entry.data for entry in whole} == FILES
    for number, entry in enumerate(whole, start=1):
        assert read(data, entry.checkpoint) == (whole[number:], None)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_empty_archive_is_no_error(read: Read, kind: str) -> None:
    assert read(MAKE[kind]({})) == ([], None)


@pytest.mark.parametrize("kind", FORMATS)
def test_of_an_archive_that_is_cut_off_what_came_before_is_kept(read: Read, kind: str) -> None:
    data = MAKE[kind](FILES)
    found, ended = read(data[: len(data) * 6 // 10])
    assert ended is not None
    assert ended.code == "source_damaged"
    assert [entry.data for entry in found] == list(FILES.values())[: len(found)]
    assert len(found) >= (0 if kind == "tar.zst" else 3)  # Zstandard gives whole blocks


def test_an_archive_knows_itself_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "pictures.zip"
    for data in (b"", b"url\nhttp://a/b.png\n", FILES["folder/3.png"], b"PK"):
        path.write_bytes(data)
        assert not is_archive(path)
        with pytest.raises(SourceEnded, match="tar, tar") as refused:
            open_archive(path, LIMITS)
        assert refused.value.code == "unsupported_source"
    path.write_bytes(MAKE["tar.gz"](FILES))
    assert is_archive(path)


def test_junk_of_systems_is_passed_over(read: Read) -> None:
    junk = ("__MACOSX/a.png", "x/.DS_Store", "x/._a.png", "Thumbs.db", "x/desktop.ini")
    assert all(map(is_junk, junk))
    for kind in ("zip", "tar"):
        found, _ = read(MAKE[kind](dict.fromkeys(junk, b"x") | {"a.png": b"1"}))
        assert [entry.name for entry in found] == ["a.png"]


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_absurd_names_do_no_harm(read: Read, kind: str) -> None:
    names = ["/etc/passwd", "../../up.png", "C:\\x.png", "y" * 3000, "ü/日本.png"]
    found, ended = read(MAKE[kind](dict.fromkeys(names, b"x")))
    assert ended is None
    assert [entry.data for entry in found] == [b"x"] * len(names)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_entry_that_is_too_large_is_refused_by_itself(read: Read, kind: str) -> None:
    found, ended = read(MAKE[kind]({"a": b"1", "big": os.urandom(2**20 + 1), "b": b"2"}))
    assert ended is None
    assert [(e.name, e.error and e.error[0]) for e in found] == [
        ("a", None),
        ("big", "image_too_large"),
        ("b", None),
    ]


def test_an_entry_that_unpacks_to_much_more_than_it_is_is_refused(read: Read) -> None:
    limits = Limits(2**24, 2**26, 100)
    (bomb, small), ended = read(
        make_zip({"bomb": bytes(2**23), "small": bytes(2**20)}), None, limits
    )
    assert ended is None
    assert bomb.error is not None
    assert "100 times" in bomb.error[1]
    assert small.data == bytes(2**20)


@pytest.mark.parametrize("kind", FORMATS)
def test_an_archive_may_unpack_to_so_much_and_no_more(read: Read, kind: str) -> None:
    limits = Limits(2**20, 3 * 2**20, 10**6)
    data = MAKE[kind]({f"{n}": os.urandom(2**20) for n in range(5)})
    found, ended = read(data, None, limits)
    assert ended is not None
    assert ended.code == "source_too_large"
    assert 2 <= len(found) <= 3
    # Reading on does not begin to count anew.
    again, ended = read(data, found[-1].checkpoint, limits)
    assert ended is not None
    assert len(again) <= 1


def test_links_and_devices_are_refused_by_name(read: Read) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, kind in (
            ("soft", tarfile.SYMTYPE),
            ("hard", tarfile.LNKTYPE),
            ("pipe", tarfile.FIFOTYPE),
            ("disk", tarfile.BLKTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    found, ended = read(packed.getvalue())
    assert ended is None
    assert [e.error and e.error[0] for e in found] == ["entry_refused"] * 4
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as zipped:
        link = zipfile.ZipInfo("soft")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        zipped.writestr(link, "/etc/passwd")
    (entry,), _ = read(packed.getvalue())
    assert entry.data is None
    assert entry.error == ("entry_refused", "The entry is a link; it is not followed.")


def test_an_entry_that_cannot_be_unpacked_is_refused_by_itself(read: Read) -> None:
    data = bytearray(make_zip({"a": b"1" * 50, "b": b"2" * 50, "c": b"3" * 50}, zipfile.ZIP_STORED))
    data[data.index(b"2" * 50)] = 0
    found, ended = read(bytes(data))
    assert ended is None
    assert [e.error and e.error[1] for e in found] == [
        None,
        "The entry is damaged: its checksum is wrong.",
        None,
    ]


def test_encrypted_and_strangely_packed_entries_are_refused(read: Read) -> None:
    data = make_zip({"a": b"1" * 50})
    central = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    encrypted = bytearray(data)
    encrypted[central + 8] |= 1
    (entry,), _ = read(bytes(encrypted))
    assert entry.error == ("entry_refused", "The entry is encrypted.")
    (entry,), _ = read(make_zip({"a": b"1" * 50}, zipfile.ZIP_LZMA))
    assert entry.error == ("entry_refused", "The entry is packed by LZMA, which is not read.")


def test_a_size_that_lies_is_not_believed(read: Read) -> None:
    data = bytearray(make_zip({"a": bytes(5000)}))
    central = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    struct.pack_into("<I", data, central + 24, 10)
    (entry,), ended = read(bytes(data))
    assert ended is None
    assert entry.error is not None


def test_a_zip_may_have_something_before_it_and_be_zip64(read: Read) -> None:
    data = make_zip(FILES)
    found, ended = read(data)
    prefixed = bytearray(b"#!/bin/sh\n" + data)
    prefixed[:4] = b"PK\x03\x04"  # as an archive begins
    assert [e.data for e in read(bytes(prefixed))[0]] == [e.data for e in found]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in FILES.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(content)
    found, ended = read(packed.getvalue())
    assert ended is None
    assert {e.name: e.data for e in found} == FILES


def test_a_long_name_of_absurd_size_is_not_read(read: Read) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2**30
    data = make_tar({"a": b"1"})[:1536] + header.tobuf(tarfile.GNU_FORMAT) + bytes(2**20)
    tracemalloc.start()
    found, ended = read(gzip.compress(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [e.name for e in found] == ["a"]
    assert ended is not None
    assert ended.code == "source_damaged"
    assert peak < 2**24


@pytest.mark.parametrize("kind", FORMATS)
def test_memory_does_not_grow_with_the_entries(tmp_path: Path, kind: str) -> None:
    def peak(number: int) -> int:
        path = tmp_path / f"{number}"
        path.write_bytes(MAKE[kind]({f"{n:020}.png": b"x" for n in range(number)}))
        tracemalloc.start()
        assert sum(1 for _ in open_archive(path, LIMITS).entries(None)) == number
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(3000) < peak(300) + 100_000


SMALL = {kind: MAKE[kind]({"a.png": b"abc" * 20, "b.png": b"def" * 20}) for kind in FORMATS}


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(FORMATS),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    length=st.floats(0.5, 1),
)
def test_no_damage_does_more_than_end_it(
    tmp_path: Path, kind: str, changes: list[tuple[float, int]], length: float
) -> None:
    data = bytearray(SMALL[kind])
    for where, value in changes:
        data[int(where * len(data))] = value
    path = tmp_path / "fuzzed"
    path.write_bytes(data[: int(length * len(data))])
    try:
        for entry in open_archive(path, LIMITS).entries(None):
            assert entry.data is not None or entry.error is not None
            shown_name(entry.name)
    except SourceEnded as ended:
        assert ended.detail
