"""A kept value is made by one thread, and seldom."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.errors import Unavailable
from web.kept import Kept


class Maker:
    """Makes 1, 2, 3, …; each only when it is let."""

    def __init__(self) -> None:
        self.made = 0
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)

    def __call__(self) -> int:
        self.begun.release()
        assert self.let.acquire(timeout=10)
        self.made += 1
        return self.made


def test_all_threads_share_what_one_has_made() -> None:
    maker = Maker()
    kept = Kept(maker, seconds=60)
    with ThreadPoolExecutor(8) as pool:
        values = [pool.submit(kept.get) for _ in range(8)]
        maker.let.release()
        assert [value.result(10) for value in values] == [1] * 8
    assert kept.get() == 1


def test_an_old_value_serves_while_a_new_one_is_made() -> None:
    maker = Maker()
    maker.let.release()
    kept = Kept(maker, seconds=0)
    assert kept.get() == 1
    assert maker.begun.acquire(timeout=10)
    with ThreadPoolExecutor(1) as pool:
        newer = pool.submit(kept.get)
        assert maker.begun.acquire(timeout=10)
        assert kept.get() == 1
        maker.let.release()
        assert newer.result(10) == 2


def test_what_cost_much_is_kept_for_longer() -> None:
    maker = Maker()
    threading.Timer(0.05, maker.let.release).start()
    kept = Kept(maker, seconds=0, rest=10_000)
    assert [kept.get(), kept.get()] == [1, 1]


def test_a_failure_is_told_and_not_kept() -> None:
    answers = iter([Unavailable("away"), "here"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    kept = Kept(ask, seconds=60)
    with pytest.raises(Unavailable, match="away"):
        kept.get()
    assert kept.get() == "here"
