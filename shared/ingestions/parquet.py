"""Result lines as a Parquet file. Loaded where one is written: pyarrow is large."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_GROUP_ROWS = 10_000
_ROWS_AT_ONCE = 500  # as Python's objects, which take ten times the memory of Arrow's
_PREDICTION = pa.struct(
    [
        ("rank", pa.int32()),
        ("class_id", pa.string()),
        ("label", pa.string()),
        ("score", pa.float64()),
    ]
)
SCHEMA = pa.schema(
    [
        ("position", pa.int64()),
        ("name", pa.string()),
        ("reference", pa.string()),
        ("status", pa.string()),
        # Of the best prediction, so that a query need not take the others apart.
        ("label", pa.string()),
        ("class_id", pa.string()),
        ("score", pa.float64()),
        ("predictions", pa.list_(_PREDICTION)),
        ("embedding", pa.list_(pa.float32())),
        ("error_code", pa.string()),
        ("error_detail", pa.string()),
        ("metadata", pa.string()),
        ("job", pa.string()),
    ]
)


def write_parquet(path: Path, lines: Iterable[dict[str, Any]]) -> int:
    """Write the lines of `shared.ingestions.results`; the number of them comes back.

    The same lines give the same file.
    """
    rest, number = iter(lines), 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while group := list(_batches(islice(rest, _GROUP_ROWS))):
            table = pa.Table.from_batches(group)
            writer.write_table(table)
            number += table.num_rows
    return number


def _batches(lines: Iterator[dict[str, Any]]) -> Iterator[pa.RecordBatch]:
    while some := list(islice(lines, _ROWS_AT_ONCE)):
        yield pa.RecordBatch.from_pylist(list(_rows(some)), schema=SCHEMA)


def _rows(lines: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for line in lines:
        best = (line["predictions"] or [{}])[0]
        error = line["error"] or {}
        yield {
            **{name: line[name] for name in ("position", "name", "reference", "status", "job")},
            **{name: best.get(name) for name in ("label", "class_id", "score")},
            "predictions": line["predictions"],
            "embedding": line.get("embedding"),
            "error_code": error.get("code"),
            "error_detail": error.get("detail"),
            # Whatever a caller's own JSON is, every file has the same columns.
            "metadata": json.dumps(line["metadata"], ensure_ascii=False),
        }
