"""What a caller gives along with an image and gets back unread: its reference and its metadata."""

import json
from typing import Any

MAX_REFERENCE = 200
_METADATA_BYTES = 2048
_METADATA_DEPTH = 32  # deeper than this nobody labels an image, and JSON libraries give up at 1,000


def clean_text(value: str) -> str:
    """Refuse what a database cannot keep (NUL, halves of surrogate pairs) or nobody can see.

    Raises:
        ValueError: With what is wrong.
    """
    if not value.isprintable():
        raise ValueError("control characters are not taken")
    return value


def small_json(value: dict[str, Any]) -> dict[str, Any]:
    """Metadata is JSON that both databases can keep, and little of it.

    Raises:
        ValueError: With what is wrong.
    """
    if _depth(value) > _METADATA_DEPTH:
        raise ValueError(f"metadata may nest at most {_METADATA_DEPTH} levels deep")
    try:
        # Python reads 1e400 as infinity, which is not JSON any more.
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        size = len(text.encode())
    except ValueError as error:
        raise ValueError("metadata has to be JSON, in Unicode that can be written") from error
    if "\\u0000" in text.replace("\\\\", ""):
        raise ValueError("metadata may not contain the character NUL")
    if size > _METADATA_BYTES:
        raise ValueError(f"metadata may have at most {_METADATA_BYTES} bytes of JSON")
    return value


def _depth(value: object) -> int:
    """How deep a value nests, without recursion: the value is a stranger's."""
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return depth
