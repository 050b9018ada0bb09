"""Cron expressions, against a well-kept library, against looking at every minute, and against what people read."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim

from adjourn.errors import TriggerInvalid
from adjourn.sessions.cron import last_ms, next_ms, parse, zone_of

MINUTE_MS = 60_000


def ms(text: str) -> int:
    """`2026-03-29T01:59+01:00`; without an offset, UTC."""
    at = datetime.fromisoformat(text)
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def following(expression: str, after: str, zone: str = "UTC", count: int = 1) -> list[str]:
    """As the clocks of the zone show them, with their offsets."""
    cron, found, at = parse(expression), list[str](), ms(after)
    for _ in range(count):
        at = next_ms(cron, at, zone_of(zone)) or 0
        found.append(datetime.fromtimestamp(at / 1000, ZoneInfo(zone)).isoformat(timespec="minutes"))
    return found


def anything(rng: random.Random, low: int, high: int, names: str = "") -> str:
    """One field, of any form."""
    words = names.split()

    def number() -> str:
        value = rng.randint(low, high)
        return words[value - low] if words and value - low < len(words) and rng.random() < 0.3 else str(value)

    def item() -> str:
        first, last = sorted((rng.randint(low, high), rng.randint(low, high)))
        return rng.choice([number(), f"{first}-{last}", f"*/{rng.randint(1, 9)}", f"{first}/{rng.randint(1, 9)}"])

    return rng.choice(["*", "*", number(), item(), f"{number()},{item()},{number()}"])


def expression_of(rng: random.Random) -> str:
    fields = [(0, 59, ""), (0, 23, ""), (1, 31, ""), (1, 12, "jan FEB mar APR MAY JUN jul"), (0, 7, "SUN mon TUE")]
    return " ".join(anything(rng, *field) for field in fields)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Australia/Sydney", "Asia/Kolkata"])
def test_it_says_what_cronsim_says(rng: random.Random, zone: str) -> None:
    """Any expression, from any moment of forty years, also on days when the clocks are changed: the same times as the
    library that follows Debian's cron."""
    compared = 0
    while compared < 150:
        expression = expression_of(rng)
        try:
            cron = parse(expression)
        except TriggerInvalid:
            continue  # 31 February
        after = datetime.fromtimestamp(rng.randint(1_000_000_000, 2_200_000_000) // 60 * 60, ZoneInfo(zone))
        if rng.random() < 0.5:  # near a change
            after = after.replace(month=rng.choice([3, 4, 10, 11]), day=rng.randint(1, 30))
        after = after.astimezone(UTC).astimezone(ZoneInfo(zone)).replace(fold=0)
        theirs = CronSim(expression, after)
        at: int | None = round(after.timestamp() * 1000)
        for _ in range(5):
            at = next_ms(cron, at, ZoneInfo(zone))
            assert at is not None
            expected = round(next(theirs).timestamp() * 1000)
            assert at == expected, (expression, after.isoformat(), zone)
        compared += 1


def every_minute(expression: str, from_ms: int, until_ms: int, zone: str) -> list[int]:
    """By the rules of the module, looked up minute by minute; only for expressions that allow every day."""
    cron, place = parse(expression), ZoneInfo(zone)
    shown = [
        (at, datetime.fromtimestamp(at / 1000, place).replace(tzinfo=None, fold=0))
        for at in range(from_ms, until_ms, MINUTE_MS)
    ]

    def fits(wall: datetime) -> bool:
        return wall.hour in cron.hours and wall.minute in cron.minutes

    if not cron.by_clock:
        return [at for at, wall in shown if fits(wall)]
    found, latest = list[int](), shown[0][1] - timedelta(minutes=1)
    for at, wall in shown:  # every minute that the clocks have come to or skipped, once
        due = False
        while latest < wall:
            latest += timedelta(minutes=1)
            due = due or fits(latest)
        if due:
            found.append(at)
    return found


@pytest.mark.parametrize(
    ("zone", "around"),
    [
        ("Europe/Berlin", "2026-03-29"),
        ("Europe/Berlin", "2026-10-25"),
        ("Australia/Lord_Howe", "2026-04-05"),  # by half an hour
        ("Australia/Lord_Howe", "2026-10-04"),
        ("America/Sao_Paulo", "2018-11-04"),  # at midnight
        ("Asia/Beirut", "2026-10-25"),
        ("Pacific/Apia", "2011-12-30"),  # a day that never was
        ("Africa/Casablanca", "2026-02-15"),
    ],
)
def test_when_clocks_change_every_minute_is_accounted_for(rng: random.Random, zone: str, around: str) -> None:
    """Around changes by an hour, half an hour, at midnight and by a whole day: exactly the minutes that the rules
    name, for expressions that go by the clock and for those that go by what it shows."""
    from_ms, until_ms = ms(around) - 2 * 86_400_000, ms(around) + 2 * 86_400_000
    for _ in range(20):
        expression = f"{anything(rng, 0, 59)} {anything(rng, 0, 23)} * * *"
        cron, at, found = parse(expression), from_ms - 1, list[int]()
        while (at := next_ms(cron, at, ZoneInfo(zone)) or until_ms) < until_ms:
            found.append(at)
        assert found == every_minute(expression, from_ms, until_ms, zone), (expression, zone)


def test_what_the_clocks_skip_is_when_they_go_forward() -> None:
    """In Berlin it is never 02:30 on 29 March 2026: what is due then is due at 03:00, once; what is due every quarter
    of an hour goes on as time does."""
    assert following("30 2 * * *", "2026-03-28T12:00", "Europe/Berlin", 2) == [
        "2026-03-29T03:00+02:00",
        "2026-03-30T02:30+02:00",
    ]
    assert following("0,30 2,3 * * *", "2026-03-29T00:00", "Europe/Berlin", 2) == [
        "2026-03-29T03:00+02:00",
        "2026-03-29T03:30+02:00",
    ]
    assert following("*/15 * * * *", "2026-03-29T00:45", "Europe/Berlin", 2) == [
        "2026-03-29T03:00+02:00",
        "2026-03-29T03:15+02:00",
    ]


def test_what_the_clocks_show_twice_is_once() -> None:
    """In Berlin it is 02:30 twice on 25 October 2026: what is due then is due the first time; what is due every half
    hour is due all four times."""
    assert following("30 2 * * *", "2026-10-24T12:00", "Europe/Berlin", 2) == [
        "2026-10-25T02:30+02:00",
        "2026-10-26T02:30+01:00",
    ]
    assert following("30 2 * * *", "2026-10-25T00:45", "Europe/Berlin") == ["2026-10-26T02:30+01:00"]
    assert following("*/30 * * * *", "2026-10-24T23:45", "Europe/Berlin", 4) == [
        "2026-10-25T02:00+02:00",
        "2026-10-25T02:30+02:00",
        "2026-10-25T02:00+01:00",
        "2026-10-25T02:30+01:00",
    ]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("@hourly", "2026-01-01T01:00+00:00"),
        ("@Daily", "2026-01-02T00:00+00:00"),
        ("@weekly", "2026-01-04T00:00+00:00"),
        ("@monthly", "2026-02-01T00:00+00:00"),
        ("@yearly", "2027-01-01T00:00+00:00"),
        ("0 9 * * mon-fri", "2026-01-01T09:00+00:00"),
        ("0 9 * jan-mar,DEC *", "2026-01-01T09:00+00:00"),
        ("0 0 13 * FRI", "2026-01-02T00:00+00:00"),  # either: the first Friday
        ("0 0 */2 * FRI", "2026-01-09T00:00+00:00"),  # both: an odd Friday
        ("0 0 29 2 *", "2028-02-29T00:00+00:00"),
        ("0 0 29 2 */4", "2032-02-29T00:00+00:00"),  # a Sunday or Thursday
        ("  5/20   0  *  *  7 ", "2026-01-04T00:05+00:00"),
    ],
)
def test_what_people_write_is_understood(expression: str, expected: str) -> None:
    """Shorthands, names in any case, steps, both day fields, and days that come every few years."""
    assert following(expression, "2026-01-01T00:00") == [expected]


@pytest.mark.parametrize(
    ("expression", "character", "says"),
    [
        ("", 1, "0 fields"),
        ("* * * *", 8, "4 fields"),
        ("* * * * * *", 11, "6 fields"),
        ("60 * * * *", 1, "from 0 to 59"),
        ("* 24 * * *", 3, "from 0 to 23"),
        ("* * 0 * *", 5, "from 1 to 31"),
        ("* * * 13 *", 7, "from JAN to DEC"),
        ("* * * * MOON", 9, "from SUN to SAT"),
        ("*  *  *  *  1,2,eight", 17, "no day of week"),
        ("1,,2 * * * *", 3, "no minute"),
        ("9-5 * * * *", 1, "backwards"),
        ("* * * * FRI-MON", 9, "two ranges"),
        ("*/0 * * * *", 3, "the step '0'"),
        ("*/ * * * *", 3, "the step ''"),
        ("1-x * * * *", 3, "'X' is no minute"),
        ("*-5 * * * *", 1, "'*' is no minute"),
        ("-1 * * * *", 1, "no minute"),
        ("² * * * *", 1, "no minute"),
        ("99999999999999999999 * * * *", 1, "no minute"),
        ("0 0 30 2 *", 5, "no such month"),
        ("0 0 31 4,6 *", 5, "no such month"),
        ("@reboot", 1, "@hourly"),
        ("0 0 L * *", 5, "no day of month"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(expression: str, character: int, says: str) -> None:
    """The fact, what would be right, and the character at which it goes wrong."""
    with pytest.raises(TriggerInvalid) as caught:
        parse(expression)
    assert f"character {character}:" in caught.value.message
    assert says in caught.value.message
    assert caught.value.path == "expression"


@pytest.mark.parametrize(
    "name", ["Mars/Olympus", "", "../../etc/passwd", "/etc/localtime", "Europe", "a\0b", "x" * 500]
)
def test_a_zone_that_is_none_is_refused(name: str) -> None:
    """Whatever it is, and nothing outside the database of zones is read."""
    with pytest.raises(TriggerInvalid, match="time zone"):
        zone_of(name)


def test_years_ahead_cost_no_more_than_tomorrow() -> None:
    """29 February on a Sunday is found decades away, by looking at days and not at minutes; the end of the calendar is
    no error."""
    assert following("0 0 29 2 */7", "2076-01-01T00:00", count=2) == [
        "2088-02-29T00:00+00:00",
        "2128-02-29T00:00+00:00",
    ]
    assert next_ms(parse("* * * * *"), ms("9990-01-01T00:00"), UTC) is None


def test_the_last_time_before_now_is_found_without_going_through_all(rng: random.Random) -> None:
    """After years of not looking, the latest time is that of a step from it to the next."""
    for _ in range(60):
        try:
            cron = parse(expression_of(rng))
        except TriggerInvalid:
            continue
        zone = ZoneInfo(rng.choice(["UTC", "Europe/Berlin"]))
        first = next_ms(cron, rng.randint(10**12, 2 * 10**12), zone)
        assert first is not None
        now = first + rng.randint(0, 10**11)
        last = last_ms(cron, first, now, zone)
        following_ms = next_ms(cron, last, zone)
        assert first <= last <= now < (following_ms or 0)
        assert next_ms(cron, last - 1, zone) == last
