"""The walls between the packages, read from the source: who imports whom, and who may say what."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.services import ROOT

PACKAGES = ("web", "worker", "shared", "ops")
FRAMEWORKS = {"keras", "tensorflow"}
# Whom a package may never import, at any level of any of its modules.
WALLS = {
    "web": {"worker", "ops"} | FRAMEWORKS,
    "worker": {"web", "ops", "flask"},
    "shared": {"web", "worker", "ops", "flask"} | FRAMEWORKS,
    "ops": FRAMEWORKS,
}


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """The full names of all modules that a module imports, in functions too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _called(node) in {"import_module", "__import__"}:
            yield from (str(name.value) for name in node.args if isinstance(name, ast.Constant))


def _called(node: ast.Call) -> str:
    function = node.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


@pytest.mark.parametrize("package", PACKAGES)
def test_nobody_imports_across_a_wall(package: str) -> None:
    crossings = [
        f"{name_of(path)} imports {name}"
        for path in modules(package)
        for name in imports(path)
        if name.split(".")[0] in WALLS[package]
    ]
    assert crossings == []


def test_only_engines_import_keras_or_tensorflow() -> None:
    importing = {
        name_of(path)
        for package in PACKAGES
        for path in modules(package)
        if any(name.split(".")[0] in FRAMEWORKS for name in imports(path))
    }
    assert importing  # else this test looks in the wrong place
    assert all(name.startswith("worker/engines/") for name in importing), importing


def test_images_are_opened_in_one_place() -> None:
    """Where the formats are listed: an opener left out there is asked nowhere."""
    opening = {
        name_of(path)
        for package in PACKAGES
        for path in modules(package)
        if any(name.startswith("pillow_heif") for name in imports(path))
        or any(
            isinstance(node, ast.Attribute) and ast.unparse(node) == "Image.open"
            for node in ast.walk(tree(path))
        )
    }
    assert opening == {"shared/images.py"}


# What may touch the environment besides the settings, and why.
ENVIRONMENT = {
    "shared/settings.py": "reads it",
    "ops/environment.py": "hands it on to the processes that are started, as a whole",
}


def test_the_environment_is_read_in_one_place() -> None:
    touching = set()
    for package in PACKAGES:
        for path in modules(package):
            allowed = _writes_to_environment(tree(path)) if "engines" in path.parts else set()
            for node in ast.walk(tree(path)):
                if _is_environment(node) and ast.dump(node) not in allowed:
                    touching.add(name_of(path))
                if isinstance(node, ast.ImportFrom) and node.module == "os":
                    assert not {alias.name for alias in node.names} & {"environ", "getenv"}
    assert touching == set(ENVIRONMENT)


def _is_environment(node: ast.AST) -> bool:
    """`os.environ` or `os.getenv`; a request's `environ` is another thing."""
    return (
        isinstance(node, ast.Attribute)
        and node.attr in {"environ", "environb", "getenv"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    )


def _writes_to_environment(module: ast.Module) -> set[str]:
    """`os.environ.setdefault(…)`: a level that TensorFlow reads, which is no setting of ours."""
    return {
        ast.dump(node.func.value)
        for node in ast.walk(module)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "setdefault"
    }


# Other tables that have a `status` would be named here with a reason.
# `change` is what sets columns of an ingestion.
STATEMENTS = {"values", "insert", "update", "on_conflict_do_update", "change"}


def sets_status(path: Path) -> list[int]:
    """Lines that give a column `status` a value: by keyword, dictionary key, or in plain SQL."""
    lines = []
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call) and _called(node) in STATEMENTS:
            for part in ast.walk(node):
                if isinstance(part, ast.keyword) and part.arg == "status":
                    lines.append(part.value.lineno)
                if isinstance(part, ast.Dict):
                    lines += [
                        key.lineno
                        for key in part.keys
                        if isinstance(key, ast.Constant) and key.value == "status"
                    ]
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            said = " ".join(node.value.lower().split())
            if ("update jobs" in said or "insert into jobs" in said) and "status" in said:
                lines.append(node.lineno)
    return lines


def test_only_the_transition_tables_set_a_status() -> None:
    setting = {
        name_of(path): lines
        for package in PACKAGES
        for path in modules(package)
        if (lines := sets_status(path))
    }
    assert set(setting) == {
        "shared/jobs/transitions.py",
        "shared/ingestions/transitions.py",
    }, setting


def test_only_the_transition_table_takes_jobs_into_or_out_of_a_claim() -> None:
    """The token's side of the same rule: a running job has one, and no other has."""
    elsewhere = [
        name_of(path)
        for package in PACKAGES
        for path in modules(package)
        if name_of(path) != "shared/jobs/transitions.py"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.keyword) and node.arg == "claim_token"
    ]
    assert elsewhere == []


def test_bells_are_sent_and_heard_under_one_name() -> None:
    """Whoever names a queue or the task takes it from `shared.queue`."""
    senders, literals = set(), []
    for package in PACKAGES:
        for path in modules(package):
            for node in ast.walk(tree(path)):
                if isinstance(node, ast.Call) and _called(node) in {
                    "send_task",
                    "apply_async",
                    "delay",
                }:
                    senders.add(name_of(path))
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    is_name = node.value in {"classify", "classify."}
                    if is_name and package in {"web", "worker"}:
                        literals.append(f"{name_of(path)}:{node.lineno}")
    assert senders == {"shared/queue.py"}
    assert literals == []
    consuming = (ROOT / "worker" / "app.py").read_text(encoding="utf-8")
    assert "queue_name" in consuming


def test_web_loads_no_framework() -> None:
    """What its imports bring in, not only what they say."""
    import subprocess
    import sys

    look = (
        "import sys, web.app;"
        "print([m for m in sys.modules if m.split('.')[0] in ('keras', 'tensorflow', 'worker')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
