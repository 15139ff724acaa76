"""The shapes of the interface: the options of a job, and the bodies that are answered.

The answers are TypedDicts: `representation` is held to them by the type checker, and
`/openapi.json` is made from them.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from shared.ingestions.addresses import check_output
from shared.ingestions.intake import IngestionOptions
from shared.jobs.answers import JobError, Prediction
from shared.jobs.caller_data import MAX_REFERENCE, clean_text, small_json
from shared.jobs.intake import JobOptions
from shared.settings import Settings

Lane = Literal["interactive", "bulk"]
Output = Literal["scores", "embedding"]
Status = Literal["queued", "running", "succeeded", "failed", "canceled", "expired"]

_YEAR_SECONDS = 366 * 86400

Text = Annotated[str, Field(max_length=MAX_REFERENCE), AfterValidator(clean_text)]


IngestionStatus = Literal[
    "queued", "running", "succeeded", "partially_succeeded", "failed", "canceled"
]


class CommonOptions(BaseModel):
    """What may be asked of a job, and of an ingestion for all of its jobs."""

    model_config = ConfigDict(extra="forbid")

    model: Text | None = Field(
        None, description="`name` or `name@version`. Without it, the default model."
    )
    top_k: int = Field(5, ge=1, le=20, description="How many predictions to answer at most.")
    min_score: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="Leave out predictions below it."
    )
    deadline_seconds: float | None = Field(
        None,
        gt=0,
        le=_YEAR_SECONDS,
        allow_inf_nan=False,
        description="Expire what was not begun within this time.",
    )
    reference: Text | None = Field(None, description="An id of your own.")
    metadata: Annotated[dict[str, Any], AfterValidator(small_json)] = Field(
        default_factory=dict, description="JSON of your own, at most 2 kB. In a form: as text."
    )


class Options(CommonOptions):
    """What may be asked of a job."""

    lane: Lane = Field("interactive", description="`bulk`: after everything interactive.")

    def for_job(self, default_model: str) -> JobOptions:
        """The options as the rest of the service takes them."""
        values = self.model_dump()
        return JobOptions(**values | {"model": self.model or default_model})


class BulkOptions(CommonOptions):
    """What may be asked of an ingestion."""

    max_failures: int | None = Field(
        None, ge=0, le=2**31 - 1, description="End it as failed as soon as more images failed."
    )
    output: Annotated[str, AfterValidator(clean_text)] | None = Field(
        None, description="The address below which result files are written."
    )

    def for_ingestion(self, settings: Settings) -> IngestionOptions:
        """The options as the rest of the service takes them.

        Raises:
            ProblemError: Results may not be written to `output`.
        """
        output = None if self.output is None else check_output(settings, self.output).url
        model = self.model or settings.default_model
        return IngestionOptions(**self.model_dump() | {"model": model, "output": output})


class ModelRef(TypedDict):
    """A model, and the version that answers; null until the model's download has ended."""

    name: str
    version: str | None


class Queue(TypedDict):
    """Estimates for a queued job. The position may rise when somebody new comes."""

    position: Annotated[int | None, Field(description="Jobs ahead; null beyond 1,000.")]
    eta_seconds: float | None
    workers: Annotated[int, Field(description="Live workers that serve the job's model version.")]


class Timings(TypedDict):
    """Where the time of a finished job went, in milliseconds."""

    queued_ms: float | None
    decode_ms: float | None
    inference_ms: float | None
    total_ms: float


class JobLinks(TypedDict):
    """Addresses that belong to a job, relative to the server's root."""

    self: str
    image: str
    html: str


class StoredImage(TypedDict):
    """What the content of a job's image is, whatever its name says."""

    media_type: str
    width: Annotated[int, Field(description="As stored, before it is turned as EXIF says.")]
    height: int
    size_bytes: int
    animated: Annotated[
        bool | None,
        Field(description="It has several frames or pages; the first is classified."),
    ]


class Job(TypedDict):
    """One image, to be classified by one version of a model."""

    id: str
    status: Status
    model: ModelRef
    top_k: int
    min_score: float | None
    lane: Lane
    filename: str | None
    image: StoredImage
    reference: str | None
    ingestion: str | None
    attempt: int
    created_at: str
    started_at: str | None
    finished_at: str | None
    deadline_at: str | None
    delete_at: Annotated[
        str | None,
        Field(
            description="From when on it may be removed, with its ingestion if it has one; null "
            "until that has ended, and where nothing is removed by itself."
        ),
    ]
    queue: Queue | None
    predictions: list[Prediction] | None
    embedding: list[float] | None
    reused: Annotated[bool, Field(description="The image's result was there already.")]
    error: JobError | None
    timings: Timings | None
    metadata: dict[str, Any]
    links: JobLinks


class Jobs(TypedDict):
    """A page of jobs."""

    data: Annotated[list[Job], Field(description="`queue` is null: it is counted for one job.")]
    next_cursor: Annotated[
        str | None,
        Field(
            description="Where the list goes on; null at its end. A page may hold fewer jobs than "
            "`limit`, even none, and have one: where no index serves a filter, each call looks "
            "through a stretch of the jobs."
        ),
    ]


class IngestionSource(TypedDict):
    """Where an ingestion's images come from."""

    kind: Literal["archive", "directory", "bucket", "list"]
    name: Annotated[str | None, Field(description="Its address, or the uploaded file's name.")]


class IngestionCounts(TypedDict):
    """How many items there are so far, and what became of them."""

    total: int
    pending: int
    succeeded: int
    failed: Annotated[int, Field(description="With those that were no images.")]
    canceled: int
    expired: int
    not_images: Annotated[int, Field(description="Those among the failed that had no image.")]


class ResultLine(TypedDict):
    """One item of an ingestion, as its results have it."""

    position: Annotated[int, Field(description="In the source, from 0.")]
    name: str
    reference: str | None
    status: Status
    predictions: list[Prediction] | None
    error: JobError | None
    metadata: dict[str, Any]
    job: Annotated[str | None, Field(description="Null of what was no image, or not to be had.")]
    embedding: NotRequired[list[float] | None]


class IngestionOutput(TypedDict):
    """The result files that are written for an ingestion."""

    url: str
    parts: int
    written_at: Annotated[str | None, Field(description="When the last one, the manifest, was.")]
    error: str | None


class IngestionLinks(TypedDict):
    """Addresses that belong to an ingestion, relative to the server's root."""

    self: str
    html: str
    results: str


class Ingestion(TypedDict):
    """Many jobs that come from one source."""

    id: str
    status: IngestionStatus
    source: IngestionSource
    model: ModelRef
    top_k: int
    min_score: float | None
    reference: str | None
    metadata: dict[str, Any]
    max_failures: int | None
    output: IngestionOutput | None
    created_at: str
    started_at: str | None
    expanded_at: Annotated[
        str | None, Field(description="When the source was read to its end: then `total` is all.")
    ]
    finished_at: str | None
    deadline_at: str | None
    delete_at: Annotated[
        str | None, Field(description="From when on it may be removed, as in a job.")
    ]
    counts: IngestionCounts
    images_per_second: Annotated[
        float | None, Field(description="Of the last 200 images; of all, once it has ended.")
    ]
    eta_seconds: Annotated[
        float | None, Field(description="An estimate; null until the source was read to its end.")
    ]
    error: Annotated[
        JobError | None,
        Field(description="What is wrong with the source, or why the ingestion was stopped."),
    ]
    links: IngestionLinks


class Ingestions(TypedDict):
    """A page of ingestions."""

    data: list[Ingestion]
    next_cursor: Annotated[str | None, Field(description="Where the list goes on.")]


class InputSize(TypedDict):
    """To what an image is resized, in pixels."""

    width: int
    height: int


class Progress(TypedDict):
    """How far a download is; the total is null until the server has said it."""

    bytes: int
    total_bytes: int | None


class Model(TypedDict):
    """A model, and whether it can be used."""

    name: str
    state: Literal["ready", "downloading", "unavailable"]
    current: Annotated[str | None, Field(description="The version that new jobs get.")]
    versions: Annotated[list[str], Field(description="The installed versions, newest first.")]
    default: Annotated[bool, Field(description="Whether it is used where a job names none.")]
    input_size: InputSize | None
    output: Annotated[
        Output | None, Field(description="What an answer is: scores of labels, or an embedding.")
    ]
    activation: Annotated[
        str | None,
        Field(description="What scores are: `softmax`, `sigmoid` or `none` (any number)."),
    ]
    label_count: Annotated[int | None, Field(description="Null of a model of embeddings.")]
    engine: str | None
    precision: str | None
    workers: Annotated[int, Field(description="Live workers that serve the current version.")]
    progress: Annotated[Progress | None, Field(description="Of a download that is going on.")]
    reason: Annotated[str | None, Field(description="Why it is unavailable.")]
    mend: Annotated[str | None, Field(description="What an operator does about it.")]
    links: dict[str, str]


class Weights(TypedDict):
    """The file of a version's weights."""

    sha256: str
    size_bytes: int


class Label(TypedDict):
    """One of the answers a model can give."""

    class_id: str
    label: str


class ModelVersion(TypedDict):
    """One version of a model; it is kept while a job cites it, removed or not."""

    model: str
    version: str
    current: bool
    input_size: InputSize
    output: Output
    activation: str
    label_count: int | None
    labels: Annotated[
        list[Label], Field(description="In the order of the model's output; none of embeddings.")
    ]
    engine: str
    precision: str
    weights: Weights
    workers: int
    installed_at: str | None
    removed_at: str | None
    links: dict[str, str]


class FieldError(TypedDict):
    """What is wrong with one field or option."""

    field: str
    detail: str


class Problem(TypedDict):
    """A refusal or a failure (RFC 9457)."""

    type: Annotated[str, Field(description="The address that explains the code.")]
    title: str
    status: int
    detail: str
    code: str
    retryable: Annotated[bool, Field(description="Whether the same request may succeed later.")]
    errors: NotRequired[Annotated[list[FieldError], Field(description="Field by field.")]]


class Models(TypedDict):
    """Every known model."""

    data: list[Model]
    next_cursor: str | None
