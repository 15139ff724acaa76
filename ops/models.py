"""Installing a model version: its files into the storage, then its row, in this order.

Whatever fails before the row leaves files that nothing names; the same install writes over them.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from ops.catalogue import BUNDLED, DOWNLOADS, Entry, read_labels
from shared import migrations, models
from shared.database import Database
from shared.errors import ServiceError
from shared.models import ModelSpec
from shared.storage.protocol import Storage

_VERSION_DIGITS = 12
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")  # it is part of queue names and addresses
_PREPROCESSINGS = ("scale", "vgg16")

Labels = Sequence[tuple[str, str]]
Check = Callable[[ModelSpec, Labels, Path], None]


class NotAModel(ServiceError):
    """What was given is not a model that may be installed."""


def version_of(spec: ModelSpec, labels: Labels) -> str:
    """What a version is called: the same content has the same name on every machine."""
    content = {
        "weights": spec.sha256,
        "labels": [list(pair) for pair in labels],
        "preprocessing": [spec.preprocessing, spec.scale, spec.offset],
        "input": [spec.height, spec.width, spec.resize],
        "options": {**spec.options, "activation": spec.activation},
        "engine": spec.engine,
        "precision": spec.precision,
        "architecture": spec.architecture,
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_VERSION_DIGITS]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def install_files(
    database: Database,
    storage: Storage,
    name: str,
    spec: ModelSpec,
    labels: Labels,
    weights: Path,
    *,
    also: Callable[[Connection], None] = lambda _connection: None,
) -> str:
    """Put a version's files into the storage and make it current; its name comes back.

    `spec.sha256` was taken of the file `weights`; `also` is database work for the transaction
    that makes the version current.

    Raises:
        Unavailable: Database or storage is away; nothing was installed.
    """
    version = version_of(spec, labels)
    prefix = models.files_prefix(version)
    lines = "".join(f"{class_id}\t{label}\n" for class_id, label in labels)
    storage.write(f"{prefix}/labels.txt", lines.encode())
    storage.write_file(f"{prefix}/{spec.weights}", weights)

    def record(connection: Connection) -> None:
        models.install(connection, name, version, spec, labels)
        also(connection)

    database.transact(record)
    return version


def entry_spec(entry: Entry, weights: Path, file_name: str) -> ModelSpec:
    """The spec of a `keras.applications` model with these weights."""
    return ModelSpec(
        architecture=entry.architecture,
        weights=file_name,
        height=entry.height,
        width=entry.width,
        preprocessing=entry.preprocessing,
        sha256=sha256_of(weights),
        size_bytes=weights.stat().st_size,
    )


def read_directory(directory: Path) -> tuple[ModelSpec, Labels]:
    """The spec and labels of a model of one's own: `model.toml`, `labels.txt`, `model.keras`.

    Raises:
        NotAModel: A file is missing, or says something that cannot be served.
    """
    for file in ("model.toml", "labels.txt", "model.keras"):
        if not (directory / file).is_file():
            raise NotAModel(f"{directory} has no file {file}")
    try:
        config = tomllib.loads((directory / "model.toml").read_text(encoding="utf-8"))
        spec = _directory_spec(config, directory / "model.keras")
        labels = read_labels(directory / "labels.txt")
    except KeyError as error:
        raise NotAModel(f"{directory / 'model.toml'} does not say {error}") from error
    except (ValueError, TypeError) as error:
        raise NotAModel(f"{directory}: {error}") from error
    if len({class_id for class_id, _ in labels}) != len(labels) or not labels:
        raise NotAModel(f"{directory / 'labels.txt'} has no labels, or one of them twice")
    return spec, labels


def _directory_spec(config: dict[str, Any], weights: Path) -> ModelSpec:
    preprocessing = config["preprocessing"]
    if preprocessing["kind"] not in _PREPROCESSINGS:
        raise ValueError(f"preprocessing.kind is one of {', '.join(_PREPROCESSINGS)}")
    if config["input"].get("resize", "nearest") != "nearest":
        raise ValueError("input.resize is nearest")
    if config["output"]["activation"] != "softmax":
        raise ValueError("output.activation is softmax")
    return ModelSpec(
        architecture="directory",
        weights="model.keras",
        height=int(config["input"]["height"]),
        width=int(config["input"]["width"]),
        preprocessing=preprocessing["kind"],
        sha256=sha256_of(weights),
        size_bytes=weights.stat().st_size,
        scale=float(preprocessing.get("scale", 1.0)),
        offset=float(preprocessing.get("offset", 0.0)),
        activation="softmax",
    )


def install_directory(
    database: Database, storage: Storage, name: str, directory: Path, *, check: Check | None = None
) -> str:
    """Install a model of one's own from its directory.

    `check` loads it for real and raises where that fails; what we ship ourselves needs none.

    Raises:
        NotAModel: It is not complete, or cannot be served.
    """
    if not _NAME.fullmatch(name):
        raise NotAModel(f"{name!r} is no name for a model: small letters, digits, dot, - and _")
    if name in DOWNLOADS:
        raise NotAModel(f"{name} is a model with a fixed architecture: give it a weights file")
    spec, labels = read_directory(directory)
    if check is not None:
        check(spec, labels, directory)
    return install_files(database, storage, name, spec, labels, directory / spec.weights)


def prepare(database: Database, storage: Storage) -> None:
    """Bring the schema up to date, and make known and install what needs no download.

    Raises:
        Unavailable: Database or storage is away.
    """
    migrations.upgrade(database)
    for name in DOWNLOADS:
        database.transact(lambda connection, name=name: models.register(connection, name))  # type: ignore[misc]
    for name, directory in BUNDLED.items():
        if (directory / "model.keras").is_file() and not _is_known(database, name, directory):
            install_directory(database, storage, name, directory)


def _is_known(database: Database, name: str, directory: Path) -> bool:
    """Whether it was installed once: an operator's choice of another version is not undone."""
    version = version_of(*read_directory(directory))
    with database.read() as connection:
        return any(row.version == version for row in models.versions_of(connection, name))
