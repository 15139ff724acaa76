"""Lists: text, CSV and JSONL told apart, read on at every line, and what is wrong with a line."""

import json
from pathlib import Path
from typing import Any

import pytest

from worker.sources.lines import MAX_LINE_BYTES, Line, read_lines
from worker.sources.protocol import SourceEnded


def read(directory: Path, content: bytes | str) -> list[Line]:
    """All lines; and read on behind each of them, the rest."""
    path = directory / "list"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    whole = list(read_lines(path, None))
    for number, line in enumerate(whole):
        place = json.loads(json.dumps(line.place))
        assert list(read_lines(path, place)) == whole[number + 1 :]
    return whole


def said(lines: list[Line]) -> list[tuple[Any, ...]]:
    assert all(line.error is None for line in lines)
    return [(line.number, line.text, line.reference, line.metadata) for line in lines]


def test_text_has_an_address_a_line(tmp_path: Path) -> None:
    lines = read(tmp_path, "\ufeff# pictures\nhttps://a/1.png\r\n\n  a b/2,3.png \n#x\n\nlast")
    assert said(lines) == [
        (2, "https://a/1.png", None, {}),
        (4, "a b/2,3.png", None, {}),
        (7, "last", None, {}),
    ]
    assert read(tmp_path, "") == []
    assert read(tmp_path, "\n \n# nothing\n") == []


def test_jsonl_has_reference_and_metadata(tmp_path: Path) -> None:
    lines = read(
        tmp_path,
        '\n{"url": "https://a/1", "reference": "r1", "metadata": {"a": 1}}\n'
        '{"key": "k", "set": "train", "metadata": {"set": "own"}}\r\n\n'
        '{"image": "i", "path": "p", "reference": null}',
    )
    assert said(lines) == [
        (2, "https://a/1", "r1", {"a": 1}),
        (3, "k", None, {"set": "own"}),
        (5, "i", None, {"path": "p"}),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_has_columns_of_which_others_are_metadata(tmp_path: Path, delimiter: str) -> None:
    lines = read(
        tmp_path,
        "\ufeff\r\nURL,Reference,metadata,note,\r\n"
        'https://a/1,r1,"{""a"": [1, 2]}",,\r\n'
        "\r\n"
        ' k ,,,"two\r\nlines, ""quoted""",5th\r\n'
        ",,,,\r\n"
        "short\r\n".replace(",", delimiter).replace(f"1{delimiter} 2", "1, 2"),
    )
    assert said(lines) == [
        (3, "https://a/1", "r1", {"a": [1, 2]}),
        (5, "k", None, {"note": f'two\r\nlines{delimiter} "quoted"', "column 5": "5th"}),
        (8, "short", None, {}),
    ]


def test_one_column_with_a_header_is_csv(tmp_path: Path) -> None:
    assert said(read(tmp_path, 'path\n"a,b.png"\nc.png\n')) == [
        (2, "a,b.png", None, {}),
        (3, "c.png", None, {}),
    ]


LONG = "x" * MAX_LINE_BYTES


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("a\n\udcff\nb\n", {2: "UTF-8"}),
        (f"a\n{LONG}{LONG}{LONG}\nb\n", {2: "bytes"}),
        (f"a\n{LONG}", {2: ""}),
        ('{"url": "a"}\n{"url": \n{"url": "b"}\n', {2: "not JSON"}),
        ('{"url": "a"}\n3\n["b"]\n{}\n', {2: "object", 3: "object", 4: "url"}),
        ('{"url": "a"}\n' + "[" * 60_000 + "\n", {2: "not JSON"}),
        ('{"url": 5}\n{"url": "a", "reference": 5}\n', {1: "text", 2: "reference"}),
        ('{"url": "a", "metadata": 5}\n{"url": "b"}\n', {1: "metadata"}),
        ('{"url": "a", "metadata": {"x": NaN}}\n', {1: "JSON"}),
        ('{"url": "a", "metadata": {"x": "\\ud800"}}\n', {1: "Unicode"}),
        ('{"url": "a", "metadata": {"x": "\\u0000"}}\n', {1: "NUL"}),
        (f'{{"url": "a", "metadata": {{"x": "{"y" * 2048}"}}}}\n', {1: "2048 bytes"}),
        (f'{{"url": "a", "reference": "{"r" * 201}"}}\n', {1: "200"}),
        ('{"url": "a", "reference": "r\\u001b"}\n', {1: "control"}),
        ("url,metadata\na,{\nb,\nc,[]\n", {2: "metadata", 4: "metadata"}),
        ('url\n"a"b\nc\n"d"\n', {2: "expected"}),
        ('url\nok\n"never closed\nb\nc\n', {3: ""}),
        (f'url\nok\n"never closed\n{("b" * 9_999 + chr(10)) * 7}', {3: "record"}),
        (f'url\nok\n"{LONG}"\n"a\nb"\n', {3: "bytes"}),
        ('url\n"a\n\udcff"\nc\n', {2: "UTF-8", 3: "UTF-8"}),
        ("url,note\na,b,c\nd,e,\n", {2: "3 fields"}),
        ("note,url\nonly a note\nn,u\n", {2: "url"}),
    ],
)
def test_what_is_wrong_with_a_line_is_told_and_the_next_is_read(
    tmp_path: Path, content: str, wrong: dict[int, str]
) -> None:
    lines = read(tmp_path, content.encode(errors="surrogateescape"))
    told = {line.number: line.error for line in lines if line.error is not None}
    if "" not in wrong.values():
        assert set(told) == set(wrong)
    for number, words in wrong.items():
        if number in told:
            assert words in told[number]
    for number, sentence in told.items():
        assert f"Line {number}" in sentence
        assert sentence.endswith(".")
    for line in lines:
        assert len(line.text) <= 200 or line.error is None
        line.text.encode()


def test_what_is_no_list_is_said_to_be_none(tmp_path: Path) -> None:
    for content, words in (
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "nor a list"),
        ("a\nb\n".encode("utf-16"), "UTF-8"),
        (b'[{"url": "a"}]', "JSONL"),
    ):
        with pytest.raises(SourceEnded, match=words) as ended:
            read(tmp_path, content)
        assert ended.value.code == "unsupported_source"
