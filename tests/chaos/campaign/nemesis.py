"""Does harm at random times, and sees how long the service takes to be well again."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

from tests.chaos.campaign.asking import Asking
from tests.chaos.campaign.faults import Fault
from tests.chaos.campaign.load import TERMINAL
from tests.chaos.campaign.record import Call, Record, Sent

RECOVERY_SECONDS = 120.0
_CANARIES = 3
_TOGETHER = 0.35  # how often two harms are done at a time


@dataclass
class Done:
    """One harm, in seconds since the seed began.

    Attributes:
        together: The kinds of what was done at the same time.
        over: When the last of these was over.
        well: When a job handed in after its end had succeeded, and those handed in right before it
            began had ended; None if they never did.
    """

    kind: str
    began: float
    ended: float
    over: float = 0.0
    well: float | None = None
    together: tuple[str, ...] = ()

    @property
    def recovery_seconds(self) -> float | None:
        return None if self.well is None else self.well - self.over


class Prober:
    """Hands in images that nobody else has, and waits for their ends."""

    def __init__(self, asking: Asking, seed: int) -> None:
        self.asking = asking
        self._seed, self._count = seed, 0

    def new(self) -> Sent:
        self._count += 1
        number = (self._seed * 100 + self.asking.client) * 10_000 + self._count
        sent = Sent(
            f"{self._seed}-{self.asking.client}-{self._count}", self.asking.client, (number,)
        )
        self.asking.record.send(sent)
        return sent

    def canaries(self) -> list[str]:
        """Jobs that were accepted just now."""
        calls = [self.asking.submit(self.new()) for _ in range(_CANARIES)]
        return [call.body["id"] for call in calls if call.answered]

    def well_again(self, canaries: Sequence[str]) -> float | None:
        """When a fresh job has succeeded and these have ended; None after two minutes."""
        give_up = time.monotonic() + RECOVERY_SECONDS
        waiting, fresh = list(canaries), False
        while time.monotonic() < give_up:
            if not fresh:
                fresh = self._works(give_up)
            elif not waiting:
                return self.asking.record.now()
            elif _has_ended(self.asking.job(waiting[0], wait=1)):
                waiting.pop(0)
        return None

    def _works(self, give_up: float) -> bool:
        call = self.asking.submit(self.new(), wait=2)
        while call.answered and time.monotonic() < give_up:
            if _has_ended(call):
                return bool(call.body["status"] == "succeeded")
            answer = self.asking.job(call.body["id"], wait=2)
            if answer.answered:
                call = answer
            else:
                time.sleep(0.1)
        time.sleep(0.1)
        return False


def _has_ended(call: Call) -> bool:
    return call.answered and call.body["status"] in TERMINAL


class Nemesis:
    """Goes through its faults, one or two at a time, with pauses drawn by its dice."""

    def __init__(
        self,
        faults: Sequence[Fault],
        dice: Random,
        prober: Prober,
        record: Record,
        say: Callable[[str], None],
    ) -> None:
        self._waiting = list(faults)
        self._dice, self._prober, self._record, self._say = dice, prober, record, say
        self._lasting: list[Fault] = []
        self.done: list[Done] = []

    def run(self) -> None:
        """Do all of it."""
        while self._waiting:
            count = 2 if self._dice.random() < _TOGETHER else 1
            group, self._waiting = self._waiting[:count], self._waiting[count:]
            time.sleep(self._dice.uniform(0.2, 2))
            self._do(group)

    def _do(self, group: Sequence[Fault]) -> None:
        canaries = self._prober.canaries()
        done = [Done(fault.kind, 0, 0) for fault in group]
        delays = [0.0, *(self._dice.uniform(0, 2) for _ in group[1:])]
        with ThreadPoolExecutor(len(group)) as pool:
            list(pool.map(self._one, group, done, delays))
        over = max(each.ended for each in done)
        well = self._prober.well_again(canaries)
        for each in done:
            each.over, each.well = over, well
            each.together = tuple(other.kind for other in done if other is not each)
        self.done += done
        for each in done:
            recovery = each.recovery_seconds
            told = "not well again" if recovery is None else f"well after {recovery:.1f} s"
            self._say(f"{each.began:6.1f} s  {each.kind}: {told}")

    def _one(self, fault: Fault, done: Done, delay: float) -> None:
        time.sleep(delay)
        done.began = self._record.now()
        fault.begin()
        if fault.lasting:
            self._lasting.append(fault)
        else:
            time.sleep(fault.seconds)
            fault.end()
        done.ended = self._record.now()

    def end(self) -> None:
        """Let what lasts be over, too."""
        for fault in self._lasting:
            fault.end()
