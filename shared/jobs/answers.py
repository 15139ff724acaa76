"""What a result and an error are to whoever asked: the same in a poll, in results and in files."""

import struct
from typing import Any

from sqlalchemy import Row
from typing_extensions import TypedDict

from shared.errors import CODES


class Prediction(TypedDict):
    """One label and its score."""

    rank: int
    class_id: str
    label: str
    score: float


class JobError(TypedDict):
    """Why a job did not succeed."""

    code: str
    detail: str | None
    retryable: bool


def predictions_of(row: Row[Any]) -> list[Prediction] | None:
    """The predictions that its job asked for, ranked; None where there are none to have.

    Args:
        row: With `predictions` and `embedding` of the result (null without one), and the job's
            `top_k` and `min_score`.
    """
    if row.predictions is None or row.embedding is not None:
        return None
    return [
        {"rank": rank, "class_id": class_id, "label": label, "score": score}
        for rank, (class_id, label, score) in enumerate(row.predictions[: row.top_k], start=1)
        if row.min_score is None or score >= row.min_score
    ]


def embedding_of(row: Row[Any]) -> list[float] | None:
    """The numbers of a model without a top."""
    if row.embedding is None:
        return None
    return list(struct.unpack(f"<{len(row.embedding) // 4}f", row.embedding))


def error_of(code: str | None, detail: str | None) -> JobError | None:
    """An error of the registry."""
    if code is None:
        return None
    return {"code": code, "detail": detail, "retryable": CODES[code].retryable}
