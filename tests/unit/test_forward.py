"""The forward lock's order, and what becomes of a pass that fails."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from shared.jobs.recording import Failure, Unread
from shared.models import ModelSpec, Version
from tests.unit.waiting import wait_until_blocked
from worker.engines.protocol import OutOfMemory
from worker.forward import EngineBroken, ForwardLock, Stopping, forward_pass, warm_up
from worker.serving import LoadedModel

SPEC = ModelSpec("directory", "model.keras", 2, 2, "scale", "0" * 64, 1)
LABELS = (("0", "zero"), ("1", "one"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Each failed pass is logged with its traceback, which takes longer than the pass."""
    with capture_logs():
        yield


class FakeEngine:
    """Scores an image by its first pixel; `trouble` decides what raises."""

    def __init__(self, trouble: Callable[[list[int]], None] = lambda pixels: None) -> None:
        self.trouble = trouble
        self.batches: list[int] = []

    def load(self, spec: ModelSpec, directory: Path) -> None:
        """Nothing to load."""

    def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        assert batch.shape[1:] == (2, 2, 3)
        pixels = [int(image[0, 0, 0]) for image in batch]
        self.batches.append(len(pixels))
        self.trouble(pixels)
        return np.array([[pixel, 1 - pixel] for pixel in pixels], np.float32)


def make_model(engine: FakeEngine, batch_limit: int = 8) -> LoadedModel:
    return LoadedModel(Version(1, "digits", "0" * 12, SPEC, LABELS), engine, batch_limit)


def rows(*pixels: int) -> dict[str, NDArray[np.uint8]]:
    """One image for each pixel value, named by it."""
    return {str(pixel): np.full((2, 2, 3), pixel, np.uint8) for pixel in pixels}


def scored(outcome: object, pixel: int) -> bool:
    return isinstance(outcome, np.ndarray) and outcome[0] == pixel


def refuse(*bad: int) -> Callable[[list[int]], None]:
    def trouble(pixels: list[int]) -> None:
        if set(bad) & set(pixels):
            raise ValueError("not this one")

    return trouble


def test_every_image_gets_its_own_scores_in_one_pass() -> None:
    engine = FakeEngine()
    outcome = forward_pass(make_model(engine), rows(5, 3, 9))
    assert engine.batches == [3]
    assert all(scored(outcome[str(pixel)], pixel) for pixel in (5, 3, 9))


def test_more_images_than_the_limit_are_several_passes() -> None:
    engine = FakeEngine()
    outcome = forward_pass(make_model(engine, batch_limit=4), rows(*range(1, 11)))
    assert max(engine.batches) == 4
    assert sum(engine.batches) == 10
    assert all(scored(outcome[str(pixel)], pixel) for pixel in range(1, 11))


@pytest.mark.parametrize("bad", [(1,), (8,), (3, 4), (1, 5, 8), tuple(range(1, 9))])
def test_only_the_bad_images_fail(bad: tuple[int, ...]) -> None:
    outcome = forward_pass(make_model(FakeEngine(refuse(*bad))), rows(*range(1, 9)))
    assert len(outcome) == 8
    for pixel in range(1, 9):
        result = outcome[str(pixel)]
        if pixel in bad:
            assert isinstance(result, Failure)
            assert result.code == "inference_failed"
        else:
            assert scored(result, pixel)


def test_an_engine_that_fails_on_everything_is_broken() -> None:
    def trouble(pixels: list[int]) -> None:
        raise RuntimeError("the device is gone")

    with pytest.raises(EngineBroken):
        forward_pass(make_model(FakeEngine(trouble)), rows(1, 2))


def test_an_engine_that_loses_images_is_broken() -> None:
    class Short(FakeEngine):
        def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            return super().forward(batch)[:-1]

    with pytest.raises(EngineBroken):
        forward_pass(make_model(Short()), rows(1, 2, 3))


def out_of_memory_above(most: int) -> Callable[[list[int]], None]:
    def trouble(pixels: list[int]) -> None:
        if len(pixels) > most:
            raise OutOfMemory

    return trouble


def test_out_of_memory_halves_the_batch_and_is_remembered() -> None:
    engine = FakeEngine(out_of_memory_above(2))
    model = make_model(engine)
    outcome = forward_pass(model, rows(*range(1, 9)))
    assert all(scored(outcome[str(pixel)], pixel) for pixel in range(1, 9))
    assert model.batch_limit == 2
    engine.batches.clear()
    forward_pass(model, rows(*range(1, 9)))
    assert engine.batches == [2, 2, 2, 2]


def test_an_image_that_does_not_fit_alone_is_not_its_own_fault() -> None:
    outcome = forward_pass(make_model(FakeEngine(out_of_memory_above(0))), rows(1, 2))
    assert all(isinstance(result, Unread) for result in outcome.values())


def test_warming_up_makes_the_largest_batch() -> None:
    engine = FakeEngine()
    warm_up(make_model(engine, batch_limit=5))
    assert max(engine.batches) == 5


def test_warming_up_shows_what_does_not_fit() -> None:
    class Wide(FakeEngine):
        def forward(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
            return np.zeros((len(batch), 3), np.float32)

    with pytest.raises(EngineBroken):
        warm_up(make_model(Wide()))
    with pytest.raises(EngineBroken):
        warm_up(make_model(FakeEngine(out_of_memory_above(0))))


class Waiters:
    """Threads that wait for a forward lock which the test holds."""

    def __init__(self, lock: ForwardLock) -> None:
        self.lock = lock
        self.entered: list[str] = []
        self.stopped: list[str] = []
        self.threads: list[threading.Thread] = []

    def add(self, lane: str, count: int = 1) -> None:
        for _ in range(count):
            thread = threading.Thread(target=self._wait, args=(lane,), daemon=True)
            thread.start()
            self.threads.append(thread)
        wait_until_blocked(*self.threads)

    def _wait(self, lane: str) -> None:
        try:
            with self.lock.hold(lane):
                self.entered.append(lane)
        except Stopping:
            self.stopped.append(lane)

    def join(self) -> None:
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive()


def test_one_holds_the_lock_at_a_time() -> None:
    lock, inside, most = ForwardLock(), [0], [0]

    def pass_often(lane: str) -> None:
        for _ in range(50):
            with lock.hold(lane):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    threads = [
        threading.Thread(target=pass_often, args=(lane,)) for lane in ("bulk", "interactive") * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1]


def test_interactive_goes_first_although_bulk_waits_longer() -> None:
    lock = ForwardLock()
    waiters = Waiters(lock)
    with lock.hold("bulk"):
        waiters.add("bulk", 2)
        waiters.add("interactive", 2)
    waiters.join()
    assert waiters.entered == ["interactive"] * 2 + ["bulk"] * 2


def test_bulk_goes_after_at_most_four_interactive_in_a_row() -> None:
    lock = ForwardLock()
    waiters = Waiters(lock)
    with lock.hold("bulk"):
        waiters.add("bulk", 2)
        waiters.add("interactive", 9)
    waiters.join()
    assert waiters.entered == [
        *(["interactive"] * 4 + ["bulk"]) * 2,
        "interactive",
    ]


def test_interactive_alone_waits_for_nobody() -> None:
    lock = ForwardLock()
    for _ in range(10):
        with lock.hold("interactive"):
            pass
    with lock.hold("bulk"):
        pass


def test_closing_lets_nobody_in_and_lets_who_is_in_finish() -> None:
    lock = ForwardLock()
    waiters = Waiters(lock)
    with lock.hold("interactive"):
        waiters.add("bulk")
        waiters.add("interactive")
        lock.close()
        waiters.join()
    assert waiters.entered == []
    assert sorted(waiters.stopped) == ["bulk", "interactive"]
    with pytest.raises(Stopping), lock.hold("interactive"):
        pass


def test_a_pass_that_raises_gives_the_lock_back() -> None:
    lock = ForwardLock()
    with pytest.raises(ZeroDivisionError), lock.hold("bulk"):
        raise ZeroDivisionError
    with lock.hold("bulk"):
        pass
