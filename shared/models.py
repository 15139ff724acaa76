"""The registry of models: what is known, what is installed, which version is current."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Connection, Row, insert, or_, select, update

from shared.database import moment, stamp
from shared.errors import ProblemError
from shared.tables import LANES, ingestions, lanes, model_versions, models
from shared.upserts import insert_if_absent


@dataclass(frozen=True)
class ModelSpec:
    """What a worker needs to serve a version; its files lie under `models/<version>/`.

    Attributes:
        architecture: Name of a `keras.applications` constructor (`VGG16`), or `directory` for a
            model of one's own (`model.keras`).
        weights: The file to load, within the version's directory.
        height, width: Input size in pixels; images are resized to it, `resize` says how.
        preprocessing: `keras.applications` module whose `preprocess_input` is used (`vgg16`), or
            `scale` for `value * scale + offset`.
        activation: What the last layer's numbers are: `softmax`, `sigmoid` or `none`.
        output: `scores`, one for each label; or `embedding`, of a model without a top, which has
            no labels.
        options: Of the `keras.applications` constructor, as Keras names them, without `weights`
            and `input_shape`.
        sha256: Of the weights file.
        imagenet_stem: Whether it is built as Keras builds it for its own ImageNet weights, where
            that differs: EfficientNetB0 to B7 then scale their input once more.
        source: From where the weights were downloaded, below the setting `weights_url`; None of a
            file that an operator brought.
    """

    architecture: str
    weights: str
    height: int
    width: int
    preprocessing: str
    sha256: str
    size_bytes: int
    resize: str = "nearest"
    scale: float = 1.0
    offset: float = 0.0
    activation: str = "softmax"
    output: Literal["scores", "embedding"] = "scores"
    engine: str = "tensorflow"
    precision: str = "float32"
    options: dict[str, Any] = field(default_factory=dict)
    imagenet_stem: bool = False
    source: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As it is kept in `model_versions.spec`."""
        return asdict(self)


@dataclass(frozen=True)
class Target:
    """The version that a new job gets, and whether the client named it."""

    version_id: int
    pinned: bool


@dataclass(frozen=True)
class Version:
    """An installed version, as workers load it."""

    id: int
    model: str
    version: str
    spec: ModelSpec
    labels: tuple[tuple[str, str], ...]

    @property
    def name(self) -> str:
        """`model@version`, as clients write it."""
        return f"{self.model}@{self.version}"


def files_prefix(version: str) -> str:
    """Where a version's files lie in the storage."""
    return f"models/{version}"


def register(connection: Connection, name: str) -> None:
    """Make a model known, with its placeholder; it need not be installed."""
    if insert_if_absent(connection, models, {"name": name}):
        _insert_version(connection, {"model": name, "version": None})


def install(
    connection: Connection,
    name: str,
    version: str,
    spec: ModelSpec,
    labels: Sequence[tuple[str, str]],
) -> int:
    """Make an installed version known (or known again) and current; its id comes back.

    Its files are in the storage already. The version's lanes are inserted with it.
    """
    register(connection, name)
    found = connection.scalar(
        select(model_versions.c.id).where(
            model_versions.c.model == name, model_versions.c.version == version
        )
    )
    if found is None:
        found = _insert_version(
            connection,
            {
                "model": name,
                "version": version,
                "spec": spec.to_json(),
                "labels": [list(label) for label in labels],
                "installed_at": stamp(),
            },
        )
    else:
        connection.execute(
            update(model_versions).where(model_versions.c.id == found).values(removed_at=None)
        )
    make_current(connection, name, found)
    return int(found)


def make_current(connection: Connection, name: str, version_id: int) -> None:
    """New jobs get this version; queued ones that are not pinned are moved by recovery.

    Ingestions that have waited for the model are pinned to it, so that none is a mixture.
    """
    connection.execute(
        update(models)
        .where(models.c.name == name)
        .values(current_version=version_id, download_error=None)
    )
    pin_ingestions(connection, name, version_id)


def pin_ingestions(connection: Connection, name: str, version_id: int) -> int:
    """Pin the ingestions that were accepted while the model was being downloaded."""
    placeholder = select(model_versions.c.id).where(
        model_versions.c.model == name, model_versions.c.version.is_(None)
    )
    return connection.execute(
        update(ingestions)
        .where(
            ingestions.c.settled_at.is_(None),
            ingestions.c.model_version == placeholder.scalar_subquery(),
        )
        .values(model_version=version_id, pinned=True)
    ).rowcount


def version_id(connection: Connection, name: str, version: str) -> int | None:
    """The id of an installed version."""
    return connection.scalar(
        select(model_versions.c.id).where(
            model_versions.c.model == name,
            model_versions.c.version == version,
            model_versions.c.removed_at.is_(None),
        )
    )


def load_version(connection: Connection, id_: int) -> Version:
    """An installed version with everything a worker needs."""
    row = connection.execute(select(model_versions).where(model_versions.c.id == id_)).one()
    labels = tuple((class_id, label) for class_id, label in row.labels)
    return Version(row.id, row.model, row.version, ModelSpec(**row.spec), labels)


def resolve(connection: Connection, named: str) -> Target:
    """The version that a job naming `model` or `model@version` gets.

    Raises:
        ProblemError: `model_unknown`, or `model_unavailable` with what mends it. No model ever
            stands in for another.
    """
    name, pinned, version = named.partition("@")
    model = connection.execute(_states().where(models.c.name == name)).first()
    if model is None:
        known = ", ".join(connection.scalars(select(models.c.name).order_by(models.c.name)))
        raise ProblemError("model_unknown", f"There is no model {name!r}. Known are: {known}.")
    if pinned:
        found = version_id(connection, name, version)
        if found is None:
            raise ProblemError("model_unknown", f"{name} has no installed version {version!r}.")
        return Target(found, pinned=True)
    if model.current_version is not None:
        return Target(model.current_version, pinned=False)
    if model.downloading:
        return Target(model.placeholder, pinned=False)
    raise ProblemError(
        "model_unavailable",
        f"The model {name} is not installed: {reason(model)} {mend(name)}",
        retry_after_seconds=60,
    )


def reason(model: Row[Any]) -> str:
    """Why a model that is not installed is not, as a sentence."""
    return model.download_error or "its weights have not been downloaded."


def mend(name: str) -> str:
    """What an operator does about a model that is not installed."""
    return (
        f"Run `classify models pull {name}` on a machine with network, "
        f"or `classify models import {name} FILE` with a weights file."
    )


def states(connection: Connection) -> Sequence[Row[Any]]:
    """Every known model with its current version and its download, by name."""
    return connection.execute(_states().order_by(models.c.name)).all()


def versions_of(connection: Connection, name: str) -> Sequence[Row[Any]]:
    """The versions of a model that have been installed, newest first."""
    return connection.execute(
        select(model_versions)
        .where(model_versions.c.model == name, model_versions.c.version.is_not(None))
        .order_by(model_versions.c.id.desc())
    ).all()


def _states() -> Any:
    placeholder = (
        select(model_versions.c.id)
        .where(model_versions.c.model == models.c.name, model_versions.c.version.is_(None))
        .scalar_subquery()
    )
    return select(
        models,
        placeholder.label("placeholder"),
        (models.c.download_lease_until > moment()).label("downloading"),
    )


def _insert_version(connection: Connection, values: dict[str, Any]) -> int:
    id_ = connection.execute(
        insert(model_versions).values(values).returning(model_versions.c.id)
    ).scalar_one()
    connection.execute(
        insert(lanes), [{"model_version": id_, "lane": lane, "clock": 0} for lane in LANES]
    )
    return int(id_)


def begin_download(connection: Connection, name: str, token: UUID, lease_seconds: float) -> bool:
    """Take the model's download; False while another process has it.

    Who has the same token is the same one, back after an interruption.
    """
    free = or_(
        models.c.download_lease_until.is_(None),
        models.c.download_lease_until < moment(),
        models.c.download_token == token,
    )
    return (
        connection.execute(
            update(models)
            .where(models.c.name == name, free)
            .values(
                download_token=token,
                download_lease_until=stamp(lease_seconds),
                download_bytes=0,
                download_total_bytes=None,
                download_error=None,
            )
        ).rowcount
        > 0
    )


def renew_download(
    connection: Connection, token: UUID, done: int, total: int | None, lease_seconds: float
) -> None:
    """Say how far the download is."""
    connection.execute(
        update(models)
        .where(models.c.download_token == token)
        .values(
            download_bytes=done,
            download_total_bytes=total,
            download_lease_until=stamp(lease_seconds),
        )
    )


def end_download(connection: Connection, token: UUID, error: str | None) -> None:
    """The download has ended, well or with an error that people will read."""
    connection.execute(
        update(models)
        .where(models.c.download_token == token)
        .values(download_token=None, download_lease_until=None, download_error=error)
    )
