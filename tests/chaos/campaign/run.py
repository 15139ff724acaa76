"""One seed after the other on a stage: load and harm, then the end, then the verdict."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from tests.chaos.campaign.asking import Asking
from tests.chaos.campaign.checker import Checker, Violation
from tests.chaos.campaign.faults import Harm, deck, object_unreadable
from tests.chaos.campaign.finale import Finale
from tests.chaos.campaign.host_stage import HOSTS, staged_on_hosts
from tests.chaos.campaign.ingestion_checker import IngestionChecker
from tests.chaos.campaign.leftovers import find_leftovers
from tests.chaos.campaign.load import Client, Ingester, Submitter
from tests.chaos.campaign.nemesis import Done, Nemesis, Prober
from tests.chaos.campaign.pictures import DIGITS, SCALES, Oracle
from tests.chaos.campaign.record import Record, write_lines
from tests.chaos.campaign.stage import Stage, staged

log = logging.getLogger(__name__)

_PROBER, _FINALE, _NEMESIS = 90, 91, 92  # numbers of clients
_SUBMITTERS = 5


@dataclass
class Verdict:
    """What came of one seed on one database."""

    seed: int
    database: str
    jobs: int
    items: int
    requests: int
    unknown: int
    refused: int
    done: list[Done]
    violations: list[Violation]
    seconds: float
    stages: str = ""
    kept: str | None = None
    unasked: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Size:
    """How much is done in one seed."""

    faults: int
    submitters: int = _SUBMITTERS
    short: bool = False
    kinds: tuple[str, ...] = ()


LONG = Size(faults=12)


def campaign(database: str, seeds: Iterable[int], size: Size, keep: Path) -> Iterator[Verdict]:
    """Run the seeds on a service of their own; after a seed that fails, on a new one.

    The record of a seed that fails is put into `keep`.
    """
    waiting = list(seeds)
    with Oracle() as oracle:
        while waiting:
            with staged_on_hosts() if database == HOSTS else staged(database) as stage:
                versions = two_versions(stage)
                while waiting:
                    verdict = one_seed(stage, waiting.pop(0), size, oracle, versions, keep)
                    yield verdict
                    if verdict.violations:
                        break


def two_versions(stage: Stage) -> tuple[str, str]:
    """Install a second version of the model; the first one stays current."""

    def run(*arguments: str) -> object:
        done = stage.command("models", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    [first] = (model["current"] for model in run("list") if model["name"] == "digits")
    variant = stage.directory / "variant"
    shutil.copytree(DIGITS, variant)
    config = (variant / "model.toml").read_text()
    (variant / "model.toml").write_text(config.replace(repr(SCALES[0]), repr(SCALES[1])))
    second = run("import", "digits", str(variant))["version"]
    run("current", "digits", first)
    return first, second


def one_seed(
    stage: Stage,
    seed: int,
    size: Size,
    oracle: Oracle,
    versions: tuple[str, str],
    keep: Path,
) -> Verdict:
    """Load, harm, end and verdict of one seed."""
    began = time.monotonic()
    dice, record, over = Random(seed), Record(), threading.Event()

    def asking(client: int) -> Asking:
        return Asking(stage.url, client, Random(f"{seed}/{client}"), record)

    prober = Prober(asking(_PROBER), seed)
    faults, unreadable = choose(stage, asking(_NEMESIS), prober, dice, versions, size)
    nemesis = Nemesis(faults, dice, prober, record, log.info)
    clients: list[Client] = [
        Submitter(stage.url, seed, number, record, over, versions)
        for number in range(size.submitters)
    ]
    clients.append(Ingester(stage.url, seed, size.submitters, record, over, versions))
    for client in clients:
        client.start()
    try:
        nemesis.run()
    finally:
        over.set()
        for client in clients:
            client.join()
    harmed = time.monotonic()
    late = Finale(asking(_FINALE), record).run()
    nemesis.end()
    settled = time.monotonic()
    violations = judge(stage, record, oracle, versions, unreadable)
    violations += [Violation("stuck", f"{each} has not ended") for each in late]
    violations += [
        Violation("stuck", f"not well again after {done.kind}", asdict(done))
        for done in nemesis.done
        if done.well is None
    ]
    violations += [
        Violation("wrong", f"{client.name} broke: {client.failure!r}")
        for client in clients
        if client.failure is not None
    ]
    calls = record.in_order()
    verdict = Verdict(
        seed=seed,
        database=stage.database,
        jobs=sum(not sent.is_ingestion for sent in record.sent.values()),
        items=sum(len(sent.entries) for sent in record.sent.values() if sent.is_ingestion),
        requests=len(calls),
        unknown=sum(call.status is None for call in calls),
        refused=sum(call.status == 503 for call in calls),
        done=nemesis.done,
        violations=violations,
        seconds=time.monotonic() - began,
        stages=f"harm {harmed - began:.0f}, end {settled - harmed:.0f}, "
        f"verdict {time.monotonic() - settled:.0f}",
        unasked=stage.unasked,
    )
    if violations:
        verdict.kept = str(keep_evidence(stage, record, verdict, keep))
    return verdict


def choose(
    stage: Stage,
    asking: Asking,
    prober: Prober,
    dice: Random,
    versions: tuple[str, str],
    size: Size,
) -> tuple[list[Harm], frozenset[str]]:
    """The faults of a seed in their order, and the references of images that none can read."""
    faults = deck(stage, asking, dice, versions=versions, short=size.short)
    if size.kinds:
        faults = [fault for fault in faults if fault.kind in size.kinds]
    dice.shuffle(faults)
    faults = faults[: size.faults]
    sent = prober.new()
    if not size.short and dice.random() < 0.5:
        # At first: it takes a while until it is given up.
        faults.insert(0, object_unreadable(stage, asking, sent))
    return faults, frozenset({sent.reference})


def judge(
    stage: Stage,
    record: Record,
    oracle: Oracle,
    versions: tuple[str, str],
    unreadable: frozenset[str],
) -> list[Violation]:
    """What was wrong."""
    numbers = (number for sent in record.sent.values() for number in sent.entries if number >= 0)
    checker = Checker(record, oracle.scores(numbers), versions, unreadable)
    checker.run()
    IngestionChecker(checker).run()
    return checker.found + find_leftovers(stage)


def keep_evidence(stage: Stage, record: Record, verdict: Verdict, keep: Path) -> Path:
    """Everything that may help to find out why, in a directory of its own."""
    directory = keep / f"{verdict.database}-seed-{verdict.seed}"
    directory.mkdir(parents=True, exist_ok=True)
    record.write(directory)
    write_lines(directory / "faults.jsonl", map(asdict, verdict.done))
    write_lines(directory / "violations.jsonl", map(asdict, verdict.violations))
    for log in stage.directory.glob("*.log"):
        shutil.copy(log, directory)
    for server in (stage.broker, stage.postgres):
        if server is not None:
            shutil.copy(server.log, directory / f"{server.name}.log")
    return directory
