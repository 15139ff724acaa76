"""The supervisor with stand-in children: restarts, the pause between them, and every way to end."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ops import supervisor
from ops.lock import AlreadyRunning, locked
from ops.supervisor import Part
from tests.services import ROOT, wait_until

# A supervisor of two children that note their process ids: `good`, a Python part that follows its
# parent as ours do, and `stubborn`, which ignores SIGTERM and has a child of its own.
SCRIPT = """
import sys
from ops import supervisor
from ops.supervisor import Part, Supervisor
supervisor._STOP_SECONDS = float(sys.argv[2])
GOOD = '''
import os, signal, sys, time
from ops.parent import follow_parent
follow_parent(int(sys.argv[2]))
open(sys.argv[1] + "/good", "a").write(f"{os.getpid()}\\\\n")
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
time.sleep(60)
'''
STUBBORN = '''
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "60"])
open(sys.argv[1] + "/stubborn", "a").write(f"{os.getpid()}\\\\n{child.pid}\\\\n")
time.sleep(60)
'''
with Supervisor() as parts:
    for name, code in (("good", GOOD), ("stubborn", STUBBORN)):
        if name in sys.argv[3:]:
            fd = str(parts.parent_fd)
            parts.start(Part(name, [sys.executable, "-c", code, sys.argv[1], fd], {}))
    sys.exit(parts.run())
"""


class Running:
    """The script above as a process of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process: subprocess.Popen[str]

    def start(self, *names: str, stop_seconds: float = 30) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(self.directory), str(stop_seconds), *names],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names:
            wait_until(
                lambda name=name: len(self.pids(name)) >= 1 + (name == "stubborn"),
                seconds=20,
                what=f"start of {name}",
            )

    def pids(self, name: str) -> list[int]:
        file = self.directory / name
        return [int(pid) for pid in file.read_text().split()] if file.exists() else []

    def all_gone(self) -> bool:
        pids = [*self.pids("good"), *self.pids("stubborn")]
        return not any(psutil.pid_exists(pid) and _runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    running = Running(tmp_path)
    yield running
    running.process.kill()
    running.process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_one_signal_ends_all_in_order(running: Running, number: signal.Signals, code: int) -> None:
    running.start("good")
    running.process.send_signal(number)
    assert running.process.wait(10) == code
    assert running.all_gone()


def test_what_ignores_sigterm_is_killed_with_its_children(running: Running) -> None:
    running.start("good", "stubborn", stop_seconds=0.3)
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(10) == 0
    assert running.all_gone()


def test_second_ctrl_c_kills_at_once(running: Running) -> None:
    running.start("stubborn")
    running.process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert running.process.poll() is None
    running.process.send_signal(signal.SIGINT)
    running.process.wait(5)
    assert running.all_gone()


def test_killed_part_is_started_again_at_once(running: Running) -> None:
    running.start("good")
    os.kill(running.pids("good")[0], signal.SIGKILL)
    wait_until(lambda: len(running.pids("good")) == 2, seconds=10, what="a second life")
    running.process.send_signal(signal.SIGTERM)
    running.process.communicate(timeout=10)
    assert running.process.returncode == 0
    assert running.all_gone()


def test_children_of_a_killed_supervisor_end_themselves(running: Running) -> None:
    running.start("good")
    running.process.kill()
    wait_until(running.all_gone, seconds=5, what="end of the children")


def test_pause_doubles_and_is_forgotten_after_a_good_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now)
    part = Part("failing", ["false"], {"PATH": os.environ["PATH"]})

    def pause_after(life_seconds: float) -> float:
        nonlocal now
        part.start([])
        assert part.process is not None
        part.process.wait()
        now += life_seconds
        assert part.buried() == 1
        return part.due - now

    assert [pause_after(1) for _ in range(8)] == [0, 1, 2, 4, 8, 16, 30, 30]
    assert [pause_after(61), pause_after(1)] == [0, 1]


def test_directory_is_held_by_one(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "data") as abandoned,
        pytest.raises(AlreadyRunning, match=rf"in use by another .*process {os.getpid()}\)"),
        locked(tmp_path / "data"),
    ):
        pass
    assert not abandoned
    with locked(tmp_path / "data") as abandoned:
        assert not abandoned


def test_lock_of_a_killed_process_is_free_and_known_as_abandoned(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import os, signal, subprocess, sys
        from pathlib import Path
        from ops.lock import locked
        with locked(Path(sys.argv[1])):
            child = subprocess.Popen(["sleep", "50"], stdout=subprocess.DEVNULL)
            print(child.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=20,
    )
    assert killed.returncode == -signal.SIGKILL
    with locked(tmp_path) as abandoned:
        assert abandoned
    os.kill(int(killed.stdout), signal.SIGKILL)
