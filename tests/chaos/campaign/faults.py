"""What is done to a stage: small objects that begin a harm, and end it.

A deck is what a seed draws from; a stage of another kind brings a deck of its own.
"""

import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Protocol

from shared.queue import CLASSIFY, EXPAND, EXPANDER_QUEUE, make_celery, queue_name, ring
from tests.chaos.campaign.asking import Asking
from tests.chaos.campaign.pictures import picture
from tests.chaos.campaign.record import Sent
from tests.chaos.campaign.stage import LEASE_SECONDS, Member, Stage
from tests.chaos.hosts import Cut
from tests.services import BrokerServer, PostgresServer, wait_until


class Fault(Protocol):
    """One harm. Its end is when the harm stops; recovery is what the service does from then on.

    Attributes:
        kind: What the table counts it as.
        seconds: For how long it lasts.
        lasting: Whether it goes on to the end of the seed, and nothing has to recover from it.
    """

    kind: str
    seconds: float
    lasting: bool

    def begin(self) -> None:
        """Do it."""

    def end(self) -> None:
        """Let it be over."""


class Harm:
    """A fault made of two functions."""

    def __init__(
        self,
        kind: str,
        begin: Callable[[], None],
        end: Callable[[], None] = lambda: None,
        *,
        seconds: float = 0.0,
        lasting: bool = False,
    ) -> None:
        self.kind, self.seconds, self.lasting = kind, seconds, lasting
        self.begin, self.end = begin, end


def kill(kind: str, *parts: Member) -> Harm:
    """`kill -9`, at the same moment; the stage starts them again."""

    def begin() -> None:
        for part in parts:
            part.kill()

    return Harm(kind, begin)


def terminate(kind: str, part: Member) -> Harm:
    """SIGTERM; the stage starts it again when it has ended."""
    return Harm(kind, part.terminate)


def paused(stage: Stage, part: Member, seconds: float) -> Harm:
    """A worker that stands still past its lease, and wakes up as if nothing had happened."""

    def freeze() -> None:
        with suppress(ProcessLookupError):  # another fault has ended it meanwhile
            stage.freeze(part)

    def thaw() -> None:
        with suppress(ProcessLookupError):
            part.signal(signal.SIGCONT)

    return Harm("worker paused", freeze, thaw, seconds=seconds)


def killed(server: BrokerServer | PostgresServer, seconds: float) -> Harm:
    """Gone as in a crash, and back: a broker with an empty memory, a database that recovers."""
    return Harm(f"{server.name} killed", server.kill, server.start, seconds=seconds)


def frozen(server: BrokerServer | PostgresServer, seconds: float) -> Harm:
    """All of its processes stand still, whatever they are doing; connections stay open."""

    def freeze() -> None:
        if server.running:
            server.freeze()

    def thaw() -> None:
        if server.running:
            server.thaw()

    return Harm(f"{server.name} frozen", freeze, thaw, seconds=seconds)


def duplicated_bells(stage: Stage, dice: Random) -> Harm:
    """Bells that were rung already, and some for nothing at all, a hundred times over."""

    def begin() -> None:
        app = make_celery(stage.broker.socket_url, socket_timeout_seconds=2)
        with suppress(Exception), app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)
            for _ in range(100):
                lane = dice.choice(("interactive", "bulk", "nowhere"))
                ring(app, CLASSIFY, queue_name("digits"), lane)
                ring(app, EXPAND, EXPANDER_QUEUE)
        app.close()

    return Harm("bells duplicated", begin)


def disk_full(stage: Stage, seconds: float) -> Harm:
    """The place of images takes nothing more."""
    filler = stage.mount / "filler"

    def begin() -> None:
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(2**20))
                file.flush()
        with suppress(OSError), filler.open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    return Harm("disk full", begin, lambda: filler.unlink(missing_ok=True), seconds=seconds)


def storage_away(stage: Stage, seconds: float) -> Harm:
    """The directory of images and models is not there."""
    elsewhere = stage.mount / "away"

    def begin() -> None:
        stage.storage.rename(elsewhere)

    def end() -> None:
        # Whatever has come into its place meanwhile is hidden again, as below a disk that is
        # mounted.
        if stage.storage.exists():
            shutil.rmtree(stage.storage)
        elsewhere.rename(stage.storage)

    return Harm("storage away", begin, end, seconds=seconds)


def object_unreadable(stage: Stage, asking: Asking, sent: Sent) -> Harm:
    """One image is there, and cannot be read for as long as the seed lasts."""
    changed: dict[Path, bytes] = {}

    def tell_workers(number: signal.Signals) -> None:
        for worker in stage.workers:
            with suppress(ProcessLookupError):
                worker.signal(number)

    def begin() -> None:
        tell_workers(signal.SIGSTOP)  # none may have read it before
        asking.record.send(sent)
        asking.submit(sent)
        directory = stage.storage / "images" / sha256(picture(sent.entries[0])).hexdigest()
        for file in directory.glob("*"):
            changed[file] = file.read_bytes()
            file.unlink()
            file.mkdir()
        tell_workers(signal.SIGCONT)

    def end() -> None:
        for file, data in changed.items():
            file.rmdir()
            file.write_bytes(data)

    return Harm("object unreadable", begin, end, lasting=True)


def clock_skewed(part: Member, seconds: float, ahead_seconds: float) -> Harm:
    """One worker whose clock is off, on a database with a clock of its own."""
    command = list(part.plain_command)
    where = command.index("ops.cli")
    command[where : where + 1] = ["tests.chaos.campaign.skewed", str(ahead_seconds)]
    return Harm("clock skewed", lambda: part.change(command), part.change, seconds=seconds)


def version_switched(stage: Stage, version: str) -> Harm:
    """Another version of the model becomes current while jobs wait for the one before."""

    def begin() -> None:
        stage.command("models", "current", "digits", version)

    return Harm("version switched", begin)


def cut_off(kind: str, cut: Cut, seconds: float) -> Harm:
    """Two hosts that do not hear each other, or one that does not hear the other."""
    return Harm(kind, cut.begin, cut.end, seconds=seconds)


def when_at_work(stage: Stage, asking: Asking, harm: Harm) -> Harm:
    """The same harm, if possible while a batch is being worked on."""

    def wait_and_begin() -> None:
        def at_work() -> bool:
            call = asking.ask("running", "", "GET", "/v1/jobs?status=running&limit=1")
            return call.status == 200 and bool(call.body["data"])

        with suppress(TimeoutError):
            wait_until(at_work, seconds=1, what="a batch")
        harm.begin()

    return Harm(harm.kind, wait_and_begin, harm.end, seconds=harm.seconds)


def deck(
    stage: Stage, asking: Asking, dice: Random, *, versions: tuple[str, str], short: bool
) -> list[Harm]:
    """One of each kind, with its particulars drawn."""
    worker = dice.choice(stage.workers)
    hold = 0.3 if short else 1.0
    found = [
        kill("web killed", stage.web),
        terminate("web ended", stage.web),
        when_at_work(stage, asking, kill("worker killed", worker)),
        when_at_work(stage, asking, kill("both workers killed", *stage.workers)),
        terminate("worker ended", dice.choice(stage.workers)),
        kill("background killed", stage.background),
        terminate("background ended", stage.background),
        killed(stage.broker, dice.uniform(0, 4)),
        frozen(stage.broker, 20 * hold),
        duplicated_bells(stage, dice),
        storage_away(stage, dice.uniform(2, 5)),
        when_at_work(stage, asking, paused(stage, dice.choice(stage.workers), LEASE_SECONDS + 3)),
        version_switched(stage, dice.choice(versions)),
    ]
    found += [
        cut_off(kind, cut, dice.uniform(1, LEASE_SECONDS + 6)) for kind, cut in stage.cuts(dice)
    ]
    if stage.limited:
        found.append(disk_full(stage, dice.uniform(2, 6)))
    if stage.postgres is not None:
        ahead = dice.choice((600.0, -600.0))
        found += [
            killed(stage.postgres, dice.uniform(0, 3)),
            frozen(stage.postgres, dice.uniform(2, 8)),
            clock_skewed(dice.choice(stage.workers), 12, ahead),
        ]
    return found
