"""Weights of an application: what a file holds is told by its content, not by its name."""

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ops.archive import WEIGHTS_IN_ARCHIVE
from ops.catalogue import Entry
from ops.install import Check, NotAModel, install_files
from shared.database import Database
from shared.models import ModelSpec
from shared.storage.protocol import Storage

_KERAS_3 = "weights.weights.h5"  # Keras tells the two formats apart by these endings
_LEGACY = "weights.h5"


def import_weights(
    database: Database, storage: Storage, entry: Entry, file: Path, work_dir: Path, *, check: Check
) -> str:
    """Install a weights file as a model's current version; its name comes back.

    `work_dir` has room for the weights; `check` loads them for real and raises where that fails.

    Raises:
        NotAModel: The file is not one that may be imported, or does not fit the architecture.
    """
    with extracted(file, work_dir) as weights:
        spec, labels = entry.spec(weights), entry.read_labels()
        check(spec, labels, weights.parent)
        return install_files(database, storage, entry.name, spec, labels, weights)


def install_random(
    database: Database,
    storage: Storage,
    entry: Entry,
    work_dir: Path,
    *,
    make: Callable[[ModelSpec, Path], None],
) -> str:
    """Install an application as it is before any training; the version's name comes back.

    `make` writes the weights of such a model to a file.
    """
    with _workplace(work_dir) as directory:
        weights = directory / _KERAS_3
        weights.touch()  # the spec of what is to be made; the sum in it is not asked
        make(entry.spec(weights), weights)
        labels = entry.read_labels()
        return install_files(database, storage, entry.name, entry.spec(weights), labels, weights)


@contextmanager
def extracted(file: Path, work_dir: Path, *, called: str | None = None) -> Iterator[Path]:
    """The weights alone, under the name that Keras needs, in a directory of their own.

    `called` is how the file is named to people.

    Raises:
        NotAModel: It is no weights file, with what it seems to be.
    """
    called = called or str(file)
    if not file.is_file():
        raise NotAModel(f"{called} is not a file")
    with _workplace(work_dir) as directory:
        if zipfile.is_zipfile(file):
            weights = directory / _KERAS_3
            _extract(file, weights, called)
            if _kind(weights, called) != _KERAS_3:
                raise NotAModel(f"{called} is not an archive of Keras 3")
        else:
            weights = directory / _kind(file, called)
            weights.symlink_to(file.absolute())
        yield weights


@contextmanager
def _workplace(work_dir: Path) -> Iterator[Path]:
    work_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="import-", dir=work_dir) as directory:
        yield Path(directory)


def _extract(archive: Path, weights: Path, called: str) -> None:
    """Take the weights out of a `.keras` archive; its config, which may name code, is not read."""
    try:
        with (
            zipfile.ZipFile(archive) as zipped,
            zipped.open(WEIGHTS_IN_ARCHIVE) as source,
            weights.open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 2**20)
    except KeyError:
        raise NotAModel(f"{called} is a zip file, but no .keras archive of Keras 3") from None
    except zipfile.BadZipFile as error:
        raise NotAModel(f"{called} is damaged: {error}") from error


def _kind(file: Path, called: str) -> str:
    """Under which name these weights are loaded."""
    import h5py

    if not h5py.is_hdf5(file):
        raise NotAModel(
            f"{called} is not an HDF5 weights file (.weights.h5, .h5) and no .keras archive; "
            "pickles and other formats are not taken, because loading them can run code"
        )
    try:
        with h5py.File(file, "r") as content:
            attributes, groups = set(content.attrs), set(content)
    except OSError as error:
        raise NotAModel(f"{called} is damaged: {error}") from error
    if "model_config" in attributes:
        raise NotAModel(
            f"{called} is a whole model in HDF5, and loading one can run code. "
            "Save its weights with model.save_weights('vgg16.weights.h5'), or it as .keras."
        )
    if "layer_names" in attributes:
        return _LEGACY
    if groups & {"layers", "_layer_checkpoint_dependencies"}:
        return _KERAS_3
    raise NotAModel(f"{called} is an HDF5 file, but holds no weights of Keras")
