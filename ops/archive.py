"""A look into a `.keras` archive before anything loads it: does it name code that is not Keras's.

Keras itself refuses code when it loads in safe mode; this refuses sooner, and says why.
"""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ops.install import NotAModel

WEIGHTS_IN_ARCHIVE = "model.weights.h5"
_CONFIG = "config.json"
_KINDS = {b"\x89": "a whole model in HDF5 (.h5)", b"\x80": "a pickle"}  # by their first byte
_LAMBDAS = {"Lambda", "__lambda__"}


def check_archive(path: Path) -> None:
    """See that a file is a `.keras` archive, made of nothing but Keras's own layers.

    Raises:
        NotAModel: It is not, and why.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            kind = _KINDS.get(file.read(1), "no .keras archive of Keras 3")
        raise NotAModel(
            f"{path} is {kind}. Only .keras archives are taken, because loading anything else can "
            "run code: save it with model.save('model.keras')"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            missing = {_CONFIG, WEIGHTS_IN_ARCHIVE} - names
            config = None if missing else json.loads(archive.read(_CONFIG))
    except (zipfile.BadZipFile, ValueError) as error:
        raise NotAModel(f"{path} is damaged: {error}") from error
    if missing:
        raise NotAModel(f"{path} is no .keras archive of Keras 3: it has no {min(missing)}")
    for what in _foreign(config):
        raise NotAModel(
            f"{path} has {what}, which is code, and code in a model file is never run. "
            "Build the model of Keras's own layers"
        )


def _foreign(config: object) -> Iterator[str]:
    """What Keras could not build from its own classes alone."""
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            if "class_name" in part and (what := _foreign_class(part)):
                yield what
            # How it was trained is not loaded, so a loss of one's own does no harm.
            waiting += [value for key, value in part.items() if key != "compile_config"]


def _foreign_class(config: dict[str, Any]) -> str | None:
    name, module = config["class_name"], config.get("module", "builtins")
    if name in _LAMBDAS:
        return "a Lambda layer" if name == "Lambda" else "a lambda function"
    if name == "function":  # Keras's own are saved as their names alone
        return f"the function {config.get('config')} of your own"
    if module is None:  # of the script that saved it, or registered under a name
        return f"the class {config.get('registered_name') or name} of your own"
    if module in ("builtins", "keras") or str(module).startswith("keras."):
        return None
    return f"{module}.{name}"
