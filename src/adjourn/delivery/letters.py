"""Dead letters in order of age, looked through a bounded stretch at a time: each look examines at most `limit` rows of
one index, whether they fit or not, and says where it came to."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from adjourn.database import Reader, Value
from adjourn.delivery.held import Held, at_places
from adjourn.errors import BodyInvalid
from adjourn.typed import convert

_TEXT = re.compile(r"(-?[0-9]{1,18}):([^:]+):([0-9]{1,9}):([0-9]{1,18})")


class Place(msgspec.Struct, frozen=True, array_like=True, order=True):
    """When a dead letter died, and where it is: by these they are in order."""

    held_ms: int
    destination: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.held_ms}:{self.destination}:{self.partition}:{self.offset}"

    @property
    def id(self) -> str:
        return f"{self.destination}:{self.partition}:{self.offset}"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which dead letters: every field that is given must fit. Times are when they died. `besides`: destinations whose
    are not wanted."""

    tenant: str | None = None
    destination: str | None = None
    code: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    event_id: str | None = None
    besides: tuple[str, ...] | None = None


class Looked(msgspec.Struct, frozen=True):
    """`fitting` of those that were examined; `reached`: the last of these, None at the end."""

    fitting: list[Place]
    reached: Place | None


def parse_place(text: str) -> Place:
    """Raises BodyInvalid."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise BodyInvalid("this cursor was not given by this list; begin without one", path="cursor")
    return Place(int(found[1]), found[2], int(found[3]), int(found[4]))


def look(
    reader: Reader, wanted: Wanted, *, after: Place | None, last: Place | None = None, newest_first: bool, limit: int
) -> Looked:
    """On from `after`, no farther than `last`."""
    where, params = _range(wanted)
    fits, more = _rest(wanted)
    place = "held_ms, destination, partition, event_offset"
    if after is not None:
        where += f" AND ({place}) {'<' if newest_first else '>'} (?, ?, ?, ?)"
        params += msgspec.structs.astuple(after)
    if last is not None:
        where += f" AND ({place}) {'>=' if newest_first else '<='} (?, ?, ?, ?)"
        params += msgspec.structs.astuple(last)
    order = ", ".join(f"{column}{' DESC' if newest_first else ''}" for column in place.split(", "))
    rows = reader.rows(
        f"SELECT {place}, CASE WHEN {fits} THEN 1 ELSE 0 END FROM held_events WHERE {where} ORDER BY {order} LIMIT ?",
        (*more, *params, limit),
    )
    examined = [(convert(row[:4], Place), row[4]) for row in rows]
    return Looked([one for one, fit in examined if fit], examined[-1][0] if len(rows) == limit else None)


def dead(reader: Reader, found: Iterable[Place]) -> list[Held]:
    """Those that are dead letters still, whole, in the order of `found`."""
    return at_places(reader, [(one.destination, one.partition, one.offset) for one in found])


def _range(wanted: Wanted) -> tuple[str, list[Value]]:
    """What an index leads to: by tenant, by destination, or all; by age in each."""
    tests: list[tuple[str, Value]] = [
        ("tenant = ?", wanted.tenant),
        ("destination = ?", wanted.destination if wanted.tenant is None else None),
        ("held_ms >= ?", wanted.since_ms),
        ("held_ms < ?", wanted.until_ms),
    ]
    return _all_of(tests, "state = 'dead'")


def _rest(wanted: Wanted) -> tuple[str, list[Value]]:
    tests: list[tuple[str, Value]] = [
        ("destination = ?", wanted.destination if wanted.tenant is not None else None),
        ("code = ?", wanted.code),
        ("event_id = ?", wanted.event_id),
        *(("destination <> ?", name) for name in wanted.besides or ()),
    ]
    return _all_of(tests, "1 = 1")


def picky(wanted: Wanted) -> bool:
    """Whether some that are examined may not fit."""
    return bool(_rest(wanted)[1])


def _all_of(tests: list[tuple[str, Value]], first: str) -> tuple[str, list[Value]]:
    given = [(test, value) for test, value in tests if value is not None]
    return " AND ".join([first, *(test for test, _ in given)]), [value for _, value in given]
