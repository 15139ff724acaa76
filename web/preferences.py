"""The request headers `Prefer` and `Idempotency-Key`."""

import re

from flask import Response, request
from werkzeug.http import parse_list_header

from shared.errors import ProblemError

_WAIT = re.compile(r'wait\s*=\s*"?(\d{1,9})"?')
_KEY_CHARACTERS = 200


def wanted_wait_seconds(longest: int) -> int | None:
    """The n of `Prefer: wait=n` (RFC 7240), at most `longest`; None if it is not asked for.

    A preference that is malformed or unknown is ignored, and the first of two counts.
    """
    for preference in parse_list_header(", ".join(request.headers.getlist("Prefer"))):
        found = _WAIT.fullmatch(preference.partition(";")[0].strip().lower())
        if found is not None:
            return min(int(found[1]), longest)
    return None


def say_waited(response: Response, seconds: int) -> None:
    """Say that the preference was honoured."""
    response.headers["Preference-Applied"] = f"wait={seconds}"


def idempotency_key() -> str | None:
    """The Idempotency-Key, if the request has one.

    Raises:
        ProblemError: It is not 1 to 200 printable ASCII characters.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not (key.isascii() and key.isprintable() and 0 < len(key) <= _KEY_CHARACTERS):
        detail = f"An Idempotency-Key has 1 to {_KEY_CHARACTERS} printable ASCII characters."
        raise ProblemError(
            "invalid_value", detail, errors=[{"field": "Idempotency-Key", "detail": detail}]
        )
    return key
