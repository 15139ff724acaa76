"""What the form on `/` hands in: each image is accepted or refused by itself."""

from dataclasses import dataclass, field
from uuid import UUID

from flask import request
from werkzeug.datastructures import FileStorage
from werkzeug.exceptions import RequestEntityTooLarge

from shared.errors import CODES, ProblemError, Unavailable
from shared.jobs.intake import JobOptions
from shared.settings import Settings
from shared.uploads import read_image
from web import submission

# The page's own name for the field, and the tutorial's.
_FIELDS = ("image", "fileImage")
_OTHER_FIELDS_BYTES = 2**20
_MOST_PARTS = 1000  # more than are accepted, so that the others can be told by name
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
    accepted: list[UUID] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)

    @property
    def status(self) -> int:
        """The answer's status where the form is shown again."""
        statuses = {refusal.status for refusal in self.refused}
        return statuses.pop() if len(statuses) == 1 else 422


def submit_form(settings: Settings) -> Submitted:
    """Accept the images of the current request, each a job of its own.

    Raises:
        Unavailable: Database or storage is away, and no image was accepted.
    """
    most = settings.max_images_per_form
    submitted = Submitted(settings.default_model)
    try:
        files = _files(most * settings.max_image_bytes + _OTHER_FIELDS_BYTES)
    except RequestEntityTooLarge:
        reason = f"That is too much at once. One form takes at most {most} images."
        submitted.refused.append(Refusal("", reason, 413))
        return submitted
    submitted.model = request.form.get("model") or settings.default_model
    if not files:
        submitted.refused.append(Refusal("", "Choose an image first.", 422))
        return submitted
    options = JobOptions(model=submitted.model)
    for file in files[:most]:
        try:
            submitted.accepted.append(_accept(file, options, settings))
        except ProblemError as problem:
            if problem.code in _OF_THE_FORM:
                submitted.refused = [refusal("", problem)]
                return submitted
            submitted.refused.append(refusal(file.filename or "", problem))
        except Unavailable:
            # What was accepted is kept, and is shown; without any the error is the whole answer.
            if not submitted.accepted:
                raise
            reason = "The service could not keep it just now. Upload it again."
            submitted.refused.append(Refusal(file.filename or "", reason, 503))
    submitted.refused += [
        Refusal(file.filename or "", f"One form takes at most {most} images.", 413)
        for file in files[most:]
    ]
    return submitted


def refusal(name: str, problem: ProblemError) -> Refusal:
    """A problem as the form tells it."""
    return Refusal(name, problem.detail, CODES[problem.code].status, problem.retry_after_seconds)


def _files(most_bytes: int) -> list[FileStorage]:
    """The chosen files. A browser sends an empty one, without a name, where none was chosen."""
    request.max_content_length = most_bytes
    request.max_form_parts = _MOST_PARTS
    return [file for name in _FIELDS for file in request.files.getlist(name) if file.filename]


def _accept(file: FileStorage, options: JobOptions, settings: Settings) -> UUID:
    # One byte more than allowed is enough to be refused.
    image = read_image(file.stream.read(settings.max_image_bytes + 1), settings)
    return submission.accept(image, file.filename, options)
