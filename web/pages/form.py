"""What the form on `/` hands in: some images, each by itself, or many as one ingestion."""

from dataclasses import dataclass, field
from uuid import UUID

from shared.errors import CODES, ProblemError, Unavailable
from shared.ingestions.intake import IngestionOptions
from shared.jobs.intake import JobOptions
from shared.settings import Settings
from shared.uploads import read_image
from web import ingesting, submission
from web.spooling import SpooledForm, spooled_form

# Refusals that are the whole form's, whatever its images are.
_OF_THE_FORM = frozenset({"model_unknown", "model_unavailable"})


@dataclass(frozen=True)
class Refusal:
    """An image that was not accepted, by name, and why; without a name the whole form was not."""

    name: str
    reason: str
    status: int
    retry_after_seconds: int | None = None


@dataclass
class Submitted:
    """What became of one form; `model` is the one that was chosen."""

    model: str
    ingestion: UUID | None = None
    accepted: list[UUID] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The answer's status where the form is shown again."""
        statuses = {refusal.status for refusal in self.refused}
        return statuses.pop() if len(statuses) == 1 else 422


def submit_form(settings: Settings) -> Submitted:
    """Accept the images of the current request, each a job of its own, or all as one ingestion.

    Raises:
        ProblemError: `bad_request`.
        Unavailable: Database or storage is away, and no image was accepted.
    """
    submitted = Submitted(settings.default_model)
    try:
        with spooled_form(settings) as form:
            submitted.model = form.fields.get("model") or settings.default_model
            if _is_ingestion(form, settings):
                options = IngestionOptions(model=submitted.model)
                submitted.ingestion = ingesting.accept(ingesting.source_of(form), options)
            elif form.images:
                _accept_each(form, submitted, settings)
            else:
                submitted.refused.append(Refusal("", "Choose an image first.", 422))
    except ProblemError as problem:
        if problem.code == "bad_request":
            raise
        submitted.refused = [refusal("", problem)]
    return submitted


def _is_ingestion(form: SpooledForm, settings: Settings) -> bool:
    """An archive or a list, a folder, or more images than one looks at one by one."""
    return (
        form.archive is not None
        or len(form.images) > settings.max_images_per_form
        or any("/" in name for name in form.images)
    )


def _accept_each(form: SpooledForm, submitted: Submitted, settings: Settings) -> None:
    options = JobOptions(model=submitted.model)
    for name, data in form.pack.images():
        try:
            image = read_image(data, settings)
            submitted.accepted.append(submission.accept(image, name, options))
        except ProblemError as problem:
            if problem.code in _OF_THE_FORM:
                raise
            submitted.refused.append(refusal(name, problem))
        except Unavailable:
            # What was accepted is kept, and is shown; without any the error is the whole answer.
            if not submitted.accepted:
                raise
            reason = "The service could not keep it just now. Upload it again."
            submitted.refused.append(Refusal(name, reason, 503))


def refusal(name: str, problem: ProblemError) -> Refusal:
    """A problem as the form tells it."""
    return Refusal(name, problem.detail, CODES[problem.code].status, problem.retry_after_seconds)
