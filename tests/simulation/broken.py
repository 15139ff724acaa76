"""Break a promise in a copy of the source, and see that the simulation notices: five times.

    .venv/bin/python -m tests.simulation.broken

A check that never failed proves nothing. Each break is one replacement in one file; the simulation
then runs seed after seed in the copy until one fails. Exits with 1 if a break was not noticed
within `--seconds`, and also where the whole source is noticed: then the simulation is at fault.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from bench.figures import table

ROOT = Path(__file__).parents[2]
_PARTS = ("shared", "worker", "web", "ops", "migrations", "models", "tests", "pyproject.toml")
_SEEDS = "1:1000000"  # more than the time is enough for
_WHOLE_SEEDS = "1:100"
_WIDTH = 70  # the rest is rows


@dataclass(frozen=True)
class Break:
    """What is taken away, and how: `old` stands in the file exactly once."""

    name: str
    file: str
    old: str
    new: str
    database: str = "sqlite"


BREAKS = (
    Break(
        "a late writer is not fenced off by the claim token",
        "shared/jobs/transitions.py",
        ".where(jobs.c.id.in_(ids), jobs.c.claim_token == token, *more)",
        ".where(jobs.c.id.in_(ids), *more)",
    ),
    Break(
        "recovery does not requeue the jobs of lapsed claims",
        "shared/jobs/recovery.py",
        "*((self._requeue_lapsed,) if self.may_take_from_others() else ()),",
        "",
    ),
    Break(
        "a job is accepted before its commit",
        "shared/jobs/intake.py",
        "            accepted = database.transact(insert)\n",
        """            early: list[Accepted | None] = []

            def insert_and_answer(connection: Connection) -> None:
                early.append(insert(connection))

            try:
                database.transact(insert_and_answer)
            except (IntegrityError, _ImageVanished):
                raise
            except BaseException:
                if not early:
                    raise
            accepted = early[-1]
""",
    ),
    Break(
        "the clock of a lane goes back",
        "shared/jobs/claiming.py",
        "lanes.c.lane == lane, lanes.c.clock < sequence)",
        "lanes.c.lane == lane)",
        "postgresql",  # on SQLite, with one writer at a time, nothing waits below the clock
    ),
    Break(
        "the sweep removes an image's object before its row",
        "shared/sweep.py",
        """        try:
            rows = self.database.transact(lambda connection: _delete_images(connection, names))
        except IntegrityError:
""",
        """        with self.database.read() as connection:
            objects = connection.scalars(select(images.c.object).where(images.c.sha256.in_(names)))
            self.storage.delete(*filter(None, objects))
        try:
            rows = self.database.transact(lambda connection: _delete_images(connection, names))
        except IntegrityError:
""",
    ),
)


def main() -> int:
    """Break it each way; 1 if a break was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="for each break at most")
    options = parser.parse_args()
    rows = []
    as_expected = True
    for broken in (None, *BREAKS):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            copy = _copy(Path(directory), broken)
            said = _simulate(copy, broken, options.seconds)
        noticed = said is not None
        as_expected &= noticed == (broken is not None)
        rows.append(
            (
                broken.name if broken else "nothing is broken",
                said or "not noticed",
                f"{time.monotonic() - began:.0f}",
            )
        )
        click.echo(" · ".join(rows[-1]), err=True)
    click.echo(table(("what is broken", "noticed by", "seconds"), rows))
    return 0 if as_expected else 1


def _copy(directory: Path, broken: Break | None) -> Path:
    """A copy of the source, broken."""
    ignored = shutil.ignore_patterns("__pycache__")
    for part in _PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, directory / part, ignore=ignored)
        else:
            shutil.copy(source, directory / part)
    if broken is not None:
        file = directory / broken.file
        text = file.read_text(encoding="utf-8")
        if text.count(broken.old) != 1:
            raise SystemExit(f"{broken.file} has changed: {broken.name} has to be written anew")
        file.write_text(text.replace(broken.old, broken.new), encoding="utf-8")
    return directory


def _simulate(copy: Path, broken: Break | None, seconds: float) -> str | None:
    """What the simulation said of a seed that failed, or None."""
    database, seeds = (broken.database, _SEEDS) if broken else ("sqlite", _WHOLE_SEEDS)
    command = [sys.executable, "-m", "tests.simulation", "--database", database, "--seeds", seeds]
    process = subprocess.Popen(
        command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # so that it ends its PostgreSQL
        process.communicate()
        return None
    if process.returncode == 0:
        return None
    failed = [line for line in out.splitlines() if line.startswith("seed ")]
    if not failed:
        raise SystemExit(f"the simulation could not be run:\n{err[-2000:]}")
    return failed[0][:_WIDTH]


if __name__ == "__main__":
    sys.exit(main())
