"""Progress of a long command: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

import click

_LINE_SECONDS = 10.0


def mebibytes(size: int) -> str:
    """A size for people."""
    return f"{size / 2**20:.0f} MiB" if size >= 10 * 2**20 else f"{size / 2**20:.1f} MiB"


class Progress:
    """Called with the bytes done and, where known, of how many."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._bar: Any = None
        self._said_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.render_finish()

    def __call__(self, done: int, total: int | None) -> None:
        """Show how far it is."""
        if sys.stderr.isatty():
            self._draw(done, total)
        else:
            of = f" of {mebibytes(total)}" if total else ""
            self._say(f"{self._label}: {mebibytes(done)}{of}")

    def _say(self, line: str) -> None:
        """Where there is no bar: a line, but not too often."""
        if time.monotonic() - self._said_at >= _LINE_SECONDS:
            self._said_at = time.monotonic()
            click.echo(line, err=True)

    def _draw(self, done: int, total: int | None) -> None:
        if self._bar is None:
            self._bar = click.progressbar(length=total or 0, label=self._label, file=sys.stderr)
            self._bar.render_progress()
        self._bar.update(done - self._bar.pos)
