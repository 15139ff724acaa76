"""While the database is away one thread asks for it, and no other waits."""

import pytest

from shared.errors import Unavailable
from shared.outage import Outage
from tests.integration.helpers import in_threads


def test_one_asks_and_the_others_are_told_at_once() -> None:
    outage = Outage()
    with outage.asking():
        assert in_threads(3, lambda _: ask(outage)) == [None] * 3  # nothing is wrong: all may
    outage.begins("no answer")
    with pytest.raises(KeyError), outage.asking():  # the one that asks
        assert in_threads(3, lambda _: ask(outage)) == ["no answer"] * 3
        raise KeyError  # it is still away
    with outage.asking():  # the next one may ask
        assert ask(outage) == "no answer"
    with outage.asking():
        assert ask(outage) is None  # that one was answered


def ask(outage: Outage) -> str | None:
    """Why one may not ask."""
    try:
        with outage.asking():
            return None
    except Unavailable as unavailable:
        return str(unavailable)
