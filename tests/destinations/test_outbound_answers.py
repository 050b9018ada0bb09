"""What answers mean: the table in the module's docstring, and both forms of Retry-After."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.destination import Refusal
from adjourn.destinations.outbound_answers import RETRY_AFTER_MS_MAX, Answer, excerpt, judge, retry_after_ms
from adjourn.errors import DestinationOutage

NOW_MS = 1_700_000_000_000  # Tue, 14 Nov 2023 22:13:20 GMT


def meaning(status: int) -> str:
    verdict = judge("destination 'x'", Answer(status), NOW_MS)
    if verdict is None:
        return "taken"
    if isinstance(verdict, Refusal):
        assert verdict.code == f"http_{status}"
        return "refused" if verdict.permanent else "failed"
    assert "; " in verdict.message or ": " in verdict.message
    return "gone" if verdict.gone else "outage"


def test_every_status_means_what_the_table_says() -> None:
    """No status is undecided, and only what may lie in the event is ever blamed on it."""
    said = {status: meaning(status) for status in range(100, 600)}
    assert {s for s, m in said.items() if m == "taken"} == {*range(200, 300), 409}
    assert {s for s, m in said.items() if m == "gone"} == {410}
    refused = {s for s, m in said.items() if m == "refused"}
    assert {400, 413, 422, 418, 499} <= refused <= set(range(400, 500))
    outages = {s for s, m in said.items() if m == "outage"}
    assert {*range(300, 400), 401, 403, 404, 405, 407, 408, 415, 425, 429, 502, 503, 504, 507, 522} <= outages
    assert {s for s, m in said.items() if m == "failed"} >= {500, 501, 505, 599, 101}


@pytest.mark.parametrize(
    ("header", "wait_ms"),
    [
        ("", None),
        ("7", 7000),
        (" 120 ", 120_000),
        ("0", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("9" * 400, RETRY_AFTER_MS_MAX),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60_000),
        ("Tue, 14 Nov 2023 22:00:00 GMT", None),
        ("Tue, 14 Nov 9999 22:00:00 GMT", RETRY_AFTER_MS_MAX),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60_000),
    ],
)
def test_retry_after_is_read_in_both_forms(header: str, wait_ms: int | None) -> None:
    """Seconds or a date, a day at most; what is neither, or past, is no wait."""
    assert retry_after_ms(Answer(429, retry_after=header), NOW_MS) == wait_ms


def test_a_receiver_whose_clock_is_wrong_is_understood() -> None:
    """A date is counted from the answer's own date: a clock that is a year off asks for a minute all the same."""
    answer = Answer(503, retry_after="Thu, 14 Nov 2024 22:14:20 GMT", date="Thu, 14 Nov 2024 22:13:20 GMT")
    assert retry_after_ms(answer, NOW_MS) == 60_000


@given(st.text(), st.text())
def test_no_header_makes_it_stumble(retry_after: str, date: str) -> None:
    """Whatever a receiver writes there, the answer has a meaning."""
    found = retry_after_ms(Answer(429, retry_after=retry_after, date=date), NOW_MS)
    assert found is None or 0 < found <= RETRY_AFTER_MS_MAX


def test_an_excerpt_is_short_plain_and_without_secrets() -> None:
    """A message repeats the beginning of an answer on one line, and no token in it."""
    assert excerpt(b"") == ""
    assert excerpt(b"no\n such\x00 tenant") == " ('no such tenant')"
    assert len(excerpt(b"x" * 10_000)) < 220
    assert "hidden" not in excerpt(b"bad token=hidden at https://u:hidden@h/")
    verdict = judge("w", Answer(400, b"no such tenant"), NOW_MS)
    assert isinstance(verdict, Refusal)
    assert "no such tenant" in verdict.reason


def test_whose_failure_it_is_is_said() -> None:
    """An outage by a redirect names the remedy."""
    verdict = judge("w", Answer(302), NOW_MS)
    assert isinstance(verdict, DestinationOutage)
    assert "give the final address as url" in verdict.message
