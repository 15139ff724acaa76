"""After the chaos: in time all comes to an end, and nothing is left over."""

from datetime import datetime
from typing import TYPE_CHECKING

from shared.sweep import Sweep
from tests.simulation.clock import EPOCH
from tests.simulation.ledger import Violation
from tests.simulation.operator import Operator

if TYPE_CHECKING:
    from tests.simulation.world import World

_MOST_STEPS = 20000
_STUCK_SECONDS = 120.0  # in which nothing changes and nothing is due: many rounds of recovery
_TICK_SECONDS = 0.005
_QUIET_SKIPS = 6
_LATER_HOURS = 26.0


def come_to_rest(world: "World") -> int:
    """Bring a world to rest; how many steps it took comes back.

    Raises:
        Violation: Something does not end, or is left over.
    """
    _calm(world)
    steps = quiet = changes = 0
    moved_at = world.clock.seconds
    while left := list(world.checker.unsettled()):
        steps += 1
        if steps > _MOST_STEPS or world.clock.seconds - moved_at > _STUCK_SECONDS:
            raise Violation(f"not at rest after {steps} steps: {'; '.join(left)}")
        if world.step():
            continue
        if world.checker.changes != changes:
            quiet, changes, moved_at = 0, world.checker.changes, world.clock.seconds
        quiet += 1
        if quiet > _QUIET_SKIPS:
            quiet = 0
            if _jump(world):
                moved_at = world.clock.seconds
    for process in world.processes:
        world.stage.end(process)
    world.clock.advance(_LATER_HOURS * 3600)
    world.database.tell_time(world.clock.seconds)
    for _ in range(2):
        Sweep(world.database, world.storage, world.settings).step()
    world.checker.finish()
    return steps


def _calm(world: "World") -> None:
    """No more faults; half of the time all that ran is gone, and one new worker goes on alone."""
    stage = world.stage
    stage.note("chaos ends")
    world.chaos = False
    world.tick_seconds = _TICK_SECONDS
    stage.fault_rate = 0.0
    world.storage.away = False
    alone = world.rng.random() < 0.5
    for process in list(world.processes):
        process.paused_until = float("-inf")
        process.restarts_at = stage.clock.seconds if process.dead else None
        for actor in process.actors:
            actor.dies_in = None
        # Clients and the operator are gone, and half of the time the rest is, too.
        if alone or process.name.startswith(("client", "operator")):
            stage.end(process)
            world.processes.remove(process)
    if alone:
        world.start_worker("slot-new")
        world.start_background("background-new")
    world.start("operator-at-rest", Operator(world).rest)


def _jump(world: "World") -> bool:
    """On to the next moment at which something is due; False where nothing is."""
    view, now = world.checker.seen, world.clock.now()
    times = [claim[2] for claim in view.claims]
    for job in view.jobs.values():
        if job.status == "queued":
            times += [job.not_before, job.deadline_at]
    for row in view.ingestions.values():
        times += [row.not_before, row.expander_lease_until]
    later = [time for text in times if text and (time := _time(text)) > now]
    if later:
        world.clock.advance((min(later) - now).total_seconds() + 0.1)
    return bool(later)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=EPOCH.tzinfo)
