"""The image and the composition, as far as they can be seen without Docker."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from ops.cli import cli
from shared.heartbeat import beat
from shared.settings import PREFIX, Settings
from tests.services import ROOT

BINARIES = Path(sys.executable).parent
OURS = ("migrate", "web", "worker", "background")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(read("docker-compose.yml"))["services"])


@pytest.mark.parametrize(
    "command",
    [
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
        ["hadolint", "Dockerfile"],
    ],
    ids=lambda command: command[0],
)
def test_the_files_are_well_formed(command: list[str]) -> None:
    done = subprocess.run(
        [BINARIES / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", ["Dockerfile", "docker-compose.yml"])
def test_every_setting_they_make_is_one(file: str) -> None:
    known = {(PREFIX + name).upper() for name in Settings.model_fields}
    named = set(re.findall(rf"^ *(?:ENV )?({PREFIX}\w+)[:=]", read(file), re.MULTILINE))
    assert named
    assert named <= known


def test_every_container_runs_a_command_that_there_is(services: dict[str, Any]) -> None:
    for name in OURS:
        command: click.Command = cli
        for word in services[name]["command"]:
            assert isinstance(command, click.Group)
            command = command.commands[word]
        assert not isinstance(command, click.Group), name


def test_only_web_is_published_and_only_to_this_machine(services: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"web": ["${PUBLISH:-127.0.0.1:8000}:8000"]}


def test_every_lasting_container_is_watched_and_started_again(services: dict[str, Any]) -> None:
    for name in services.keys() - {"migrate"}:
        assert services[name]["healthcheck"]["test"], name
        assert services[name]["restart"] == "unless-stopped", name
    assert "healthcheck" not in services["migrate"]
    assert "restart" not in services["migrate"]


@pytest.mark.parametrize("role", ["worker", "background"])
def test_a_worker_is_healthy_while_its_heart_beats(
    services: dict[str, Any], tmp_path: Path, role: str
) -> None:
    kind, test = services[role]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    directory = services[role]["environment"]["CLASSIFIER_HEARTBEAT_DIR"]
    assert test.count(directory) == 1

    def healthy() -> bool:
        command = test.replace(directory, str(tmp_path / "heartbeat"))
        return subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 0

    assert not healthy()
    beat(tmp_path / "heartbeat", "other")
    assert not healthy()
    beat(tmp_path / "heartbeat", role)
    assert healthy()
    long_ago = time.time() - 200
    os.utime(tmp_path / "heartbeat" / role, (long_ago, long_ago))
    assert not healthy()
    beat(tmp_path / "heartbeat", role)
    assert healthy()


def copy_as_the_builder_gets_it(target: Path) -> None:
    """What `.dockerignore` lets through: it is a list of what to take."""
    patterns = [line for line in read(".dockerignore").splitlines() if not line.startswith("#")]
    assert patterns[0] == "*"
    taken = [pattern.removeprefix("!") for pattern in patterns if pattern.startswith("!")]
    assert set(patterns) == {"*", "**/__pycache__", *(f"!{name}" for name in taken)}
    for name in taken:
        source = ROOT / name
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target / name)


def test_what_the_image_holds_is_enough(tmp_path: Path) -> None:
    copy_as_the_builder_gets_it(tmp_path / "app")

    def classify(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "ops.cli", *arguments],
            cwd=tmp_path,
            env={
                "PATH": os.defpath,
                "PYTHONPATH": str(tmp_path / "app"),
                "CLASSIFIER_DATA_DIR": str(tmp_path / "data"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "Usage: classify" in classify("--help")
    assert classify("db", "upgrade") == "The database is up to date.\n"
    ready = {
        model["name"]: model["state"] for model in json.loads(classify("models", "list", "--json"))
    }
    assert ready["digits"] == "ready"
    web = subprocess.run(
        [sys.executable, "-P", "-c", "import web.app; print(web.app.__file__)"],
        env={"PATH": os.defpath, "PYTHONPATH": str(tmp_path / "app")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert web.stdout.strip() == str(tmp_path / "app" / "web" / "app.py")
