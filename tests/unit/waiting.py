"""Seeing that a thread waits, so that no test has to guess it by time."""

import sys
import threading

from tests.services import wait_until


def wait_until_blocked(*threads: threading.Thread) -> None:
    """Return when each thread is inside a wait of a condition or an event."""

    def blocked(thread: threading.Thread) -> bool:
        frame = sys._current_frames().get(thread.ident or 0)
        return (
            frame is not None
            and frame.f_code.co_filename == threading.__file__
            and frame.f_code.co_name == "wait"
        )

    wait_until(lambda: all(map(blocked, threads)), seconds=30, what="threads that wait")
