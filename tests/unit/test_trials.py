"""The gate that keeps a suspect alone in its process."""

import threading
from contextlib import AbstractContextManager

import pytest

from tests.unit.waiting import wait_until_blocked
from worker.trials import TrialGate


def start(gate: AbstractContextManager[None], inside: threading.Event) -> threading.Thread:
    """A thread that goes through the gate and says so."""

    def pass_through() -> None:
        with gate:
            inside.set()

    thread = threading.Thread(target=pass_through, daemon=True)
    thread.start()
    return thread


def test_ordinary_batches_go_side_by_side() -> None:
    gate = TrialGate()
    with gate.batch():
        inside = threading.Event()
        thread = start(gate.batch(), inside)
        assert inside.wait(30)
        thread.join(30)


def test_nobody_is_ever_beside_a_trial() -> None:
    gate, lock = TrialGate(), threading.Lock()
    inside: list[str] = []
    wrong: list[list[str]] = []

    def come_and_go(kind: str) -> None:
        for _ in range(100):
            with gate.trial() if kind == "trial" else gate.batch():
                with lock:
                    inside.append(kind)
                    if "trial" in inside and len(inside) > 1:
                        wrong.append(list(inside))
                with lock:
                    inside.remove(kind)

    kinds = ["batch", "batch", "trial", "trial"]
    threads = [threading.Thread(target=come_and_go, args=(kind,), daemon=True) for kind in kinds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert wrong == []


def test_a_trial_that_waits_lets_no_new_batch_begin() -> None:
    gate = TrialGate()
    order: list[str] = []

    def trial() -> None:
        with gate.trial():
            order.append("trial")

    def batch() -> None:
        with gate.batch():
            order.append("batch")

    with gate.batch():
        waiting = threading.Thread(target=trial, daemon=True)
        waiting.start()
        wait_until_blocked(waiting)
        late = threading.Thread(target=batch, daemon=True)
        late.start()
        wait_until_blocked(late)
        assert order == []
    waiting.join(30)
    late.join(30)
    assert order == ["trial", "batch"]


@pytest.mark.parametrize("kind", ["batch", "trial"])
def test_what_raises_leaves_the_gate_open(kind: str) -> None:
    gate = TrialGate()
    with pytest.raises(ZeroDivisionError), getattr(gate, kind)():
        raise ZeroDivisionError
    with gate.trial():
        pass
    with gate.batch():
        pass
