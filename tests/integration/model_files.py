"""Small model files to be installed or refused, and the command that does it."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py

from ops.catalogue import BUNDLED
from tests.services import AS_INSTALLED, ROOT


def hdf5(attributes: dict[str, str], *groups: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with h5py.File(path, "w") as file:
            for name, value in attributes.items():
                file.attrs[name] = value
            for group in groups:
                file.create_group(group)

    return make


def archive(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_", "."), data)


def own_directory(parent: Path, name: str = "own") -> Path:
    """A copy of the directory of digits, to be changed."""
    directory = parent / name
    directory.mkdir()
    for file in ("model.keras", "model.toml", "labels.txt"):
        (directory / file).write_bytes((BUNDLED["digits"] / file).read_bytes())
    return directory


def change_toml(directory: Path, old: str, new: str) -> None:
    path = directory / "model.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_config(archive_path: Path, change: Callable[[str], str]) -> None:
    """Write a `.keras` archive anew, with another config in it."""
    with zipfile.ZipFile(archive_path) as old:
        members = {name: old.read(name) for name in old.namelist()}
    members["config.json"] = change(members["config.json"].decode()).encode()
    json.loads(members["config.json"])
    with zipfile.ZipFile(archive_path, "w") as new:
        for name, data in members.items():
            new.writestr(name, data)


def classify(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command, with a data directory of its own and nothing else set."""
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("CLASSIFIER_", "DATABASE_"))},
        "PYTHONPATH": str(AS_INSTALLED),
        "CLASSIFIER_DATA_DIR": str(data),
        "CLASSIFIER_WEIGHTS_URL": "http://127.0.0.1:9",  # nothing listens there
        "HOME": str(data.parent),
        "no_proxy": "*",
    }
    return subprocess.run(
        [sys.executable, "-m", "ops.cli", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
