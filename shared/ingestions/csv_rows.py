"""Result lines as CSV."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from shared.ingestions.lines import Line


def csv_rows(lines: Iterable[Line], top_k: int, *, embeds: bool) -> Iterator[str]:
    """One row a line, the best prediction first, then the others; RFC 4180."""
    text = io.StringIO()
    writer = csv.writer(text)
    numbers = ["", *(f"_{rank}" for rank in range(2, top_k + 1))]
    columns = [f"{name}{number}" for number in numbers for name in ("label", "class_id", "score")]
    outcome = ["embedding"] if embeds else columns
    head = ["position", "name", "reference", "status"]
    tail = ["error_code", "error_detail", "job", "metadata"]
    writer.writerow([*head, *outcome, *tail])
    for line in lines:
        error = line["error"] or {}
        cells: list[Any] = []
        if embeds:
            cells = [None if line["embedding"] is None else json.dumps(line["embedding"])]
        else:
            for found in line["predictions"] or ():
                cells += [found["label"], found["class_id"], found["score"]]
            cells += [None] * (len(columns) - len(cells))
        metadata = json.dumps(line["metadata"], ensure_ascii=False)
        end = [error.get("code"), error.get("detail"), line["job"], metadata]
        writer.writerow([*(line[name] for name in head), *cells, *end])
        yield text.getvalue()
        text.seek(0)
        text.truncate()
    yield text.getvalue()
