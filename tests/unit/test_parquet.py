"""Result lines as a Parquet file, read back by others' readers."""

from pathlib import Path

import pyarrow.parquet as pq

from shared.ingestions.parquet import write_parquet

LINES = [
    {
        "position": 0,
        "name": "a.png",
        "reference": "mine",
        "status": "succeeded",
        "predictions": [{"rank": 1, "class_id": "n1", "label": "tabby", "score": 0.5}],
        "error": None,
        "metadata": {"b": [1, "ü"]},
        "job": "one",
    },
    {
        "position": 1,
        "name": "b.png",
        "reference": None,
        "status": "failed",
        "predictions": None,
        "error": {"code": "image_unreadable", "detail": "It is cut off.", "retryable": False},
        "metadata": {},
        "job": None,
    },
    {
        "position": 2,
        "name": "c.png",
        "reference": None,
        "status": "succeeded",
        "predictions": None,
        "error": None,
        "metadata": {},
        "job": "two",
        "embedding": [1.0, 2.5],
    },
]


def test_every_line_is_a_row_of_the_same_columns(tmp_path: Path) -> None:
    path = tmp_path / "results.parquet"
    assert write_parquet(path, iter(LINES)) == 3
    first, second, third = pq.read_table(path).to_pylist()
    assert (first["label"], first["score"], first["metadata"]) == ("tabby", 0.5, '{"b": [1, "ü"]}')
    assert first["predictions"] == LINES[0]["predictions"]
    assert (second["error_code"], second["label"], second["job"]) == (
        "image_unreadable",
        None,
        None,
    )
    assert third["embedding"] == [1.0, 2.5]


def test_the_same_lines_give_the_same_file_and_none_an_empty_one(tmp_path: Path) -> None:
    one, two, none = (tmp_path / name for name in ("one", "two", "none"))
    write_parquet(one, LINES)
    write_parquet(two, LINES)
    assert one.read_bytes() == two.read_bytes()
    write_parquet(none, [])
    assert pq.read_table(none).num_rows == 0
