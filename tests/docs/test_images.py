"""The page of images says what the code does: each format, each refusal, each limit."""

from shared.errors import CODES
from shared.images import MEDIA_TYPES, NAMES
from shared.settings import Settings
from tests.services import ROOT

PAGE = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
READ, REFUSED = PAGE.split("## What is refused")


def test_each_format_has_its_line() -> None:
    names = NAMES.replace(" or ", ", ").split(", ")
    assert len(names) == len(set(MEDIA_TYPES.values()))
    for name in names:
        assert f"\n| {name} | " in READ


def test_each_code_has_the_status_that_is_told() -> None:
    for code in ("image_too_large", "unsupported_image"):
        assert f"| `{code}` | at once, {CODES[code].status} |" in REFUSED
    assert "| `image_unreadable` | the job fails |" in REFUSED


def test_the_limits_are_those_of_the_settings() -> None:
    settings = Settings.model_fields
    assert settings["max_image_bytes"].default == 32 * 2**20
    assert "`CLASSIFIER_MAX_IMAGE_BYTES` (32 MiB)" in REFUSED
    assert settings["max_image_pixels"].default == 64_000_000
    assert "`CLASSIFIER_MAX_IMAGE_PIXELS` (64 million)" in REFUSED
