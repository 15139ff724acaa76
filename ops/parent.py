"""A child's side of the supervisor's pipe: when the supervisor is gone, the child ends itself."""

import os
import signal
import threading
import time
from collections.abc import Callable

_PATIENCE_SECONDS = 40.0  # longer than any stop in order


def follow_parent(descriptor: int | None, *, at_end: Callable[[], None] | None = None) -> None:
    """Send this process SIGTERM when the other end of the pipe closes, however its holder ended.

    Args:
        descriptor: The read end, inherited; None where nobody supervises.
        at_end: Called first.
    """
    if descriptor is None:
        return
    os.set_inheritable(descriptor, False)
    threading.Thread(
        target=_wait_for_end, args=(descriptor, at_end), name="follow-parent", daemon=True
    ).start()


def _wait_for_end(descriptor: int, at_end: Callable[[], None] | None) -> None:
    while os.read(descriptor, 1):
        pass
    # With the supervisor its terminal may be gone too, so nothing is said here.
    if at_end is not None:
        at_end()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_PATIENCE_SECONDS)
    os.killpg(0, signal.SIGKILL)  # the supervisor made us the leader of a group of our own
