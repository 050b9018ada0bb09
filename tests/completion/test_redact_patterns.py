"""What redaction finds in text."""

from __future__ import annotations

import time
from datetime import datetime
from functools import partial
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adjourn.completion.redact_patterns import replace_of
from adjourn.ids import new_id
from adjourn.redaction_rules import PATTERNS, Pattern

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
    "a'",
    ".'",
    '"a',
    "%2B",
    "%20a%40",
    "1.",
    "1:",
    "::1",
    "1:1:",
    "00 4",
    "06 12 ",
    "(030) ",
    "4111.",
    "4111\u2009",
    "4111-1111-1111-1111-",
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
        ("email", "ann.o'brien@example.com"),
        ("email", '"ann b"@example.com'),
        ("email", "ann%2Btag%40example.com"),
        ("email", "root@[192.168.0.1]"),
        ("email", "root@192.168.0.1"),
        ("phone", "+49 30 1234567"),
        ("phone", "+14155550132"),
        ("phone", "+1 (415) 555-0132"),
        ("phone", "(415) 555-0132"),
        ("phone", "415-555-0132"),
        ("phone", "415.555.0132"),
        ("phone", "415/555-0132"),
        ("phone", "1-415-555-0132"),
        ("phone", "1 (415) 555-0132"),
        ("phone", "(415)-555-0132 ext. 12"),
        ("phone", "415\u2011555\u20110132"),
        ("phone", "+49\u00a030\u20091234567"),
        ("phone", "+49 (0)30/1234567"),
        ("phone", "0049 30 1234567"),
        ("phone", "00 44 20 7946 0958"),
        ("phone", "(030) 1234567"),
        ("phone", "030/1234567"),
        ("phone", "0171-1234567"),
        ("phone", "020 7946 0958"),
        ("phone", "06 12 34 56 78"),
        ("phone", "06.12.34.56.78"),
        ("ip", "192.168.100.12"),
        ("ip", "2001:db8::8a2e:370:7334"),
        ("ip", "2001:0db8:0000:0000:0000:ff00:0042:8329"),
        ("ip", "::1"),
        ("ip", "fe80::1"),
        ("ip", "::ffff:10.0.0.1"),
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
        ("email", "a @ b.com, @ann, x@localhost, 5 @ 3.20, react@18.2.0, 50%40x"),
        ("phone", "1234567890 2025-12-21 10:30 1.2.3 192.168.100.12 v415-555-01329 evt_415-555-0132"),
        ("phone", "3.415.555.0132 00:30:12 0049301234567 01/02/2025 +01:00 0.12 34 56 78 010-11-12"),
        ("ip", "10:30:45.123 1.2.3 1.2.3.400 aa:bb:cc:dd:ee:ff std::vector a::b ::: ... 1:2:3:4 v1.2.3.4 dead::beef"),
        ("card", "4111111111111112 1700000000000 1234567890123456 0000 0000 0000 0000 x4111111111111111"),
        ("card", "411.111.111.111.1111 0.4111111111111111 0,4111111111111111 4111.111111111111 20251121103047"),
        ("secret_key", "sk-short task-abcdefghijklmnopqrst AKIA eyJ.eyJ.x bearer of news"),
    ],
)
def test_what_only_looks_alike_stays(pattern: Pattern, text: str) -> None:
    """Handles, dates, versions, addresses, ids and numbers that fail the check digit are not touched."""
    assert masked(pattern, text) == text


def _uuid_of(parts: tuple[str, str, str]) -> str:
    digits, version, variant = parts
    text = digits[:12] + version + digits[13:16] + variant + digits[17:]
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _written(form: str, time: datetime) -> str:
    return time.strftime(form)


CARDS = [
    *("4111 1111 1111 1111", "5500 0000 0000 0004", "3782 822463 10005", "3056 930902 5904", "6011000990139424"),
    *("4222222222222", "2223 0031 2200 3222", "3566 0020 2036 0505"),
]


@pytest.mark.parametrize("gap", [" ", "-", ".", "\u00a0", "\u2009", "\u202f", "\u2010", "\u2011", "\u2013", "\u2212"])
@pytest.mark.parametrize("card", CARDS)
def test_a_card_is_found_with_any_single_gap(card: str, gap: str) -> None:
    """Spaces of any width, dashes and dots: all stand in texts that somebody pasted."""
    written = card.replace(" ", gap)
    assert masked("card", f"({written}), {written}.") == "([card]), [card]."


_TIMES = st.datetimes(datetime(2001, 9, 10), datetime(2033, 1, 1))
_EPOCH = st.integers(1_000_000_000_000_000_000, 1_999_999_999_999_999_999)
_DECIMAL_HEX = st.text("0123456789", min_size=32, max_size=32)
_INNOCENT = st.one_of(
    st.uuids().map(str),
    st.tuples(_DECIMAL_HEX, st.sampled_from("12345678"), st.sampled_from("0123456789abcdef")).map(_uuid_of),
    _TIMES.map(datetime.isoformat),
    *(
        _TIMES.map(partial(_written, form))
        for form in ("%Y%m%d%H%M%S", "%Y%m%dT%H%M%SZ", "%d.%m.%Y %H:%M", "%Y%m%d%H%M%S%f")
    ),
    st.tuples(_EPOCH, st.sampled_from([0, 3, 6, 9])).map(lambda it: str(it[0] // 10 ** it[1])),
    _EPOCH.map(lambda ns: f"{ns / 1e9:.6f}"),
    st.integers(0, 10**12 - 1).map(lambda n: f"{n:,}"),
    st.integers(0, 10**12 - 1).map(str),
    st.floats(0, 1000).map(repr),
    st.binary(min_size=8, max_size=8).map(lambda entropy: new_id("evt", 1_763_740_800_000, entropy)),
    st.binary(min_size=16, max_size=32).map(lambda data: f"req_{data.hex()}"),
    st.tuples(*[st.integers(0, 999)] * 3).map(lambda v: "v{}.{}.{}".format(*v)),
)


@settings(max_examples=1000)
@given(st.lists(_INNOCENT, min_size=1, max_size=3))
def test_what_systems_write_is_left_alone(parts: list[str]) -> None:
    """UUIDs (of digits alone, too), times in any usual form, counts with and without separators, fractions, ids and
    versions: whatever stands beside them."""
    text = ", ".join(parts)
    for pattern in PATTERNS:
        assert masked(cast("Pattern", pattern), text) == text


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


def test_a_card_in_a_row_of_a_table_is_found() -> None:
    """Commas stand between columns, also behind one that is a number."""
    assert masked("card", "17,4111111111111111\n12/27,5500 0055 5555 5559,4111111111111111\n10,4111111111111111") == (
        "17,[card]\n12/27,[card],[card]\n10,[card]"
    )


def test_an_address_is_found_beside_its_port_and_name() -> None:
    """What is not the address stays, and one address is one hash however it is written."""
    assert masked("ip", "from 10.0.0.1:8080, [2001:db8::1]:443, ip:10.0.0.1. addr:fe80::1%eth0") == (
        "from [ip]:8080, [[ip]]:443, ip:[ip]. addr:[ip]%eth0"
    )
    assert masked("ip", "remote:10.0.0.1, db:10.0.0.1:5432; node:2001:db8::1. ...10.0.0.1... cafe:10.0.0.1") == (
        "remote:[ip], db:[ip]:5432; node:[ip]. ...[ip]... cafe:[ip]"
    )
    assert masked("ip", "10.0.0.1:failed 10.0.0.1:db 8080:10.0.0.1:80 10.0.0.1:80:10.0.0.2:80 10.0.0.1.nip.io") == (
        "[ip]:failed [ip]:db 8080:[ip]:80 [ip]:80:[ip]:80 [ip].nip.io"
    )
    seen: list[str] = []
    replace_of("ip", "hash", lambda found: seen.append(found) or "x")("2001:DB8:0:0::1 2001:db8::1")
    assert seen == ["2001:db8::1"] * 2


def test_an_address_in_a_url_is_found_and_no_more() -> None:
    """Of `?mail=ann%40example.com` the address goes, other escapes stay; it hashes like the one that is not escaped."""
    assert masked("email", "/x?mail=ann%40example.com&y=%20bob%40example.com") == "/x?mail=[email]&y=%20[email]"
    seen: list[str] = []
    replace_of("email", "hash", lambda found: seen.append(found) or "x")("ann%2Bb%40example.com ann+b@example.com")
    assert seen == ["ann+b@example.com"] * 2


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("pattern", ["email", "phone", "card", "ip", "secret_key"])
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
