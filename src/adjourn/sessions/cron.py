"""Cron expressions: five fields, and when the clocks of a time zone show what they say. Pure.

`minute hour day-of-month month day-of-week`, each `*`, a number, a name (`JAN`, `MON`), a range, a step or a list of
those; Sunday is 0 and 7. Where both day fields are restricted, a day matches that either of them names; one that begins
with `*` restricts nothing by itself, and both must match. Clocks that change are met as Debian's cron meets them:

- an expression whose minute and hour both do not begin with `*` means a time on the clock. If the clocks skip it, it
  is when they go forward; if they show it twice, it is the first of the two;
- any other one goes by what the clock shows, minute after minute: it skips what is skipped, and is again in an hour
  that comes again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache

import msgspec

from adjourn.errors import TriggerInvalid

MINUTE_MS = 60_000
YEARS_MAX = 50
"""29 February on a given weekday comes every 40 years at the latest."""

_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_YEAR_LAST = datetime.max.year - YEARS_MAX - 2
_DAY_MS = 86_400_000
_SAMPLE_MS = _DAY_MS // 4
"""No zone has changed its clocks and changed them back within so long."""

_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]

_SHORTHANDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class _Field(msgspec.Struct, frozen=True):
    title: str
    low: int
    high: int
    names: Sequence[str] = ()


_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, ("", *_MONTHS)),
    _Field("day of week", 0, 7, _WEEKDAYS),
)


class Cron(msgspec.Struct, frozen=True):
    """What the clock must show. `weekdays` count from Sunday, 0."""

    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    either: bool
    """Whether one of the two day fields is enough."""
    by_clock: bool
    """Whether it means times on the clock, rather than stretches of time."""


@lru_cache(maxsize=1024)
def parse(text: str) -> Cron:
    """Raises TriggerInvalid, which says where."""
    if text.strip().startswith("@"):
        return _shorthand(text.strip())
    words = _words(text)
    if len(words) != len(_FIELDS):
        at = words[len(_FIELDS)][1] if len(words) > len(_FIELDS) else len(text.rstrip())
        fact = f"it has {len(words)} fields, not 5"
        raise _wrong(text, at, f"{fact}; write minute, hour, day of month, month, day of week: '0 9 * * MON-FRI'")
    minutes, hours, days, months, weekdays = (
        _values(text, word, at, field) for (word, at), field in zip(words, _FIELDS, strict=True)
    )
    starred = [word.startswith("*") for word, _ in words]
    cron = Cron(
        minutes=tuple(sorted(minutes)),
        hours=tuple(sorted(hours)),
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(day % 7 for day in weekdays),
        either=not starred[2] and not starred[4],
        by_clock=not starred[0] and not starred[1],
    )
    if _next_shown(cron, datetime(2000, 1, 1)) is None:
        raise _wrong(text, words[2][1], "no such month has such a day; give a day that there is")
    return cron


def zone_of(name: str) -> tzinfo:
    """By its IANA name. Raises TriggerInvalid."""
    from zoneinfo import ZoneInfo  # here, since hardly any session has a trigger

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        fact = f"there is no time zone {name[:64]!r} on this machine"
        remedy = "give an IANA name, such as 'Europe/Berlin', or install the package tzdata"
        raise TriggerInvalid(f"{fact}; {remedy}", path="time_zone") from None


def next_ms(cron: Cron, after_ms: int, zone: tzinfo) -> int | None:
    """The first time after `after_ms`; None where none comes any more."""
    from_ms = (after_ms // MINUTE_MS + 1) * MINUTE_MS
    if _moment(from_ms).year > _YEAR_LAST:
        return None
    return (_next_by_clock if cron.by_clock else _next_by_minute)(cron, from_ms, zone)


def last_ms(cron: Cron, first_ms: int, now_ms: int, zone: tzinfo) -> int:
    """The last of its times that is not after now, where `first_ms` is one of them and not after now either."""

    def passed(at_ms: int) -> bool:
        following = next_ms(cron, at_ms, zone)
        return following is not None and following <= now_ms

    low, high = first_ms, now_ms
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if passed(middle) else (low, middle)
    return low


# --- reading ---------------------------------------------------------------------------------------------------------


def _shorthand(text: str) -> Cron:
    if text.lower() not in _SHORTHANDS:
        raise _wrong(text, 0, f"there is no {text[:20]!r}; take one of {', '.join(sorted(_SHORTHANDS))}")
    return parse(_SHORTHANDS[text.lower()])


def _words(text: str) -> list[tuple[str, int]]:
    """With the place of each."""
    found: list[tuple[str, int]] = []
    at = 0
    for word in text.split():
        at = text.index(word, at)
        found.append((word.upper(), at))
        at += len(word)
    return found


def _values(text: str, word: str, at: int, field: _Field) -> set[int]:
    found: set[int] = set()
    for item in word.split(","):
        found.update(_item(text, item, at, field))
        at += len(item) + 1
    return found


def _item(text: str, item: str, at: int, field: _Field) -> range:
    """`*`, `5`, `1-5`, and each of them with a step; `5/10` goes on to the field's end."""
    span, slash, step = item.partition("/")
    first, dash, last = span.partition("-")
    if first == "*" and not dash:
        low, high = field.low, field.high
    else:
        low = _number(text, first, at, field)
        high = _number(text, last, at + len(first) + 1, field) if dash else (field.high if slash else low)
        if high < low:
            fact = f"the range {span} of the {field.title} runs backwards"
            raise _wrong(text, at, f"{fact}; put the smaller first, and list two ranges where it goes round the end")
    every = 1
    if slash:
        if not (step.isascii() and step.isdigit() and len(step) < 4 and int(step) > 0):
            raise _wrong(text, at + len(span) + 1, f"the step {step[:20]!r} is no whole number from 1 to 999; give one")
        every = int(step)
    return range(low, high + 1, every)


def _number(text: str, word: str, at: int, field: _Field) -> int:
    if word and word in field.names:
        return field.names.index(word)
    if word.isascii() and word.isdigit() and len(word) < 4 and field.low <= int(word) <= field.high:
        return int(word)
    names = f" or a name from {next(filter(None, field.names))} to {field.names[-1]}" if field.names else ""
    fact = f"{word[:20]!r} is no {field.title}"
    raise _wrong(text, at, f"{fact}; give a number from {field.low} to {field.high}{names}")


def _wrong(text: str, at: int, what: str) -> TriggerInvalid:
    return TriggerInvalid(f"cron expression {text[:100]!r}, character {at + 1}: {what}", path="expression")


# --- finding ---------------------------------------------------------------------------------------------------------


def _next_shown(cron: Cron, shown: datetime) -> datetime | None:
    """What the clock shows at the first match that is not before `shown`, if no clock were ever changed."""
    day, earliest = shown.date(), (shown.hour, shown.minute)
    for _ in range(YEARS_MAX * 366):
        if day.year > shown.year + YEARS_MAX:
            return None
        if day.month not in cron.months:
            day = (day.replace(day=1) + 32 * _DAY).replace(day=1)
        else:
            at = _time_from(cron, *earliest) if _on(cron, day) else None
            if at is not None:
                return datetime(day.year, day.month, day.day, *at)
            day += _DAY
        earliest = (0, 0)
    return None


def _on(cron: Cron, day: date) -> bool:
    of_month, of_week = day.day in cron.days, day.isoweekday() % 7 in cron.weekdays
    return of_month or of_week if cron.either else of_month and of_week


def _time_from(cron: Cron, hour: int, minute: int) -> tuple[int, int] | None:
    index = bisect_left(cron.hours, hour)
    if index < len(cron.hours) and cron.hours[index] == hour:
        within = bisect_left(cron.minutes, minute)
        if within < len(cron.minutes):
            return hour, cron.minutes[within]
        index += 1
    return (cron.hours[index], cron.minutes[0]) if index < len(cron.hours) else None


def _next_by_clock(cron: Cron, from_ms: int, zone: tzinfo) -> int | None:
    shown = _shown(from_ms, zone)
    if _offset(from_ms, zone) != _offset(from_ms - _DAY_MS, zone):
        shown -= _DAY  # what was skipped since then is when the clocks went forward, which may be now
    while (match := _next_shown(cron, shown)) is not None:
        at_ms = _when(match, zone)
        if at_ms >= from_ms:
            return at_ms
        shown = match + _MINUTE
    return None


def _next_by_minute(cron: Cron, from_ms: int, zone: tzinfo) -> int | None:
    """From one change of the clocks to the next: between them they go as time does."""
    while True:
        shown = _shown(from_ms, zone)
        match = _next_shown(cron, shown)
        if match is None:
            return None
        at_ms = from_ms + (match - shown) // _MINUTE * MINUTE_MS
        until_ms = min(at_ms, from_ms + 2 * _DAY_MS)
        change_ms = _change(from_ms, until_ms, zone)
        if change_ms is not None:
            from_ms = change_ms
        elif until_ms == at_ms:
            return at_ms
        else:  # Further on, no clock can show anything before the match again until two days before it.
            from_ms = max(until_ms, at_ms - 2 * _DAY_MS)


def _when(shown: datetime, zone: tzinfo) -> int:
    """The first moment at which the clocks show that, or where they never do, at which they have skipped it."""
    early, late = (round(shown.replace(tzinfo=zone, fold=fold).timestamp() * 1000) for fold in (0, 1))
    if _shown(early, zone) == shown:
        return early
    low, high = sorted((early, late))
    before = _offset(low, zone)
    return _first(low, high, lambda at_ms: _offset(at_ms, zone) != before)


def _change(from_ms: int, until_ms: int, zone: tzinfo) -> int | None:
    """When the clocks are changed first, after `from_ms` and not after `until_ms`."""
    before = _offset(from_ms, zone)
    low = from_ms
    while low < until_ms:
        high = min(low + _SAMPLE_MS, until_ms)
        if _offset(high, zone) != before:
            return _first(low, high, lambda at_ms: _offset(at_ms, zone) != before)
        low = high
    return None


def _first(low: int, high: int, true: Callable[[int], bool]) -> int:
    """The first whole minute after `low` of which it is true, as it is of `high`."""
    first, last = low // MINUTE_MS, high // MINUTE_MS
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (first, middle) if true(middle * MINUTE_MS) else (middle, last)
    return last * MINUTE_MS


def _moment(ms: int) -> datetime:
    return datetime.fromtimestamp(ms // 1000, UTC)


def _shown(ms: int, zone: tzinfo) -> datetime:
    return _moment(ms).astimezone(zone).replace(tzinfo=None, fold=0)


def _offset(ms: int, zone: tzinfo) -> timedelta | None:
    return _moment(ms).astimezone(zone).utcoffset()
