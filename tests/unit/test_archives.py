"""Archives: every format, read on from every place, and what somebody may have put into them."""

import gzip
import io
import json
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
FORMATS = ("zip", "stored", "streamed", "zip64", "tar", "tar.gz", "tar.zst")


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


class Unseekable(io.RawIOBase):
    """What a zip is written to that is sent while it is made."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.data += data
        return len(data)


def make_streamed_zip(files: dict[str, bytes]) -> bytes:
    """Its entries have their sizes behind them."""
    sent = Unseekable()
    with zipfile.ZipFile(sent, "w", zipfile.ZIP_DEFLATED) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            archive.writestr(name, data)
    return bytes(sent.data)


def make_zip64(files: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in files.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(data)
    return packed.getvalue()


def member(name: str, data: bytes = b"", *, size: int | None = None, kind: bytes = b"0") -> bytes:
    """One member of a tar, whose header may lie."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = tarfile.itn(len(data) if size is None else size, 12, tarfile.GNU_FORMAT)  # type: ignore[attr-defined]
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + data + bytes(-len(data) % 512)


def extended(**records: str) -> bytes:
    """An extended header of a tar; `__` stands for the point in a key."""
    lines = b""
    for key, value in records.items():
        rest = f" {key.replace('__', '.')}={value}\n"
        length = next(n for n in range(1000) if len(str(n)) + len(rest) == n)
        lines += f"{length}{rest}".encode()
    return member("extended", lines, kind=tarfile.XHDTYPE)


END = bytes(1024)
MAKE: dict[str, Callable[[dict[str, bytes]], bytes]] = {
    "zip": make_zip,
    "stored": lambda files: make_zip(files, zipfile.ZIP_STORED),
    "streamed": make_streamed_zip,
    "zip64": make_zip64,
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
        place = json.loads(json.dumps(entry.checkpoint))  # as the database keeps it
        assert read(data, place) == (whole[number:], None)


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
    # Reading on ends at the same place.
    for number, entry in enumerate(found, start=1):
        again, once_more = read(data[: len(data) * 6 // 10], entry.checkpoint)
        assert again == found[number:]
        assert once_more is not None
        assert once_more.detail == ended.detail


def test_entries_with_their_sizes_behind_them_are_found_whatever_their_size(read: Read) -> None:
    files = {"empty": b"", "flat": bytes(2**19), "mixed": bytes(2**17) + os.urandom(2**17)}
    data = make_streamed_zip({**files, "big": bytes(2**21), "last": b"1", "cut": b"2"})
    found, ended = read(data[: data.index(b"cut")])
    assert {entry.name: entry.data for entry in found} == {**files, "big": None, "last": b"1"}
    assert [entry.error and entry.error[0] for entry in found][3] == "image_too_large"
    assert ended is not None
    assert ended.code == "source_damaged"
    # What is unpacked to find an end counts.
    bomb = make_streamed_zip({"a": b"1", "big": bytes(2**23)})[:-99]
    found, ended = read(bomb, None, Limits(2**20, 2**22, 10**6))
    assert [entry.name for entry in found] == ["a"]
    assert ended is not None
    assert ended.code == "source_too_large"


def test_an_archive_that_was_cut_off_is_not_taken_for_one_that_lies_in_it(read: Read) -> None:
    inner = make_zip({"inner.png": b"i"})
    data = make_zip({"a.png": b"1", "n.zip": inner, "b": bytes(5000)}, zipfile.ZIP_STORED)
    for length in (data.index(inner) + len(inner), len(data) - 3000):
        found, ended = read(data[:length])
        assert [(e.name, e.data) for e in found] == [("a.png", b"1"), ("n.zip", inner)]
        assert ended is not None
        assert ended.code == "source_damaged"


@pytest.mark.parametrize("kind", FORMATS)
def test_an_archive_within_an_archive_is_one_entry(read: Read, kind: str) -> None:
    for inner in (make_zip(FILES), make_tar(FILES)):
        found, ended = read(MAKE[kind]({"inner": inner}))
        assert ended is None
        assert [(entry.name, entry.data) for entry in found] == [("inner", inner)]


def test_a_directory_that_does_not_list_all_it_counts_is_damaged(read: Read) -> None:
    data = bytearray(make_zip({"a": b"1", "b": b"2"}))
    struct.pack_into("<H", data, data.rindex(b"PK\x05\x06") + 10, 9)
    found, ended = read(bytes(data))
    assert [entry.name for entry in found] == ["a", "b"]
    assert ended is not None
    assert ended.code == "source_damaged"


def test_what_would_be_lost_behind_the_end_of_a_tar_is_told(read: Read) -> None:
    data = make_tar({"a": b"1"})
    no_mark = data.rstrip(b"\0") + bytes(511)
    assert len(no_mark) % 512 == 0
    for damaged in (no_mark, data + make_tar({"b": b"2"})):
        found, ended = read(damaged)
        assert [entry.name for entry in found] == ["a"]
        assert ended is not None
        assert ended.code == "source_damaged"


def test_the_checksum_of_a_packed_tar_is_looked_at(read: Read) -> None:
    data = bytearray(gzip.compress(make_tar({"a": b"1" * 5000}), compresslevel=0))
    data[data.index(b"1" * 5000) + 2500] = 0
    _, ended = read(bytes(data))
    assert ended is not None
    assert ended.code == "source_damaged"


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_something_packed_that_is_no_tar_is_no_archive(
    read: Read, pack: Callable[[bytes], bytes]
) -> None:
    for content in (b"", b"http://a/b.png\n", b"http://a/b.png\n" * 100):
        found, ended = read(pack(content))
        assert found == []
        assert ended is not None
        assert ended.code == "unsupported_source"
    _, ended = read(pack(make_tar(FILES))[:30])
    assert ended is not None
    assert ended.code == "source_damaged"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_are_read_as_the_standard_library_reads_them(read: Read, form: int) -> None:
    names = [f"{'d' * 40}/" * n + "ü" * n + f"{n}.png" for n in (0, 1, 2, 3)]
    if form != tarfile.USTAR_FORMAT:
        names += [f"{'d' * 90}/" * 9 + "日本.png", "y" * 101]
    data = make_tar({name: os.urandom(400 * n) for n, name in enumerate(names)}, format=form)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = {i.name: archive.extractfile(i).read() for i in archive if i.isreg()}  # type: ignore[union-attr]
    found, ended = read(data)
    assert ended is None
    assert {entry.name: entry.data for entry in found} == expected
    assert set(expected) == set(names)


def test_the_oldest_tars_are_read(read: Read) -> None:
    block = bytearray(member("a", b"1"))
    block[257:265] = bytes(8)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    (entry,), ended = read(bytes(block) + END)
    assert (entry.name, entry.data, ended) == ("a", b"1", None)


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
def test_names_are_text_and_nothing_more(read: Read, kind: str) -> None:
    names = [
        "/etc/passwd",
        "../../up.png",
        "C:\\x.png",
        "y" * 3000,
        "ü/日本.png",
        "a\nb\x1b[2J.png",
    ]
    found, ended = read(MAKE[kind](dict.fromkeys(names, b"x")))
    assert ended is None
    assert [entry.data for entry in found] == [b"x"] * len(names)
    assert [entry.name for entry in found] == list(map(shown_name, names))


def test_names_in_no_known_encoding_become_text(read: Read) -> None:
    info = tarfile.TarInfo("a\udcffb.png")
    (entry,), _ = read(info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + END)
    assert entry.name == "a\ufffdb.png"
    (entry,), _ = read(make_zip({"a-b.png": b"1"}).replace(b"a-b.png", b"a\x81b.png"))
    assert entry.name == "aüb.png"  # cp437, as old tools write


def test_two_entries_of_one_name_are_two(read: Read) -> None:
    found, ended = read(member("a", b"1") + member("a", b"2") + END)
    assert ended is None
    assert [(entry.name, entry.data) for entry in found] == [("a", b"1"), ("a", b"2")]


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


def directory_entry(data: bytes | bytearray) -> int:
    """Where the directory has the last entry of a zip."""
    return data.rindex(b"PK\x01\x02")


@pytest.mark.parametrize("told", [10, 4999, 5001, 2**19])
@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_a_size_that_lies_is_not_believed(read: Read, told: int, method: int) -> None:
    data = bytearray(make_zip({"a": bytes(5000)}, method))
    struct.pack_into("<I", data, directory_entry(data) + 24, told)
    (entry,), ended = read(bytes(data))
    assert ended is None
    assert entry.error == ("entry_refused", "The entry is damaged: its checksum is wrong.")


@pytest.mark.parametrize("place", [10**6, 2**63 + 5])
def test_an_entry_that_would_lie_elsewhere_is_refused(read: Read, place: int) -> None:
    data = bytearray(make_zip({"a": b"1"}))
    at, end = directory_entry(data), data.rindex(b"PK\x05\x06")
    extra = struct.pack("<2HQ", 1, 8, place)
    struct.pack_into("<H", data, at + 30, len(extra))
    struct.pack_into("<I", data, at + 42, 2**32 - 1)
    struct.pack_into("<I", data, end + 12, end - at + len(extra))
    data[end:end] = extra
    # The folder before it is in the directory as well.
    struct.pack_into(
        "<I", data, data.rindex(b"PK\x05\x06") + 12, end + len(extra) - data.index(b"PK\x01\x02")
    )
    (entry,), ended = read(bytes(data))
    assert ended is None
    assert entry.error is not None
    assert "behind the archive's end" in entry.error[1]


def test_entries_over_the_same_bytes_are_refused(read: Read) -> None:
    data = make_zip({"a": os.urandom(5000)})
    at, end = directory_entry(data), data.rindex(b"PK\x05\x06")
    record = bytearray(data[end:])
    size, number = end - data.index(b"PK\x01\x02") + 9 * (end - at), 11
    struct.pack_into("<2HI", record, 8, number, number, size)
    bomb = data[:end] + 9 * data[at:end] + bytes(record)
    found, ended = read(bomb)
    assert ended is None
    refused = ("entry_refused", "The entry lies over another one.")
    assert [entry.error for entry in found] == [None] + [refused] * 9
    assert read(bomb, found[0].checkpoint)[0] == found[1:]


def test_entries_that_fail_count_against_the_limit_as_well(read: Read) -> None:
    data = bytearray(make_zip({f"{n}": bytes([n]) * 2**19 for n in range(8)}))
    at = data.index(b"PK\x01\x02")
    while (at := data.find(b"PK\x01\x02", at + 1)) > 0:
        data[at + 16] ^= 1
    found, ended = read(bytes(data), None, Limits(2**20, 2**21, 10**6))
    assert [entry.data for entry in found] == [None] * 4
    assert ended is not None
    assert ended.code == "source_too_large"


def test_a_zip_may_have_something_before_it_and_behind_it(read: Read) -> None:
    for make in (make_zip, make_zip64):
        data = make(FILES)
        for whole in (b"#!/bin/sh\n" * 100 + data, data + bytes(100)):
            found, ended = read(whole)
            assert ended is None
            assert {entry.name: entry.data for entry in found} == FILES


@pytest.mark.parametrize("size", [2**30, 2**33, 2**80, -1024])
def test_a_member_of_absurd_size_ends_it(read: Read, size: int) -> None:
    headers = {
        "of itself": member("a", size=size),
        "of its name": member("a", size=size, kind=tarfile.GNUTYPE_LONGNAME),
        "of its extended header": member("a", size=size, kind=tarfile.XHDTYPE),
        "in its extended header": extended(size=str(size)) + member("a", b"1"),
        "of what is meant of all": member("a", size=size, kind=tarfile.XGLTYPE),
    }
    for header in headers.values():
        data = member("ok", b"1") + header + bytes(2**16)
        for packed in (data, gzip.compress(data)):
            found, ended = read(packed)
            assert [entry.name for entry in found] == ["ok"]
            assert ended is not None
            assert ended.code in ("source_damaged", "source_too_large")


def test_an_extended_header_that_is_damaged_ends_it(read: Read) -> None:
    for content in (b"1" * 2**19, b"5 ab" * 2**17, b"0 a=b\n", b"-9 a=b\n", b"x", b"99 a=b\n"):
        data = member("ok", b"1") + member("x", content, kind=tarfile.XHDTYPE) + member("a") + END
        found, ended = read(data)
        assert [entry.name for entry in found] == ["ok"]
        assert ended is not None
        assert ended.code == "source_damaged"


def test_sparse_files_are_refused_and_their_maps_not_read(read: Read) -> None:
    old = bytearray(member("old", kind=tarfile.GNUTYPE_SPARSE))
    old[482], old[148:156] = 1, b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    old_map = (b"00000000001\0" * 42 + b"\1" + bytes(7)) * 2**12 + bytes(512)
    newer = extended(
        GNU__sparse__major="0", GNU__sparse__map="999999,1", GNU__sparse__size="1000000"
    )
    newest = extended(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__name="newest")
    data = gzip.compress(
        bytes(old)
        + old_map
        + newer
        + member("newer", b"x")
        + newest
        + member("other", b"999999999\n" + b"0\n" * 2**20)
        + member("ok", b"1")
        + END
    )
    tracemalloc.start()
    found, ended = read(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ended is None
    assert [entry.name for entry in found] == ["old", "newer", "newest", "ok"]
    refused = ("entry_refused", "The entry is a sparse file, which is not read.")
    assert [entry.error for entry in found] == [refused] * 3 + [None]
    assert peak < 2**21


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
    assert peak(1500) < peak(150) + 50_000  # 40 bytes an entry


SMALL = {kind: MAKE[kind]({"a.png": b"abc" * 20, "b.png": b"def" * 20}) for kind in FORMATS}
SMALL["odd tar"] = extended(path="c", size="3") + member("c", b"123") + make_tar({"y" * 200: b"1"})


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(sorted(SMALL)),
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
