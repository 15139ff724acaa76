"""From a checked image and its options to a committed job, for the API and the pages alike."""

import re
from uuid import UUID

from flask import g, request

from shared.errors import ProblemError
from shared.jobs import intake
from shared.jobs.intake import Caller, JobOptions, NewImage
from shared.models import Target, resolve
from web.owners import current_owner
from web.services import services

_FILENAME_CHARACTERS = 255
# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def accept(
    image: NewImage,
    filename: str | None,
    options: JobOptions,
    *,
    idempotency_key: str | None = None,
) -> UUID:
    """Accept a job and ring for it; when this returns, the job is committed.

    Raises:
        ProblemError: The model is unknown or not installed, there is no room for another job, or
            the Idempotency-Key stands for another request or a deleted job.
        Unavailable: Database or storage is away; nothing was accepted.
    """
    if not options.model.isprintable():  # PostgreSQL cannot even be asked for a name with NUL
        raise ProblemError("model_unknown", f"There is no model {options.model!r}.")
    own = services()
    caller = current_caller(idempotency_key)
    with own.database.read() as connection:
        if idempotency_key is not None:
            # Before the model is looked at: a replay gets its job whatever became of the model.
            known = intake.replayed(connection, caller, image.sha256, options)
            if known is not None:
                return known
        target = resolve(connection, options.model)
    _check_room(image, options, target, caller)
    accepted = intake.submit(
        own.database, own.storage, image, _clean(filename), options, target, caller
    )
    if accepted.queued:
        own.backlog.add(caller.owner, options.lane)
        own.bell.ring(options.model.partition("@")[0], options.lane)
    return accepted.job_id


def _check_room(image: NewImage, options: JobOptions, target: Target, caller: Caller) -> None:
    """Refuse a job that would wait where enough wait already.

    Raises:
        ProblemError: `backlog_full` or `too_many_jobs`.
        Unavailable: The database is away.
    """
    own = services()
    refusal = own.backlog.refusal(caller.owner, options.lane)
    if refusal is not None:
        with own.database.read() as connection:
            if not intake.is_answered(connection, image.sha256, target):
                raise refusal


def current_caller(idempotency_key: str | None = None) -> Caller:
    """Who makes the current request."""
    return Caller(current_owner(), g.request_id, _trace_parent(), idempotency_key)


def _clean(filename: str | None) -> str | None:
    """The name as the client gave it, kept as text: cut to length, without what cannot be seen."""
    # Some systems write spaces of other kinds, such as U+202F, into the names of screenshots.
    spaced = (" " if c.isspace() else c for c in filename or "")
    return "".join(c for c in spaced if c.isprintable())[:_FILENAME_CHARACTERS].strip() or None


def _trace_parent() -> str | None:
    """The caller's trace, where it sends a well-formed one."""
    value = request.headers.get("traceparent", "")
    return value if _TRACE_PARENT.fullmatch(value) else None
