"""Writes docs/settings.md from `Settings`; a test fails when the page is out of date."""

import inspect
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from shared.settings import Settings, variable_of

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
_HEAD = """\
# Settings

<!-- Written by `make docs` from shared/settings.py. -->

A setting is an environment variable. It may stand in a file `.env` in the directory where the
service is started; the environment goes before the file, and an option of the command
(`--data-dir`, `--bind`) before both. A name that begins with `CLASSIFIER_` and is not listed here
stops the service at its start, so that no slip of the pen is passed over.

`DATABASE_URL`, `REDIS_URL`, `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY` may come from a file,
as container secrets do: `DATABASE_URL_FILE` and so on name it.
"""


def page() -> str:
    """The whole page: a table for each group, in the order of the source."""
    parts = [_HEAD]
    for group, names in groups().items():
        rows = [_row(name, Settings.model_fields[name]) for name in names]
        parts.append(
            "\n".join(
                [
                    f"## {group}",
                    "",
                    "| setting | default | what it does |",
                    "|---|---|---|",
                    *rows,
                    "",
                ]
            )
        )
    return "\n".join(parts)


def groups() -> dict[str, list[str]]:
    """Names of settings by the comment that stands above them in the class."""
    found: dict[str, list[str]] = {}
    for line in inspect.getsource(Settings).splitlines():
        if heading := re.fullmatch(r" {4}# (.+)", line):
            names = found.setdefault(heading[1], [])
        elif (field := re.match(r" {4}(\w+): .+ = ", line)) and field[1] in Settings.model_fields:
            names.append(field[1])
    return {group: names for group, names in found.items() if names}


def _row(name: str, field: FieldInfo) -> str:
    described = field.description or ""
    if get_origin(field.annotation) is Literal:
        described += f" One of {', '.join(f'`{choice}`' for choice in get_args(field.annotation))}."
    return f"| `{variable_of(name)}` | {_default(field.default)} | {described} |"


def _default(value: Any) -> str:
    if value is None or value == ():
        return "none"
    assert not isinstance(value, SecretStr)
    return f"`{','.join(value) if isinstance(value, tuple) else value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
