"""Names of entries as people see them. They are text: nothing is ever opened by one."""

import unicodedata

MAX_NAME = 1_000
# What systems and browsers leave beside pictures, and nobody means to hand in.
_JUNK_DIRECTORIES = {"__MACOSX"}
_JUNK_FILES = {".ds_store", "thumbs.db", "desktop.ini"}
# Control characters, lone surrogates, and the marks that make text read backwards.
_UNSHOWN = {"Cc", "Cs"}
_MARKS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")


def shown_name(text: str, most: int = MAX_NAME) -> str:
    """The name as it is kept and shown: what is not printed becomes U+FFFD, one for one.

    Longer than `most` it keeps its end, where file names differ.
    """
    if len(text) > most:
        text = f"…{text[1 - most :]}"
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        "\ufffd" if unicodedata.category(sign) in _UNSHOWN or sign in _MARKS else sign
        for sign in text
    )


def is_junk(name: str) -> bool:
    """Whether the name, a path with `/`, is one of what systems leave beside pictures."""
    *directories, last = name.split("/")
    return (
        last.startswith("._")
        or last.lower() in _JUNK_FILES
        or not _JUNK_DIRECTORIES.isdisjoint(directories)
    )
