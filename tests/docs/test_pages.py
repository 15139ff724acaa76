"""What is seen of the pages without running them: they name what there is, and all of it."""

import re
import shutil
from pathlib import Path

import click
import pytest

from ops.catalogue import APPLICATIONS
from ops.cli import add_commands, cli
from ops.directory import read_directory
from shared.errors import CODES
from shared.settings import PREFIX, Settings
from tests.docs.pages import ADDRESS, ANSWERS, LANGUAGES, PAGES, RUN, blocks, page_name
from tests.services import ROOT
from web.openapi import document


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_block_is_of_a_kind_that_is_looked_at(page: Path) -> None:
    previous = None
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block.place}: {block.language or 'no language'}"
        if block.language in ANSWERS and not block.note:
            # Else nobody would compare it with anything.
            answered = previous is not None and previous.language in RUN
            assert answered, f"{block.place}: an answer comes after what was asked"
        previous = block


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_setting_and_command_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    known = {(PREFIX + name).upper() for name in Settings.model_fields}
    assert set(re.findall(rf"{PREFIX}[A-Z_]*[A-Z]", text)) <= known
    add_commands()
    for said in re.findall(r"classify ((?:[a-z]+ ?)+)", "\n".join(re.findall(r"`[^`]+`", text))):
        command: click.Command = cli
        for word in said.split():
            if isinstance(command, click.Group):
                assert word in command.commands, f"classify {said}"
                command = command.commands[word]


def test_every_call_and_every_code_is_on_the_page_of_the_api() -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    rows = [
        f"| `{name}` | {code.status} | {code.title}{' (retryable)' if code.retryable else ''} |"
        for name, code in CODES.items()
    ]
    assert "\n".join(["|---|---|---|", *rows, ""]) in page
    asked = " ".join(
        block.text for block in blocks(ROOT / "docs" / "api.md") if block.language in RUN
    )
    for path in document()["paths"]:
        pattern = re.sub(r"\\{\w+\\}", r"[\\w.-]+", re.escape(path))
        assert re.search(rf"{re.escape(ADDRESS)}{pattern}[\s'\"?]", asked), path


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_what_a_page_points_to_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if "://" not in target:
            other = page.parent / target if target else page
            assert other.exists(), target
            if anchor:
                headings = re.findall(r"^#+ (.+)", other.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = [re.sub(r"[^\w -]", "", heading.lower()) for heading in headings]
                assert anchor in [slug.replace(" ", "-") for slug in slugs], anchor


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_every_toml_describes_a_model_that_could_be_imported(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(b for b in blocks(page) if b.language == "toml"):
        directory = tmp_path / str(number)
        directory.mkdir()
        shutil.copy(ROOT / "models" / "digits" / "model.keras", directory)
        (directory / "model.toml").write_text(block.text, encoding="utf-8")
        if "embedding = true" not in block.text:
            (directory / "labels.txt").write_text("one\ntwo\n", encoding="utf-8")
        read_directory(directory)


def test_the_page_of_models_names_all_that_can_be_pulled() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    listed = re.search(r"There are\n\n(.+?)\.\n", page, re.DOTALL)
    assert listed
    assert re.findall(r"`(\w+)`", listed[1]) == list(APPLICATIONS)
    assert f"and {len(APPLICATIONS) - 1} more" in page
