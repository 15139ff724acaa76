"""Rows as clients see them: the one place that knows the fields of what the API answers."""

import threading
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from shared.ingestions.queries import Seen
from shared.jobs import queries
from shared.jobs.answers import embedding_of, error_of, predictions_of
from shared.models import ModelSpec, mend, reason
from web.schemas import (
    Ingestion,
    Job,
    Label,
    Model,
    ModelVersion,
    Queue,
    Timings,
)
from web.services import services

_ESTIMATE_SECONDS = 1.0  # a position is counted at most so often for one job

_estimates: dict[UUID, tuple[float, Queue]] = {}
_estimates_lock = threading.Lock()


def job_json(row: Row[Any], *, queue: Queue | None = None) -> Job:
    """A row of `queries.job_rows` as the API answers it."""
    return {
        "id": str(row.id),
        "status": row.status,
        "model": {"name": row.model, "version": row.version},
        "top_k": row.top_k,
        "min_score": row.min_score,
        "lane": row.lane,
        "filename": row.filename,
        "image": {
            "media_type": row.media_type,
            "width": row.width,
            "height": row.height,
            "size_bytes": row.size_bytes,
            "animated": row.animated,
        },
        "reference": row.reference,
        "ingestion": None if row.ingestion is None else str(row.ingestion),
        "attempt": row.attempt,
        "created_at": _time(row.created_at),
        "started_at": _time_or_none(row.started_at),
        "finished_at": _time_or_none(row.finished_at),
        "deadline_at": _time_or_none(row.deadline_at),
        "delete_at": _delete_at(
            row.finished_at if row.ingestion is None else row.ingestion_settled_at
        ),
        "queue": queue,
        "predictions": predictions_of(row),
        "embedding": embedding_of(row),
        "reused": row.reused,
        "error": error_of(row.error_code, row.error_detail),
        "timings": _timings(row),
        "metadata": row.metadata,
        "links": {
            "self": f"/v1/jobs/{row.id}",
            "image": f"/v1/jobs/{row.id}/image",
            "html": f"/jobs/{row.id}",
        },
    }


def queue_json(connection: Connection, row: Row[Any]) -> Queue | None:
    """Where a queued job stands, and when its turn may come; None for any other job."""
    if row.status != "queued":
        return None
    now = time.monotonic()
    with _estimates_lock:
        known = _estimates.get(row.id)
        if known is not None and now - known[0] < _ESTIMATE_SECONDS:
            return known[1]
    position = queries.position(connection, row)
    serving = serving_version(queries.serving_workers(connection), row.model_version)
    speed = sum(worker.images_per_second or 0 for worker in serving)
    queue: Queue = {
        "position": position,
        "eta_seconds": round((position + 1) / speed, 1) if speed and position is not None else None,
        "workers": len(serving),
    }
    with _estimates_lock:
        _estimates.pop(row.id, None)  # to the end: the oldest is first
        _estimates[row.id] = (now, queue)
        while now - _estimates[oldest := next(iter(_estimates))][0] > _ESTIMATE_SECONDS:
            del _estimates[oldest]
    return queue


def serving_version(workers: Sequence[Row[Any]], version_id: int | None) -> list[Row[Any]]:
    """Those of the live workers that have the version loaded."""
    return [worker for worker in workers if version_id in worker.versions]


def ingestion_json(seen: Seen) -> Ingestion:
    """An ingestion with what of it has ended, as the API answers it."""
    row, ended, speed = seen.row, seen.ended, seen.images_per_second
    knows_all = row.status == "running" and row.expanded_at is not None
    return {
        "id": str(row.id),
        "status": row.status,
        "source": {"kind": row.source_kind, "name": row.source},
        "model": {"name": row.model, "version": row.version},
        "top_k": row.top_k,
        "min_score": row.min_score,
        "reference": row.reference,
        "metadata": row.metadata,
        "max_failures": row.max_failures,
        "output": None
        if row.output is None
        else {
            "url": row.output,
            "parts": row.output_parts,
            "written_at": _time_or_none(row.written_at),
            "error": row.output_error,
        },
        "created_at": _time(row.created_at),
        "started_at": _time_or_none(row.started_at),
        "expanded_at": _time_or_none(row.expanded_at),
        "finished_at": _time_or_none(row.finished_at),
        "deadline_at": _time_or_none(row.deadline_at),
        "delete_at": _delete_at(row.settled_at),
        "counts": {
            "total": row.expanded,
            "pending": seen.pending,
            "succeeded": ended["succeeded"],
            "failed": ended["failed"] + row.refused,
            "canceled": ended["canceled"],
            "expired": ended["expired"],
            "not_images": row.refused,
        },
        "images_per_second": None if speed is None else round(speed, 2),
        "eta_seconds": round(seen.pending / speed, 1) if speed and knows_all else None,
        "error": error_of(row.error_code, row.error_detail),
        "links": {
            "self": f"/v1/ingestions/{row.id}",
            "html": f"/ingestions/{row.id}",
            "results": f"/v1/ingestions/{row.id}/results",
        },
    }


def model_json(
    row: Row[Any], versions: Sequence[Row[Any]], workers: Sequence[Row[Any]], *, default: str
) -> Model:
    """A row of `models.states` with its versions, as the API answers it.

    Args:
        row: The model's state.
        versions: The model's versions, newest first.
        workers: The live workers.
        default: Name of the default model.
    """
    current = next((v for v in versions if v.id == row.current_version), None)
    spec = None if current is None else ModelSpec(**current.spec)
    unavailable = current is None and not row.downloading
    return {
        "name": row.name,
        "state": "unavailable" if unavailable else "ready" if current else "downloading",
        "current": None if current is None else current.version,
        "versions": [v.version for v in versions if v.removed_at is None],
        "default": row.name == default,
        "input_size": None if spec is None else {"width": spec.width, "height": spec.height},
        "output": None if spec is None else spec.output,
        "activation": None if spec is None else spec.activation,
        "label_count": None if current is None else len(current.labels) or None,
        "engine": None if spec is None else spec.engine,
        "precision": None if spec is None else spec.precision,
        "workers": len(serving_version(workers, row.current_version)),
        "progress": {"bytes": row.download_bytes or 0, "total_bytes": row.download_total_bytes}
        if row.downloading
        else None,
        "reason": reason(row) if unavailable else None,
        "mend": mend(row.name) if unavailable else None,
        "links": {"self": f"/v1/models/{row.name}"},
    }


def version_json(row: Row[Any], *, is_current: bool, workers: Sequence[Row[Any]]) -> ModelVersion:
    """A row of `models.versions_of`, as the API answers it."""
    spec = ModelSpec(**row.spec)
    labels: list[Label] = [{"class_id": id_, "label": label} for id_, label in row.labels]
    return {
        "model": row.model,
        "version": row.version,
        "current": is_current,
        "input_size": {"width": spec.width, "height": spec.height},
        "output": spec.output,
        "activation": spec.activation,
        "label_count": len(labels) or None,
        "labels": labels,
        "engine": spec.engine,
        "precision": spec.precision,
        "weights": {"sha256": spec.sha256, "size_bytes": spec.size_bytes},
        "workers": len(serving_version(workers, row.id)),
        "installed_at": _time_or_none(row.installed_at),
        "removed_at": _time_or_none(row.removed_at),
        "links": {
            "self": f"/v1/models/{row.model}/versions/{row.version}",
            "model": f"/v1/models/{row.model}",
        },
    }


def _timings(row: Row[Any]) -> Timings | None:
    """Null until the job has ended, and for one whose result was there already."""
    if row.finished_at is None or row.reused:
        return None
    started = row.started_at
    return {
        "queued_ms": None if started is None else _milliseconds(row.created_at, started),
        "decode_ms": row.decode_ms,
        "inference_ms": row.inference_ms,
        "total_ms": _milliseconds(row.created_at, row.finished_at),
    }


def _delete_at(ended_at: datetime | None) -> str | None:
    """When what ended then is removed; it follows the setting, as what removes it does."""
    days = services().settings.retention_days
    return _time(ended_at + timedelta(days=days)) if days and ended_at is not None else None


def _milliseconds(begin: datetime, end: datetime) -> float:
    return round((end - begin).total_seconds() * 1000, 1)


def _time(value: datetime) -> str:
    """UTC as RFC 3339 writes it."""
    return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _time_or_none(value: datetime | None) -> str | None:
    return None if value is None else _time(value)
