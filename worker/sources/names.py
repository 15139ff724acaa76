"""Names as sources have them: text for people, and what systems leave lying about."""

import unicodedata

_LONGEST = 1000
_JUNK_FILES = frozenset({".ds_store", "thumbs.db", "desktop.ini"})


def shown_name(name: str) -> str:
    """The name as text that can be kept and shown: never empty, at most 1,000 characters.

    What is no character (halves of surrogate pairs, control characters) becomes U+FFFD, so that
    two names seldom become one.
    """
    # "Cc", "Cs": control characters and surrogates.
    shown = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in name)
    return shown[:_LONGEST].strip() or "(no name)"


def is_junk(name: str) -> bool:
    """Whether it is a system's own file, of which nobody wants to hear.

    macOS packs `__MACOSX/` and `._*` beside each file, Windows leaves `Thumbs.db`.
    """
    parts = name.replace("\\", "/").split("/")
    last = parts[-1].lower()
    return "__MACOSX" in parts or last in _JUNK_FILES or last.startswith("._")
