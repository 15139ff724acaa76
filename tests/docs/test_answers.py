"""That the comparison of answers sees what it should, and no more."""

from typing import Any

import pytest

from tests.docs.answers import abridged, differences, pairs, parse, show, text_differences

ONE = "01a20fd3-2bc5-77e0-b90a-da03cdbfed9f"
OTHER = "01a21045-e6f5-714f-9f85-c6528b6ee391"


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        ({"links": f"/v1/jobs/{ONE}"}, {"links": f"/v1/jobs/{OTHER}"}),
        ({"created_at": "2026-01-01T00:00:00.1Z"}, {"created_at": "2027-02-03T04:05:06.789Z"}),
        ({"score": 0.961}, {"score": 0.9612}),
        ({"total_ms": 1.5}, {"total_ms": 900.0}),
        ({"eta_seconds": None}, {"eta_seconds": 1.5}),
        (parse("[1, 2, …]"), [1, 2, 3, 4]),
        (parse('{"a": 1, …}'), {"a": 1, "b": 2}),
        ({"next_cursor": "eyJ"}, {"next_cursor": "abc"}),
    ],
)
def test_what_differs_each_time_is_alike(shown: Any, real: Any) -> None:
    assert list(differences(shown, real)) == []


@pytest.mark.parametrize(
    ("shown", "real"),
    [
        ({"id": ONE}, {}),
        ({}, {"id": ONE}),
        ({"label": "7"}, {"label": "1"}),
        ({"score": 0.9}, {"score": 0.5}),
        ({"total_ms": 1.5}, {"total_ms": None}),
        ({"attempt": 1}, {"attempt": 2}),
        ({"reused": False}, {"reused": 0}),
        ([1, 2], [1, 2, 3]),
        (parse("[1, 2, …]"), [1, 3, 4]),
        (parse('{"a": 1, …}'), {"a": 2, "b": 2}),
        (parse('{"a": 1, …}'), {"b": 2}),
        ({"next_cursor": "eyJ"}, {"next_cursor": None}),
    ],
)
def test_what_a_reader_would_notice_is_not(shown: Any, real: Any) -> None:
    assert list(differences(shown, real)) != []


def test_of_texts_the_numbers_and_the_spaces_do_not_count() -> None:
    assert not list(text_differences("digits  ready\n  0.9 MiB", "digits ready\n 12.5 MiB\n"))
    assert list(text_differences("digits ready", "digits unavailable"))


def test_what_is_shown_can_be_read_again() -> None:
    value = {"a": [0.5] * 100, "b": {"c": ["x" * 60, "y" * 60]}, "d": [], "e": {"f": None}}
    shown = show(abridged({"d": 1}, value))
    assert max(map(len, shown.splitlines())) < 111
    assert list(differences(parse(shown), value)) == []


def test_a_page_that_is_written_anew_is_cut_where_it_was() -> None:
    old = parse('{"a": [{"b": 1, …}, …], "c": 3}')
    real = {"a": [{"b": 2, "x": 3}, {"b": 4}], "c": 5, "d": 6}
    new = abridged(old, real)
    assert new == parse('{"a": [{"b": 2, …}, …], "c": 5, "d": 6}')
    assert parse(show(new)) == new


def test_ids_and_cursors_are_paired() -> None:
    shown = {"data": [{"links": f"/v1/jobs/{ONE}"}], "next_cursor": "old"}
    real = {"data": [{"links": f"/v1/jobs/{OTHER}"}], "next_cursor": "new"}
    assert dict(pairs(shown, real)) == {ONE: OTHER, "old": "new"}
