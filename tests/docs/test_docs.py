"""Every command and code block of the pages is run against one service, answers are compared.

`make docs` writes the answers that are not like the real ones anew.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import pytest

from tests.docs.answers import abridged, differences, pairs, parse, show, text_differences
from tests.docs.pages import ADDRESS, ANSWERS, PAGES, RUN, Block, blocks, page_name
from tests.functional.service import Service, serving
from tests.services import AS_INSTALLED, ROOT, BrokerServer

WRITE = os.environ.get("WRITE_DOCS") == "1"
SECONDS = 60


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, _broker_server: BrokerServer
) -> Iterator[Service]:
    _broker_server.start()
    directory = tmp_path_factory.mktemp("service")
    readers = tmp_path_factory.getbasetemp()
    service = Service(
        directory,
        f"sqlite:///{directory / 'classifier.db'}",
        _broker_server.url,
        source_roots=readers,
        output_prefixes=readers.as_uri(),
    )
    # Lists name pictures that the service itself shows.
    service.environment["CLASSIFIER_SOURCE_HOSTS"] = service.url.removeprefix("http://")
    with serving(service):
        yield service


class Reader:
    """Does what a page says, one block after the other, in a directory that looks like a clone."""

    def __init__(self, service: Service, directory: Path) -> None:
        self.service = service
        self.directory = directory
        self.output = ""
        self.real: dict[str, str] = {}  # ids of the page and what they are here
        self._held = False
        for path in (*ROOT.glob("[!.]*"), ROOT / ".venv"):
            if path.name not in ("data", ".venv"):
                (directory / path.name).symlink_to(path)
        (directory / ".venv").symlink_to(sys.prefix)
        path = f"{AS_INSTALLED}{os.pathsep}{ROOT}"
        self.environment = service.environment | {"PYTHONPATH": path, "COLUMNS": "100"}

    def run(self, block: Block) -> None:
        text = self._as_here(block.text)
        command = ["sh", "-eu", "-c", text] if block.language == "sh" else [sys.executable, "-"]
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            input=None if block.language == "sh" else text,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        expected = int(block.said("exit ") or 0)
        assert done.returncode == expected, f"{block.place}: {done.stdout}{done.stderr}"
        self.output = done.stdout if expected == 0 else done.stderr

    def _as_here(self, text: str) -> str:
        text = text.replace(ADDRESS, self.service.url.removeprefix("http://"))
        for shown, real in self.real.items():
            text = text.replace(shown, real)
        return text

    def prepare(self, answer: Block | None) -> None:
        """Hold the worker while a page shows jobs that wait, so that they do."""
        waits = answer is not None and re.search(r'"status": "(queued|canceled)"', answer.text)
        if waits and not self._held:
            self.service.freeze(self.service.worker)
            self._held = True
        elif self._held and not waits:
            self.release()

    def release(self) -> None:
        """Let the worker go on."""
        self.service.worker.signal(signal.SIGCONT)
        self._held = False

    def save(self, block: Block) -> None:
        """Write the file that the reader is told to write."""
        path = self.directory / block.said("saved as ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._as_here(block.text), encoding="utf-8")

    def differences(self, block: Block) -> list[str]:
        """How the last output is not what this block shows."""
        if block.language == "text":
            return list(text_differences(block.text, self.output))
        shown_head, shown_body = (
            _split(block.text) if block.language == "http" else ("", block.text)
        )
        head, body = _split(self.output) if block.language == "http" else ("", self.output)
        shown = parse(shown_body) if shown_body.strip() else None
        real = json.loads(body) if body.strip() else None
        self.real |= {one: other for one, other in pairs(shown, real) if one not in self.real}
        missing = [
            f"{line!r} is not in the answer: {head}"
            for line in shown_head.splitlines()
            if all(list(text_differences(line, other)) for other in head.splitlines())
        ]
        return missing + list(differences(shown, real))

    def shown(self, block: Block) -> str:
        """What the block should say: the real answer, with the ids that the page uses."""
        if block.language == "text":
            return self._as_on_page(re.sub(r" +$", "", self.output, flags=re.MULTILINE))
        head, body = _split(self.output) if block.language == "http" else ("", self.output)
        old = _split(block.text)[1] if head else block.text
        old_value = parse(old) if old.strip() else None
        text = show(abridged(old_value, json.loads(body))) + "\n" if body.strip() else ""
        if head:
            named = {line.partition(":")[0] for line in _split(block.text)[0].splitlines()[1:]}
            lines = head.splitlines()
            kept = [line for line in lines[1:] if not named or line.partition(":")[0] in named]
            text = "\n".join([lines[0], *kept, *(["", text] if text else [""])])
        return self._as_on_page(text)

    def _as_on_page(self, text: str) -> str:
        for shown, real in self.real.items():
            text = text.replace(real, shown)
        return text.replace(self.service.url.removeprefix("http://"), ADDRESS)


def _is_laid_out(block: Block) -> bool:
    """Whether the JSON in it looks as it would if it were written anew."""
    body = _split(block.text)[1] if block.language == "http" else block.text
    return block.language == "text" or not body.strip() or show(parse(body)) == body.strip()


def _split(answer: str) -> tuple[str, str]:
    """Status line and headers, and the body."""
    head, _, body = answer.replace("\r\n", "\n").partition("\n\n")
    return head, body


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_a_page_says_is_what_happens(service: Service, page: Path, tmp_path: Path) -> None:
    reader = Reader(service, tmp_path)
    ran, wrong, rewritten = False, [], []
    found_blocks = list(blocks(page))
    for block, following in zip_longest(found_blocks, found_blocks[1:]):
        if block.said("saved as "):
            reader.save(block)
        elif block.note.startswith("not run: "):
            ran = False
        elif block.language in RUN:
            reader.prepare(following)
            reader.run(block)
            ran = True
        elif block.language in ANSWERS and ran:
            found = reader.differences(block)
            if WRITE and (found or not _is_laid_out(block)):
                rewritten.append((block, reader.shown(block)))
            wrong += [f"{block.place}: {difference}" for difference in found]
    reader.release()
    if rewritten:
        _rewrite(page, rewritten)
    assert WRITE or not wrong, "\n".join(wrong)


def _rewrite(page: Path, rewritten: list[tuple[Block, str]]) -> None:
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    for block, text in reversed(rewritten):
        end = block.line + len(block.text.splitlines())
        lines[block.line : end] = [text if text.endswith("\n") else text + "\n"]
    page.write_text("".join(lines), encoding="utf-8")
