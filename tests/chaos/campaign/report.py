"""The table of a campaign: `python -m tests.chaos.campaign.report FILE…` of what `--json` wrote."""

import json
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import median

import click

from tests.chaos.campaign.checker import Violation
from tests.chaos.campaign.nemesis import Done
from tests.chaos.campaign.run import Verdict

_PROMISES = ("lost", "answered twice", "changed", "stuck", "wrong", "refused", "left over")


def table(verdicts: Sequence[Verdict]) -> str:
    """What was done and what was found, for each database, in Markdown."""
    databases = list(dict.fromkeys(verdict.database for verdict in verdicts))
    return "\n\n".join(
        _of_database(name, [each for each in verdicts if each.database == name])
        for name in databases
    )


def _of_database(name: str, verdicts: Sequence[Verdict]) -> str:
    found = [violation.promise for verdict in verdicts for violation in verdict.violations]
    counts = {
        "seeds": f"{len(verdicts)}, from {verdicts[0].seed} to {verdicts[-1].seed}",
        "jobs": f"{sum(each.jobs for each in verdicts):,}",
        "items of ingestions": f"{sum(each.items for each in verdicts):,}",
        "requests": f"{sum(each.requests for each in verdicts):,}",
        "of these without an answer": f"{sum(each.unknown for each in verdicts):,}",
        "refused (503)": f"{sum(each.refused for each in verdicts):,}",
        "faults": f"{sum(len(each.done) for each in verdicts):,}",
        **{promise: str(found.count(promise)) for promise in _PROMISES},
        "minutes": f"{sum(each.seconds for each in verdicts) / 60:.0f}",
    }
    lines = [f"{name}", "", "| what | number |", "|---|---|"]
    lines += [f"| {what} | {number} |" for what, number in counts.items()]
    lines += ["", "| fault | times | recovery, median | worst |", "|---|---|---|---|"]
    return "\n".join(lines + _recoveries(verdicts))


def _recoveries(verdicts: Sequence[Verdict]) -> list[str]:
    """How long each kind took to recover from, and all of them together."""
    by_kind: dict[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        for done in verdict.done:
            seconds = done.recovery_seconds
            by_kind[done.kind].append(float("inf") if seconds is None else seconds)
    rows = {**dict(sorted(by_kind.items())), "all": list(chain.from_iterable(by_kind.values()))}
    return [
        f"| {kind} | {len(times)} | {median(times):.1f} s | {max(times):.1f} s |"
        for kind, times in rows.items()
    ]


def read(path: Path) -> list[Verdict]:
    """The verdicts of a run, as `--json` wrote them."""
    return [
        Verdict(
            **each
            | {
                "done": [Done(**done) for done in each["done"]],
                "violations": [Violation(**violation) for violation in each["violations"]],
            }
        )
        for each in json.loads(path.read_text())
    ]


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, exists=True))
def main(paths: Sequence[Path]) -> None:
    """Print one table of several runs."""
    verdicts = [verdict for path in paths for verdict in read(path)]
    click.echo(table(sorted(verdicts, key=lambda each: (each.database, each.seed))))


if __name__ == "__main__":
    main()
