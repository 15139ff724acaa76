"""A model of one's own: a directory with `model.keras`, `labels.txt` and `model.toml`."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ops.archive import check_archive
from ops.catalogue import APPLICATIONS, DOWNLOADS
from ops.install import Check, Labels, NotAModel, check_name, install_files, sha256_of
from ops.labels import read_labels
from shared.database import Database
from shared.models import ModelSpec
from shared.storage.protocol import Storage

_TOML, _LABELS, _WEIGHTS = "model.toml", "labels.txt", "model.keras"
_MOST_PIXELS = 4096  # a side; far beyond what anybody trains

_PREPROCESSINGS = ("scale", *sorted({each.preprocessing for each in APPLICATIONS.values()}))


class _Table(BaseModel):
    # Unknown keys are mistyped ones, and a string is no number.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _Input(_Table):
    height: int = Field(gt=0, le=_MOST_PIXELS)
    width: int = Field(gt=0, le=_MOST_PIXELS)
    resize: Literal["nearest", "bilinear"] = "nearest"


class _Preprocessing(_Table):
    kind: Literal[_PREPROCESSINGS]  # type: ignore[valid-type]
    scale: float | None = None
    offset: float | None = None

    @model_validator(mode="after")
    def _scale_alone_has_numbers(self) -> Self:
        if self.kind != "scale" and not (self.scale is self.offset is None):
            raise ValueError("scale and offset belong to the kind scale")
        return self


class _Output(_Table):
    activation: Literal["softmax", "sigmoid", "none"] | None = None
    embedding: bool = False

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> Self:
        if self.embedding and self.activation not in (None, "none"):
            raise ValueError("an embedding has no activation")
        if not self.embedding and self.activation is None:
            raise ValueError("say the activation (softmax, sigmoid or none), or embedding = true")
        return self


class _Toml(_Table):
    name: str | None = None
    description: str | None = None
    input: _Input
    preprocessing: _Preprocessing
    output: _Output


def read_directory(directory: Path) -> tuple[ModelSpec, Labels]:
    """The spec and labels of a model of one's own.

    Raises:
        NotAModel: A file is missing, or says something that cannot be served.
    """
    toml = _read_toml(directory)
    labels_file, weights = directory / _LABELS, directory / _WEIGHTS
    if not weights.is_file():
        raise NotAModel(
            f"{directory} has no file {_WEIGHTS}. Others, as .h5 files and pickles, are not taken, "
            f"because loading them can run code: save it with model.save('{_WEIGHTS}')"
        )
    check_archive(weights)
    labels: Labels = []
    if not toml.output.embedding:
        if not labels_file.is_file():
            raise NotAModel(f"{directory} has no file {_LABELS}, with a label for each score")
        labels = read_labels(labels_file)
    elif labels_file.exists():
        raise NotAModel(f"{labels_file}: an embedding has no labels, and {_TOML} says it is one")
    preprocessing = toml.preprocessing
    spec = ModelSpec(
        architecture="directory",
        weights=_WEIGHTS,
        height=toml.input.height,
        width=toml.input.width,
        resize=toml.input.resize,
        preprocessing=preprocessing.kind,
        scale=1.0 if preprocessing.scale is None else preprocessing.scale,
        offset=0.0 if preprocessing.offset is None else preprocessing.offset,
        activation=toml.output.activation or "none",
        output="embedding" if toml.output.embedding else "scores",
        sha256=sha256_of(weights),
        size_bytes=weights.stat().st_size,
    )
    return spec, labels


def _read_toml(directory: Path) -> _Toml:
    path = directory / _TOML
    if not path.is_file():
        raise NotAModel(f"{directory} has no file {_TOML}")
    try:
        return _Toml.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise NotAModel(f"{path}: {'; '.join(_sentences(error))}") from error
    except (ValueError, OSError) as error:  # not TOML, or not UTF-8
        raise NotAModel(f"{path}: {error}") from error


def _sentences(error: ValidationError) -> Iterator[str]:
    for each in error.errors():
        told = each["msg"].removeprefix("Value error, ").removeprefix("Input ")
        if each["type"] == "extra_forbidden":
            told = "there is no such key"
        yield f"{'.'.join(map(str, each['loc']))}: {told}"


def install_directory(
    database: Database, storage: Storage, name: str, directory: Path, *, check: Check | None = None
) -> str:
    """Install a model of one's own from its directory.

    `check` loads it for real and raises where that fails; what we ship ourselves needs none.

    Raises:
        NotAModel: It is not complete, or cannot be served.
    """
    check_name(name)
    if name in DOWNLOADS:
        raise NotAModel(f"{name} is a model of keras.applications: give yours a name of its own")
    spec, labels = read_directory(directory)
    if check is not None:
        check(spec, labels, directory)
    return install_files(database, storage, name, spec, labels, directory / spec.weights)
