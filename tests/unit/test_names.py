"""Names of entries: what is shown, and what is passed over."""

import pytest

from worker.sources.names import MAX_NAME, is_junk, shown_name


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("photos/cat 1.jpg", "photos/cat 1.jpg"),
        ("Größe/日本.png", "Größe/日本.png"),
        ("a\x00b\x1b[2Jc\n", "a\ufffdb\ufffd[2Jc\ufffd"),
        ("latin\udce4.jpg", "latin\ufffd.jpg"),
        ("cat\u202egpj.exe", "cat\ufffdgpj.exe"),
    ],
)
def test_a_name_is_shown_as_printable_text(text: str, shown: str) -> None:
    assert shown_name(text) == shown


def test_an_absurd_name_keeps_its_end() -> None:
    shown = shown_name(f"{'x' * 5_000}/cat.jpg")
    assert len(shown) == MAX_NAME
    assert shown.endswith("/cat.jpg")


def test_what_systems_leave_behind_is_junk() -> None:
    for name in (
        "__MACOSX/a.jpg",
        "a/__MACOSX/._b.jpg",
        ".DS_Store",
        "a/Thumbs.db",
        "a/b/DESKTOP.INI",
        "._cat.jpg",
    ):
        assert is_junk(name), name
    for name in ("cat.jpg", ".cat.jpg", "a._b.jpg", "MACOSX/a.jpg", "Thumbs.db/a.jpg", "notes.txt"):
        assert not is_junk(name), name
