"""Installing a model version: its files into the storage, then its row, in this order.

Whatever fails before the row leaves files that nothing names; the same install writes over them.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from sqlalchemy import Connection

from shared import models
from shared.database import Database
from shared.errors import ServiceError
from shared.models import ModelSpec
from shared.storage.protocol import Storage

_VERSION_DIGITS = 12
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")  # it is part of queue names and addresses

Labels = Sequence[tuple[str, str]]  # (class_id, label) in the order of the output; none: embedding
# Loads a version for real, from a directory that holds its weights, and raises where that fails.
Check = Callable[[ModelSpec, Labels, Path], None]


class NotAModel(ServiceError):
    """What was given is not a model that may be installed."""


def check_name(name: str) -> None:
    """See that a model may be called this.

    Raises:
        NotAModel: It may not.
    """
    if not _NAME.fullmatch(name):
        raise NotAModel(f"{name!r} is no name for a model: small letters, digits, dot, - and _")


def version_of(spec: ModelSpec, labels: Labels) -> str:
    """What a version is called: the same content has the same name on every machine."""
    content: dict[str, object] = {
        "weights": spec.sha256,
        "labels": [list(pair) for pair in labels],  # an embedding's are none
        "preprocessing": [spec.preprocessing, spec.scale, spec.offset],
        "input": [spec.height, spec.width, spec.resize],
        "options": {**spec.options, "activation": spec.activation},
        "engine": spec.engine,
        "precision": spec.precision,
        "architecture": spec.architecture,
    }
    if spec.imagenet_stem:
        content["imagenet_stem"] = True
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:_VERSION_DIGITS]


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def md5_of(path: Path) -> str:
    """MD5 of a file, as Keras publishes it: against damage, no secret depends on it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


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
