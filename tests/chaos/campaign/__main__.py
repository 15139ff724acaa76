"""`make chaos`: the campaign, and its table."""

import json
import logging
import signal
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import click

from tests.chaos.campaign.host_stage import HOSTS
from tests.chaos.campaign.report import table
from tests.chaos.campaign.run import LONG, Verdict, campaign

_DATABASES = ("sqlite", "postgresql")


@click.command()
@click.option("--seeds", default="1:20", help="`7`, or `1:20` for all of these.")
@click.option("--database", type=click.Choice([*_DATABASES, "both"]), default="both")
@click.option("--hosts", is_flag=True, help="On PostgreSQL, each part on a host of its own.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the figures there.")
@click.option("--keep", type=click.Path(path_type=Path), help="Where a failing seed's record goes.")
@click.option("--verbose", is_flag=True, help="Tell of each fault as it was done.")
@click.option(
    "--only", multiple=True, help="A kind of fault, as the table names it; several may be."
)
def main(
    seeds: str,
    database: str,
    hosts: bool,
    path: Path | None,
    keep: Path | None,
    verbose: bool,
    only: tuple[str, ...],
) -> None:
    """Do harm to a service under load, over and over, and see that it keeps what it promises.

    A seed repeats the choices: what is sent, what is done, and in what order. How long things take
    is as the machine has it.
    """
    logging.basicConfig(format="%(message)s", level=logging.INFO if verbose else logging.WARNING)
    # Told to end, it ends what it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    first, _, last = seeds.partition(":")
    size = replace(LONG, kinds=only)
    keep = keep or Path(tempfile.gettempdir()) / "campaign-kept"
    verdicts: list[Verdict] = []
    names = (HOSTS,) if hosts else _DATABASES if database == "both" else (database,)
    for name in names:
        for verdict in campaign(name, range(int(first), int(last or first) + 1), size, keep):
            verdicts.append(verdict)
            say(verdict)
            if path is not None:
                path.write_text(json.dumps([asdict(each) for each in verdicts], default=str))
    click.echo(table(verdicts))
    raise SystemExit(any(verdict.violations for verdict in verdicts))


def say(verdict: Verdict) -> None:
    """One line a seed, and one for each violation."""
    unasked = verdict.unasked or "none"
    click.echo(
        f"{verdict.database} seed {verdict.seed}: {verdict.jobs} jobs, {verdict.items} items, "
        f"{len(verdict.done)} faults, {verdict.requests} requests ({verdict.unknown} unknown, "
        f"{verdict.refused} refused), {len(verdict.violations)} violations, "
        f"{verdict.seconds:.0f} s ({verdict.stages}), ended by themselves: {unasked}"
    )
    for violation in verdict.violations[:20]:
        click.echo(f"  {violation.promise}: {violation.what}")
    if verdict.kept:
        click.echo(f"  its record is in {verdict.kept}")


if __name__ == "__main__":
    main()
