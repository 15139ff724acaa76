"""Fetching ahead: several at a time, given out in order, with a bound on the bytes that wait."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

AT_ONCE = 16
AHEAD_BYTES = 64 * 2**20

Request = TypeVar("Request")
Answer = TypeVar("Answer")


def ahead(
    requests: Iterable[Request],
    start: Callable[[ThreadPoolExecutor, Request], tuple[Future[Answer], int]],
    stop: threading.Event,
) -> Generator[tuple[Request, Future[Answer]], None, None]:
    """Each request with its answer, which is there, in the requests' order.

    Args:
        requests: read no further ahead than the answers are fetched.
        start: begins one, and says how many bytes it may hold. Where nothing is to be fetched, it
            gives an answer that is there.
        stop: set when nobody wants any more; a fetch that is under way may look at it.

    What `requests` raises is raised after the answers to what came before.
    """
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch")
    waiting: deque[tuple[Request, Future[Answer], int]] = deque()
    held = 0
    iterator = iter(requests)
    failure: Exception | None = None
    more = True
    try:
        while more or waiting:
            while more and len(waiting) < AT_ONCE and held < AHEAD_BYTES:
                try:
                    request = next(iterator)
                except StopIteration:
                    more = False
                except Exception as error:  # its turn comes later
                    more, failure = False, error
                else:
                    future, size = start(pool, request)
                    waiting.append((request, future, size))
                    held += size
            if waiting:
                request, future, size = waiting.popleft()
                future.exception()  # waits; it is raised where the answer is asked for
                yield request, future
                held -= size
        if failure is not None:
            raise failure
    finally:
        stop.set()
        pool.shutdown(wait=False, cancel_futures=True)


def at_hand(answer: Answer) -> Future[Answer]:
    """An answer that needs no fetching."""
    future: Future[Answer] = Future()
    future.set_result(answer)
    return future


def failed(error: Exception) -> Future[Any]:
    """A failure that needs no fetching."""
    future: Future[Any] = Future()
    future.set_exception(error)
    return future
