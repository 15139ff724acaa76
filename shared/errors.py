"""The exceptions of the service, and the registry of the codes that clients see.

ServiceError
├── ConfigurationError     a setting is wrong; the process ends
├── Unavailable            database or storage is away; web answers 503, workers try again
├── ObjectMissing          the storage says, definitely, that an object is not there
├── SourceEnded            (worker.sources) an ingestion's source cannot be read any further
├── EntryError             (worker.sources) one entry of it cannot be had
└── ProblemError           refused, with a code a client can rely on
"""

from dataclasses import dataclass
from typing import Any


class ServiceError(Exception):
    """The root of what this service raises on purpose."""


class ConfigurationError(ServiceError):
    """A setting is wrong."""


class Unavailable(ServiceError):
    """The database or the storage cannot be used right now."""


class ObjectMissing(ServiceError):
    """There is no such object: a definite answer of the storage, not a failure to ask."""


@dataclass(frozen=True)
class Code:
    """What a code means, wherever it is told: in a problem of the API or in a job's error."""

    status: int
    title: str
    retryable: bool = False


# Stable: clients decide by these. Job errors and API problems share one registry.
CODES: dict[str, Code] = {
    "bad_request": Code(400, "The request cannot be read"),
    "cross_site": Code(403, "Requests from other sites are refused"),
    "not_found": Code(404, "There is no such thing"),
    "method_not_allowed": Code(405, "This address does not take that method"),
    "already_finished": Code(409, "The job or ingestion has already finished"),
    "not_finished": Code(409, "The ingestion has not finished yet"),
    "part_of_ingestion": Code(409, "The job belongs to an ingestion"),
    "idempotency_gone": Code(410, "What was made with this Idempotency-Key was deleted"),
    "image_too_large": Code(413, "The image is too large"),
    "request_too_large": Code(413, "The request is too large"),
    "unsupported_image": Code(415, "This is not an image type the service reads"),
    "unsupported_media_type": Code(415, "This content type is not taken here"),
    "invalid_value": Code(422, "A value is not valid"),
    "idempotency_mismatch": Code(422, "The Idempotency-Key was used for another request"),
    "source_refused": Code(403, "The operator does not allow this source or output"),
    "unsupported_source": Code(415, "This is not a source the service reads"),
    "model_unknown": Code(422, "There is no such model"),
    "too_many_jobs": Code(429, "You have too many jobs waiting", retryable=True),
    "too_many_ingestions": Code(429, "You have too many unfinished ingestions", retryable=True),
    "internal_error": Code(500, "Something went wrong on our side", retryable=True),
    "model_unavailable": Code(503, "The model is not installed", retryable=True),
    "service_unavailable": Code(503, "The service cannot do this right now", retryable=True),
    "backlog_full": Code(503, "The service has too many jobs waiting", retryable=True),
    # Of jobs only
    "image_unreadable": Code(422, "The image cannot be decoded"),
    "image_missing": Code(410, "The stored image is gone"),
    "image_unreachable": Code(503, "The stored image could not be read for a long time", True),
    "worker_lost": Code(500, "The image ended its worker process, repeatedly"),
    "inference_failed": Code(500, "The model failed on this image", retryable=True),
    "deadline_passed": Code(504, "The deadline passed"),
    # Of items and ingestions only
    "entry_refused": Code(422, "An entry of the archive is not taken"),
    "source_damaged": Code(422, "The source is damaged"),
    "source_too_large": Code(413, "The source is too large"),
    "source_missing": Code(410, "The source, or one of its images, is not there"),
    "source_unreachable": Code(503, "The source could not be reached", retryable=True),
    "too_many_failures": Code(422, "More images failed than `max_failures` allows"),
    "expander_lost": Code(500, "The source ended its background worker, repeatedly"),
}


class ProblemError(ServiceError):
    """A refusal that a client is told: a code of `CODES`, and a sentence for people."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: list[dict[str, Any]] | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.retry_after_seconds = retry_after_seconds
