"""Clients that use the service as clients do, whatever happens to it: each follows its own dice."""

import threading
from collections.abc import Callable
from random import Random

from tests.chaos.campaign.asking import Asking
from tests.chaos.campaign.record import Call, Record, Sent

TERMINAL = {"succeeded", "failed", "canceled", "expired"}
_IMAGES_A_CLIENT = 10_000
_CLIENTS_A_SEED = 100


class Images:
    """The numbers of one client's images: mostly ones that nobody has handed in before."""

    def __init__(self, seed: int, client: int, dice: Random) -> None:
        self._first = (seed * _CLIENTS_A_SEED + client) * _IMAGES_A_CLIENT
        self._next = self._first
        self._dice = dice

    def draw(self, *, repeated: float = 0.15, broken: float = 0.03) -> int:
        if self._next > self._first and self._dice.random() < repeated:
            return self._dice.randrange(self._first, self._next)
        self._next += 1
        number = self._next - 1
        return -1 - number if self._dice.random() < broken else number


class Client(threading.Thread):
    """Something that asks for one thing after the other until it is over."""

    def __init__(
        self,
        url: str,
        seed: int,
        number: int,
        record: Record,
        over: threading.Event,
        versions: tuple[str, str],
    ) -> None:
        super().__init__(name=f"client-{number}", daemon=True)
        self.dice = Random(f"{seed}/{number}")
        self.asking = Asking(url, number, self.dice, record)
        self.images = Images(seed, number, self.dice)
        self.versions = versions
        self.over = over
        self.failure: BaseException | None = None
        self._seed, self._number, self._count = seed, number, 0

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self.step()
        except BaseException as error:
            self.failure = error
            raise

    def step(self) -> None:
        """One thing."""
        raise NotImplementedError

    def new_reference(self) -> str:
        self._count += 1
        return f"{self._seed}-{self._number}-{self._count}"

    def pause(self, longest: float) -> None:
        self.over.wait(self.dice.uniform(0, longest))

    def until_known(self, ask: Callable[[], Call]) -> Call:
        """Ask what may safely be asked again until somebody says what became of it."""
        call = ask()
        while call.status is None or call.status == 503:
            if self.over.wait(self.dice.uniform(0.1, 0.5)):
                break
            call = ask()
        return call


class Submitter(Client):
    """Hands in single images, looks after them, gives some up."""

    def run(self) -> None:
        self.own: list[str] = []
        super().run()

    def step(self) -> None:
        [act] = self.dice.choices(
            (self.submit, self.poll, self.poll_many, self.cancel, self.delete, self.look),
            (48, 20, 10, 8, 5, 5),
        )
        act()
        self.pause(0.4)

    def submit(self) -> None:
        key = self.dice.random() < 0.35
        reference = self.new_reference()
        sent = Sent(
            reference,
            self.asking.client,
            (self.images.draw(),),
            key=f"key-{reference}" if key else None,
            deadline_seconds=self.dice.choice((0.5, 3, 60)) if self.dice.random() < 0.1 else None,
            pinned=self.dice.choice(self.versions) if self.dice.random() < 0.15 else None,
        )
        options = {"lane": "bulk"} if self.dice.random() < 0.1 else {}
        wait = self.dice.choice((1, 5)) if self.dice.random() < 0.2 else 0
        self.asking.record.send(sent)

        def hand_in() -> Call:
            return self.asking.submit(sent, wait=wait, **options)

        call = self.until_known(hand_in) if key else hand_in()
        if key and self.dice.random() < 0.3:
            hand_in()  # it has forgotten that it had been answered
        if call.answered:
            self.own.append(call.body["id"])
            self.asking.job(call.body["id"])  # what was accepted is there

    def poll(self) -> None:
        if self.own:
            wait = self.dice.choice((1, 3)) if self.dice.random() < 0.3 else 0
            self.asking.job(self._some(), wait=wait)

    def poll_many(self) -> None:
        if self.own:
            count = min(len(self.own), self.dice.choice((5, 30, 100)))
            self.asking.jobs(self.dice.sample(self.own, count))

    def cancel(self) -> None:
        if self.own:
            job = self.own[-1] if self.dice.random() < 0.7 else self._some()
            self.asking.cancel(job)

    def delete(self) -> None:
        if self.own:
            job = self._some()
            self.own.remove(job)
            self.until_known(lambda: self.asking.delete(job))

    def look(self) -> None:
        if self.own:
            self.asking.image(self._some())

    def _some(self) -> str:
        recent = self.own[-40:] if self.dice.random() < 0.7 else self.own
        return self.dice.choice(recent)


class Ingester(Client):
    """Hands in archives one after the other, and reads their results while they run."""

    def step(self) -> None:
        reference = self.new_reference()
        entries = tuple(self.images.draw(broken=0.05) for _ in range(self.dice.randint(10, 40)))
        key = f"key-{reference}" if self.dice.random() < 0.5 else None
        sent = Sent(reference, self.asking.client, entries, is_ingestion=True, key=key)
        self.asking.record.send(sent)

        def hand_in() -> Call:
            return self.asking.ingest(sent)

        call = self.until_known(hand_in) if key else hand_in()
        if call.answered:
            self._follow(call.body["id"])
        self.pause(3)

    def _follow(self, ingestion: str) -> None:
        end = self.dice.choices(("wait", "cancel", "delete"), (75, 15, 10))[0]
        patience = self.dice.randint(2, 12)
        order = self.dice.choice(("source", "finished"))
        after: int | None = None
        for _ in range(patience):
            self.pause(1)
            lines = self.asking.results(ingestion, after=after, order=order)
            if lines.status == 200 and lines.body and order == "source":
                after = lines.body[-1]["position"]
            seen = self.asking.ingestion(ingestion)
            if seen.status == 200 and seen.body["status"] not in {"queued", "running"}:
                if seen.body["counts"]["failed"] and self.dice.random() < 0.4:
                    self.asking.change_ingestion(ingestion, "retry")
                break
        if end != "wait":
            self.asking.change_ingestion(ingestion, end)
