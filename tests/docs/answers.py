"""Whether a real answer has the shape of the one that a page shows, and how answers are shown."""

import json
import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

WIDTH = 110
_SHOWN_NUMBERS = 3
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_MASKS = (
    (_UUID, "ID"),
    (re.compile(r"\b\d{4}-\d\d-\d\dT[\d:.+]+Z?"), "TIME"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "VERSION"),
    (re.compile(r'W/"[0-9a-f]+"'), "ETAG"),
    (re.compile(r"127\.0\.0\.1:\d+"), "ADDRESS"),
)
_SCORE_TOLERANCE = 0.01  # processors differ in the last digits; a score is looked at all the same
# What depends on the moment: any number, or none.
_OF_THE_MOMENT = {"position", "eta_seconds", "workers", "images_per_second", "inference_ms"}
_MORE = "…"


def parse(shown: str) -> Any:
    """JSON in which a list or an object may end with `…`, which stands for more of it."""
    shown = re.sub(r"…(\s*\])", rf'"{_MORE}"\1', shown)
    return json.loads(re.sub(r"…(\s*\})", rf'"{_MORE}": "{_MORE}"\1', shown))


def pairs(shown: Any, real: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Ids and cursors of a page, each with what it is in the real answer."""
    if isinstance(shown, dict) and isinstance(real, dict):
        for name in shown.keys() & real.keys():
            yield from pairs(shown[name], real[name], name)
    elif isinstance(shown, list) and isinstance(real, list):
        for one, other in zip(shown, real, strict=False):
            yield from pairs(one, other)
    elif isinstance(shown, str) and isinstance(real, str):
        if key == "next_cursor":
            yield shown, real
        yield from zip(_UUID.findall(shown), _UUID.findall(real), strict=False)


def mask(text: str) -> str:
    """A text without what is another one each time."""
    for pattern, word in _MASKS:
        text = pattern.sub(word, text)
    return text


def differences(shown: Any, real: Any, key: str = "the answer") -> Iterator[str]:
    """What is not alike, each as a sentence."""
    if isinstance(shown, dict) and isinstance(real, dict):
        yield from _dict_differences(shown, real, key)
    elif isinstance(shown, list) and isinstance(real, list):
        yield from _list_differences(shown, real, key)
    elif not _alike(shown, real, key):
        yield f"{key} is {real!r}, not {shown!r}"


def _list_differences(shown: list[Any], real: list[Any], key: str) -> Iterator[str]:
    more = shown[-1:] == [_MORE]
    shown = shown[: len(shown) - more]
    if len(real) < len(shown) or (len(real) > len(shown) and not more):
        yield f"{key} has {len(real)} entries, not {len(shown)}"
    for one, other in zip(shown, real, strict=False):
        yield from differences(one, other, key)


def _dict_differences(shown: dict[str, Any], real: dict[str, Any], key: str) -> Iterator[str]:
    if missing := shown.keys() - real.keys() - {_MORE}:
        yield f"{key} has no {', '.join(sorted(missing))}"
    if (unsaid := real.keys() - shown.keys()) and _MORE not in shown:
        yield f"{key} has {', '.join(sorted(unsaid))} too"
    for name in shown.keys() & real.keys():
        yield from differences(shown[name], real[name], name)


def _alike(shown: Any, real: Any, key: str) -> bool:
    """Whether one plain value could stand for the other."""
    if key in _OF_THE_MOMENT:
        return _is_number_or_none(shown) and _is_number_or_none(real)
    if key == "next_cursor":
        return isinstance(shown, str) is isinstance(real, str)
    if key == "score":
        return abs(shown - real) <= _SCORE_TOLERANCE
    if isinstance(shown, float) and isinstance(real, float):
        return True
    if isinstance(shown, str) and isinstance(real, str):
        return mask(shown) == mask(real)
    return bool(shown == real and type(shown) is type(real))


def _is_number_or_none(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def text_differences(shown: str, real: str) -> Iterator[str]:
    """As `differences`, for what a command prints: every number is as good as another."""
    masked = [
        [re.sub(r"\d+(\.\d+)?", "#", " ".join(mask(line).split())) for line in text.splitlines()]
        for text in (shown, real)
    ]
    if masked[0] != masked[1]:
        yield f"it says:\n{real}"


def abridged(shown: Any, real: Any) -> Any:
    """The real answer, cut where the page cuts it, and in long lists of numbers."""
    if isinstance(shown, dict) and isinstance(real, dict):
        names = [name for name in real if name in shown] if _MORE in shown else list(real)
        cut = {name: abridged(shown.get(name), real[name]) for name in names}
        return cut | {_MORE: _MORE} if _MORE in shown else cut
    if isinstance(real, list):
        shown = shown if isinstance(shown, list) else []
        many = len(real) > _SHOWN_NUMBERS and isinstance(real[0], float)
        kept = _SHOWN_NUMBERS if many else len(shown) - 1 if shown[-1:] == [_MORE] else len(real)
        cut = [abridged(one, other) for one, other in zip_longest(shown[:kept], real[:kept])]
        return [*cut, _MORE] if kept < len(real) else cut
    return real


def show(value: Any, indent: int = 0, before: int = 0) -> str:
    """JSON as the pages show it: what fits into a line is one; `…` stands bare.

    `before` is how much stands before it in its line.
    """
    flat = json.dumps(value, ensure_ascii=False).replace(f'"{_MORE}": "{_MORE}"', _MORE)
    flat = flat.replace(f'"{_MORE}"', _MORE)
    parts = value.values() if isinstance(value, dict) else value
    if not isinstance(value, dict | list) or not value:
        return flat
    nested = any(isinstance(part, dict | list) and part for part in parts)
    if indent and not nested and before + len(flat) < WIDTH:
        return flat
    pad = " " * (indent + 2)
    if isinstance(value, dict):
        starts = [pad if name == _MORE else f"{pad}{json.dumps(name)}: " for name in value]
    else:
        starts = [pad] * len(value)
    lines = [
        start + show(part, indent + 2, len(start))
        for start, part in zip(starts, parts, strict=True)
    ]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n" + ",\n".join(lines) + f"\n{' ' * indent}{closing}"
