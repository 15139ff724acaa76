"""Whether the service is well: one headline, and every reason as a sentence."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from shared.errors import CODES
from shared.jobs.depth import MOST_COUNTED
from web.pages.model_views import ModelView
from web.pages.statistics import Snapshot
from web.pages.words import size

# Of the jobs that ended lately, so great a share may fail: one broken image is nobody's alarm.
_FAILING_SHARE = 0.1
_FAILING_LEAST = 3
_FAILING_MINUTES = 15
_LITTLE_SPACE_BYTES = 10**9


@dataclass(frozen=True)
class Condition:
    """How the service is.

    Attributes:
        tone: Colour of the badge.
        reasons: What is not well, as sentences; commands stand between backticks.
        notes: What is going on besides.
    """

    tone: str
    badge: str
    headline: str
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


def judge(now: Snapshot, *, default: str) -> Condition:
    """What a reader has to know first.

    Args:
        now: The service as it is.
        default: Name of the default model, which is expected to be there.
    """
    works = any(worker.live for worker in now.workers)
    reasons = tuple(_reasons(now, default, works=works))
    notes = tuple(_notes(now, reasons))
    if not works:
        return Condition("bad", "Down", "No image is being classified", reasons, notes)
    if reasons:
        return Condition("wait", "Degraded", "Not everything is well", reasons, notes)
    return Condition("good", "Healthy", "All is well", (), notes)


def at_least(count: int) -> str:
    """A count that ended at the limit says so."""
    return f"{count:,}" if count <= MOST_COUNTED else f"more than {MOST_COUNTED:,}"


def title_of(status: str, code: str) -> str:
    """What a job's error is, in a few words."""
    if status == "expired":
        return "The deadline passed before the job’s turn came"
    return CODES[code].title if code in CODES else code


def _reasons(now: Snapshot, default: str, *, works: bool) -> Iterator[str]:
    if not works:
        yield "No worker is running. Jobs are accepted and kept until one is."
    for model in now.models:
        yield from _of_model(now, model, expected=model.name == default, works=works)
    if works:
        yield from _of_waiting(now)
        troubles = (worker.trouble for worker in now.workers if worker.live and worker.trouble)
        told = " ".join(sentence for model in now.models for sentence in model.sentences)
        yield from dict.fromkeys(trouble for trouble in troubles if trouble not in told)
    if now.parked:
        jobs = "A job waits" if now.parked == 1 else f"{at_least(now.parked)} jobs wait"
        yield f"{jobs} because the storage could not read the image. This is tried again by itself."
    yield from _of_failures(now)
    if now.free_bytes is not None and now.free_bytes < _LITTLE_SPACE_BYTES:
        yield f"The disk of the images is nearly full: {size(now.free_bytes)} are free."


def _of_model(now: Snapshot, model: ModelView, *, expected: bool, works: bool) -> Iterator[str]:
    """What is wrong with one model; nobody misses one that was never asked for."""
    missed = expected or model.name in now.downloads_failed
    if model.state == "unavailable" and (missed or _waiting_for(now, model.name)):
        commands = " or ".join(f"`{command}`" for command in model.commands)
        yield " ".join((f"{model.name} is not installed.", *model.sentences, f"Run {commands}."))
    elif model.state in ("loading", "waiting") and works:
        why = " ".join(model.sentences[1:])  # the first one names its version
        yield f"{model.name} is not loaded by any worker. {why}"


def _waiting_for(now: Snapshot, model: str) -> int:
    return sum(each.count for each in now.waiting if each.model == model)


def _of_waiting(now: Snapshot) -> Iterator[str]:
    """Jobs of versions that nobody serves, beside those of current ones, which are told above."""
    served = {id_ for worker in now.workers if worker.live for id_ in worker.versions}
    told = {model.name for model in now.models if model.state in ("loading", "waiting")}
    waiting: dict[int, int] = {}
    for each in now.waiting:
        if each.version_id not in served and each.version is not None and each.model not in told:
            waiting[each.version_id] = waiting.get(each.version_id, 0) + each.count
    for version_id, count in waiting.items():
        jobs = "A job waits" if count == 1 else f"{at_least(count)} jobs wait"
        yield f"{jobs} for {now.names[version_id]}, which no running worker has loaded."


def _of_failures(now: Snapshot) -> Iterator[str]:
    lately = now.minutes[-_FAILING_MINUTES:]
    ended = Counter[str]()
    kinds = Counter[tuple[str, str]]()
    for minute in lately:
        ended.update(minute.ended)
        kinds.update({(each.status, each.code): each.count for each in minute.failures})
    failed = ended["failed"] + ended["expired"]
    answered = failed + ended["succeeded"]
    if failed >= _FAILING_LEAST and failed > _FAILING_SHARE * answered and kinds:
        why = title_of(*kinds.most_common(1)[0][0])
        yield (
            f"{failed:,} of the {answered:,} jobs that ended in the last {_FAILING_MINUTES} minutes"
            f" failed. The most frequent reason: {why[:1].lower()}{why[1:]}."
        )


def _notes(now: Snapshot, reasons: tuple[str, ...]) -> Iterator[str]:
    if not now.models:
        yield "No model is known yet. The first ones appear within seconds of the start."
    for model in now.models:
        if model.state == "downloading":
            yield f"{model.name} is being downloaded: {model.progress}."
    if not reasons:
        ready = [model.name for model in now.models if model.state == "ready"]
        if ready:
            yield f"Ready: {', '.join(ready)}."
