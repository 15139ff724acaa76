"""Proof that a version can be served, by loading it: here, or in a process that ends afterwards.

A process that downloads must not hold TensorFlow's half gigabyte for as long as it lives.
"""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from ops.fetch import Interrupted
from ops.install import Labels, NotAModel
from shared.errors import ServiceError
from shared.models import ModelSpec

_ROOT = Path(__file__).parent.parent
_LOOK_SECONDS = 0.1

# Several downloads may end at once; TensorFlow several times would be too much for a small machine.
_one_at_a_time = threading.Lock()


def load(spec: ModelSpec, labels: Labels, directory: Path) -> None:
    """Load a version in this process.

    Raises:
        ModelUnloadable: It cannot be, and why.
    """
    from worker.engines import quick_import

    with quick_import():
        from worker.engines.tensorflow import check_weights

    check_weights(spec, labels, directory)


def prove(spec: ModelSpec, labels: Labels, directory: Path, *, stop: threading.Event) -> None:
    """Load a version in a process of its own.

    Raises:
        NotAModel: It cannot be loaded, and why.
        Interrupted: `stop` was set.
        ServiceError: The process did not come to an answer.
    """
    question = {"spec": spec.to_json(), "labels": labels, "directory": str(directory.absolute())}
    with (
        _one_at_a_time,
        subprocess.Popen(
            [sys.executable, "-m", "ops.proof"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for us; it ends by itself when we do
        ) as process,
    ):
        try:
            answer = _ask(process, json.dumps(question), stop)
        finally:
            process.kill()
    if answer is None:
        raise ServiceError(
            f"the process that was to load it ended without an answer ({process.returncode}); "
            "this machine may have too little memory"
        )
    if answer["reason"] is not None:
        raise NotAModel(answer["reason"])


def _ask(
    process: subprocess.Popen[bytes], question: str, stop: threading.Event
) -> dict[str, Any] | None:
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.write(question.encode() + b"\n")
        process.stdin.flush()
    while process.poll() is None:
        if stop.wait(_LOOK_SECONDS):
            raise Interrupted("interrupted")
    lines = process.stdout.read().splitlines()
    if process.returncode != 0 or not lines:
        return None
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def main() -> None:
    """Answer one question from standard input."""
    question = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_asker, name="end-with-asker", daemon=True).start()
    labels = [(class_id, label) for class_id, label in question["labels"]]
    reason = None
    try:
        load(ModelSpec(**question["spec"]), labels, Path(question["directory"]))
    except ServiceError as error:
        reason = str(error)
    sys.stdout.write(json.dumps({"reason": reason}) + "\n")


def _end_with_asker() -> None:
    """End this process when the other end of its input is gone, however that happened."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    # No signal: the asker may have them blocked, and so have we then.
    os._exit(1)


if __name__ == "__main__":
    main()
