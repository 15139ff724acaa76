"""The pages that people read, as the blocks of code and the answers in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.services import ROOT

_LAST = ROOT / "docs" / "getting-started.md"  # it installs a model, which others would list
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(set((ROOT / "docs").glob("*.md")) - {_LAST}),
    _LAST,
]
ADDRESS = "127.0.0.1:8000"  # of the service, in all pages
RUN = {"sh", "python"}
ANSWERS = {"json", "http", "text"}
LANGUAGES = RUN | ANSWERS | {"toml"}
_FENCE = re.compile(r"```(\w*)")
_NOTE = re.compile(r"<!-- (not run: .+|saved as \S+|exit \d+) -->")


@dataclass
class Block:
    """One fenced block.

    Attributes:
        line: Of the opening fence, from 1.
        note: What the comment above it says: `not run: <why>`, `saved as <path>`, `exit <code>`.
    """

    page: Path
    line: int
    language: str
    text: str
    note: str

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{page_name(self.page)}:{self.line}"

    def said(self, kind: str) -> str:
        """The rest of a note of this kind, else nothing."""
        return self.note.removeprefix(kind) if self.note.startswith(kind) else ""


def page_name(page: Path) -> str:
    """As the tests call it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, from its top to its end."""
    lines = page.read_text(encoding="utf-8").splitlines()
    inside: Block | None = None
    for number, line in enumerate(lines, start=1):
        fence = _FENCE.fullmatch(line)
        if inside is not None:
            if line == "```":
                yield inside
                inside = None
            else:
                inside.text += line + "\n"
        elif fence is not None:
            note = _NOTE.fullmatch(lines[number - 2])
            inside = Block(page, number, fence[1], "", note[1] if note else "")
        else:
            assert not re.match(r"( {4}|\t)\S", line) or lines[number - 2], (
                f"{page.name}:{number}: a block of code is fenced, and its language named"
            )
    assert inside is None, f"{page.name}: a fence is not closed"
