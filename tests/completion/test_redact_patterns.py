"""What redaction finds in text."""

from __future__ import annotations

import time

import pytest

from adjourn.completion.redact_patterns import replace_of
from adjourn.redaction_rules import Pattern

HOSTILE = [
    "a@",
    "a.",
    "1",
    "4 ",
    "444 ",
    "5555 ",
    "+1",
    "+1 ",
    "-eyJaaaaaaaa",
    "eyJaaaaaaaaa.",
    "sk-",
    "bearer ",
    "(415) ",
    "x@x.",
    "-----BEGIN RSA PRIVATE KEY-----",
    "-----BEGIN ",
    "a@bcdefghijk",
    "41111111111111119",
    "a-b_c.d%",
    "٤١١ ",
]


def masked(pattern: Pattern, text: str) -> str:
    return replace_of(pattern, "mask", lambda found: "x")(text)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("email", "ann@example.com"),
        ("email", "ann.b+c_d%e@mail.example.co.uk"),
        ("email", "анна@пример.рф"),
        ("email", "a" * 100 + "@example.com"),
        ("phone", "+49 30 1234567"),
        ("phone", "+14155550132"),
        ("phone", "+1 (415) 555-0132"),
        ("phone", "(415) 555-0132"),
        ("phone", "415-555-0132"),
        ("phone", "415.555.0132"),
        ("card", "4111111111111111"),
        ("card", "4111 1111 1111 1111"),
        ("card", "5500-0000-0000-0004"),
        ("card", "3782 822463 10005"),
        ("card", "6011000990139424"),
        ("secret_key", "sk-proj-abcdefghijklmnopqrstuv"),
        ("secret_key", "sk-ant-api03-" + "a" * 40),
        ("secret_key", "sk_live_" + "a" * 24),
        ("secret_key", "ghp_" + "a" * 36),
        ("secret_key", "github_pat_" + "a" * 60),
        ("secret_key", "xoxb-1234567890-abcdef"),
        ("secret_key", "AKIAIOSFODNN7EXAMPLE"),
        ("secret_key", "AIza" + "a" * 35),
        ("secret_key", "adj_" + "a" * 32),
        ("secret_key", "whsec_" + "a" * 32),
        ("secret_key", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc_def-ghi"),
        ("secret_key", "Bearer abcdefghijklmnop1234"),
        ("secret_key", "-----BEGIN RSA PRIVATE KEY-----\nMIIE-x\n-----END RSA PRIVATE KEY-----"),
        ("secret_key", "-----BEGIN PRIVATE KEY-----\nMIIE"),
    ],
)
def test_it_is_found_wherever_it_stands(pattern: Pattern, found: str) -> None:
    """Alone, in a sentence, in brackets, several times."""
    mark = f"[{pattern}]"
    assert masked(pattern, found) == mark
    if not found.endswith("MIIE"):  # a key without an end hides all that follows
        assert masked(pattern, f"see {found}, ({found}) <{found}>.") == f"see {mark}, ({mark}) <{mark}>."


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("email", "a @ b.com, @ann, x@localhost, 5 @ 3.20"),
        ("phone", "1234567890 2025-12-21 10:30 1.2.3 192.168.100.12 v415-555-01329 evt_415-555-0132"),
        ("card", "4111111111111112 1700000000000 1234567890123456 0000 0000 0000 0000 x4111111111111111"),
        ("secret_key", "sk-short task-abcdefghijklmnopqrst AKIA eyJ.eyJ.x bearer of news"),
    ],
)
def test_what_only_looks_alike_stays(pattern: Pattern, text: str) -> None:
    """Handles, dates, versions, addresses, ids and numbers that fail the check digit are not touched."""
    assert masked(pattern, text) == text


def test_a_card_among_other_digits_is_found() -> None:
    """Digits before or behind it, in groups of their own, do not hide it."""
    assert masked("card", "no. 123 4111 1111 1111 1111 456") == "no. 123 [card] 456"
    assert masked("card", "v222 4111-1111-1111-1111 end") == "v222 [card] end"


def test_what_is_found_is_hashed_without_its_separators() -> None:
    """A card written with and without spaces is one card; an action `drop` leaves nothing."""
    seen: list[str] = []

    def digest(found: str) -> str:
        seen.append(found)
        return "abc"

    assert replace_of("card", "hash", digest)("4111 1111 1111 1111 / 4111111111111111") == "[card:abc] / [card:abc]"
    assert seen == ["4111111111111111"] * 2
    assert replace_of("email", "drop", digest)("to ann@example.com!") == "to !"


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("pattern", ["email", "phone", "card", "secret_key"])
def test_no_text_takes_long(pattern: Pattern, unit: str) -> None:
    """The largest event there may be, made of whatever keeps expressions busy, is searched in proportion to its size:
    eight times the text takes nothing like 64 times as long."""

    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        took: list[float] = []
        for _ in range(3):
            began = time.process_time()
            masked(pattern, text)
            took.append(time.process_time() - began)
        return min(took)

    small, large = seconds(32_000), seconds(256_000)
    assert large < 30 * small + 0.05
