"""Many sessions: lists in four orders by any filter, and counts of those that are live.

A page looks at a bounded number of rows. Where a filter leaves few sessions, at all of those; otherwise it walks an
index that is in the list's order: that of the narrowest filter that has one, as far as anyone can tell beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from adjourn.database import Reader, Row
from adjourn.sessions.columns import COLUMNS, session_of
from adjourn.sessions.query import Page, Place, Query, parse_place
from adjourn.sessions.query_plan import KEYS, Part, Plan, Test, Way, all_of
from adjourn.sessions.session import Session

FEW = 500
"""As many as are fetched and sorted for a page, rather than walked in order."""
LOOKED_MAX = 1_000
"""As many as are looked at for a page where not every one fits."""
LOOKED_FIRST = 250


def select(reader: Reader, tenant: str, query: Query) -> Page:
    """A page of a list. What is made meanwhile is neither skipped nor repeated nor shifts the rest; in orders whose key
    moves (`active`, `cost`), a session stands where it is when it is looked at. Raises BodyInvalid for a cursor that is
    none of this list's."""
    look = _Look(reader, tenant, query)
    places, cursor = look.page(parse_place(query))
    return Page(_whole(reader, tenant, [place.id for place in places]), str(cursor) if cursor else "")


def live_counts(reader: Reader) -> dict[str, int]:
    """Live sessions by tenant."""
    rows = reader.rows("SELECT tenant, count(*) FROM sessions WHERE ended_ms IS NULL GROUP BY tenant")
    return {str(row[0]): int(row[1] or 0) for row in rows}


def live_by_status(reader: Reader) -> dict[tuple[str, ...], int]:
    """Of all tenants, by (status, pattern)."""
    rows = reader.rows("SELECT status, pattern, count(*) FROM sessions WHERE ended_ms IS NULL GROUP BY status, pattern")
    return {(str(row[0]), str(row[1])): int(row[2] or 0) for row in rows}


def count_due(reader: Reader, now_ms: int) -> int:
    """Whose time for the sweep has come."""
    rows = reader.rows("SELECT count(*) FROM sessions WHERE due_ms IS NOT NULL AND due_ms <= ?", (now_ms,))
    return int(rows[0][0] or 0)


def live_of_tenant(reader: Reader, tenant: str) -> int:
    rows = reader.rows("SELECT count(*) FROM sessions WHERE tenant = ? AND ended_ms IS NULL", (tenant,))
    return int(rows[0][0] or 0)


def live_of_user(reader: Reader, tenant: str, user_id: str, most: int = 2**31 - 1) -> int:
    """How many live sessions a user has, counted up to `most`."""
    rows = reader.rows(
        "SELECT count(*) FROM (SELECT 1 FROM sessions WHERE tenant = ? AND user_id = ? AND ended_ms IS NULL LIMIT ?) s",
        (tenant, user_id, most),
    )
    return int(rows[0][0] or 0)


class _Look:
    """One page's way through an index."""

    def __init__(self, reader: Reader, tenant: str, query: Query) -> None:
        self._reader = reader
        self._tenant = tenant
        self._query = query
        self._plan = Plan(query)

    def page(self, after: Place | None) -> tuple[list[Place], Place | None]:
        """What fits, and where to go on."""
        way = self._few()
        if way is not None:
            return self._sorted(way, after)
        ordered = [way for way in self._plan.ways if way.ordered] if self._query.order == "created" else []
        return self._walk(ordered[0] if ordered else self._plan.whole(), after)

    def _few(self) -> Way | None:
        """A way that leads to few sessions; None also where the list's order leads to just those that fit."""
        plan = self._plan
        if self._query.order == "created" and len(plan.tests) == 1 and any(way.ordered for way in plan.ways):
            return None
        for way in plan.ways:
            counted = 0
            for part in way.parts:
                table, where = self._along(part, [])
                sql = f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE {where.sql} LIMIT {FEW + 1}) s"
                counted += int(self._reader.rows(sql, where.params)[0][0] or 0)
            if counted <= FEW:
                return way
        return None

    def _sorted(self, way: Way, after: Place | None) -> tuple[list[Place], Place | None]:
        """A page of those few."""
        rest, down = self._plan.rest(way), self._query.descending
        found: list[Place] = []
        for part in way.parts:
            looked = self._look(part, rest, [], f"LIMIT {FEW}")
            found += [self._place(row) for row in self._reader.rows(looked.sql, looked.params) if row[2]]
        found.sort(key=_standing, reverse=down)
        if after is not None:
            passed = _standing(after)
            found = [one for one in found if (_standing(one) < passed if down else _standing(one) > passed)]
        limit = self._query.limit
        return found[:limit], found[limit - 1] if len(found) > limit else None

    def _walk(self, way: Way, after: Place | None) -> tuple[list[Place], Place | None]:
        rest, limit = self._plan.rest(way), self._query.limit
        fitting: list[Place] = []
        looked, count = 0, limit + 1 if rest.sql == "1 = 1" else max(limit + 1, LOOKED_FIRST)
        while True:
            rows = self._step(way, rest, after, count)
            fitting += [self._place(row) for row in rows if row[2]]
            if len(fitting) > limit:
                return fitting[:limit], fitting[limit - 1]
            if len(rows) < count:
                return fitting, None
            after = self._place(rows[-1])
            looked += count
            if looked >= LOOKED_MAX:
                return fitting, after
            count = min(2 * count, LOOKED_MAX - looked)

    def _step(self, way: Way, rest: Test, after: Place | None, count: int) -> list[Row]:
        """The next `count` on the way, as (key, id, whether it fits)."""
        down = " DESC" if self._query.descending else ""
        looks: list[Test] = []
        for part in way.parts:
            order = ["t.session_id"] if part.tag else list(dict.fromkeys([KEYS[self._query.order], "s.id"]))
            within = [*self._plan.bounds(order[0]), *self._beyond(after, order)]
            ordering = ", ".join(f"{column}{down}" for column in order)
            looks.append(self._look(part, rest, within, f"ORDER BY {ordering} LIMIT {count}"))
        if not looks:
            return []
        union = " UNION ALL ".join(f"SELECT * FROM ({look.sql}) p{number}" for number, look in enumerate(looks))
        params = [value for look in looks for value in look.params]
        ordering = f"ORDER BY k{down}, id{down} LIMIT {count}"
        return self._reader.rows(f"SELECT k, id, fits FROM ({union}) u {ordering}", params)

    def _beyond(self, after: Place | None, order: Sequence[str]) -> list[Test]:
        if after is None:
            return []
        sign = "<" if self._query.descending else ">"
        if len(order) == 1:
            return [Test(f"{order[0]} {sign} ?", (after.id,))]
        return [Test(f"({', '.join(order)}) {sign} (?, ?)", (after.key, after.id))]

    def _look(self, part: Part, rest: Test, within: Sequence[Test], tail: str) -> Test:
        """At a stretch of an index, and at the sessions that it leads to."""
        table, where = self._along(part, within)
        condition = f"{where.sql} {tail}"
        if part.tag:
            # The tags first, and no more of them: PostgreSQL would join all there are.
            table = f"(SELECT tenant, session_id FROM {table} WHERE {condition}) t CROSS JOIN sessions s"
            condition = "s.tenant = t.tenant AND s.id = t.session_id"
        # With a column that is in no index, or it would look for each session in one that holds the others.
        sql = (
            f"SELECT {KEYS[self._query.order]} AS k, s.id AS id, CASE WHEN {rest.sql} THEN 1 ELSE 0 END AS fits, "
            f"s.created_ms FROM {table} WHERE {condition}"
        )
        return Test(sql, rest.params + where.params)

    def _along(self, part: Part, within: Sequence[Test]) -> tuple[str, Test]:
        """FROM and WHERE. SQLite is told the index: it knows nothing of how many rows each leads to."""
        if part.tag:
            own = Test("t.tenant = ?", (self._tenant,))
            return "session_tags t", all_of([own, part.test, *within])
        told = f" INDEXED BY {part.index}" if part.index and self._reader.dialect == "sqlite" else ""
        return f"sessions s{told}", all_of([Test("s.tenant = ?", (self._tenant,)), part.test, *within])

    def _place(self, row: Row) -> Place:
        key = cast("int | str", row[0])
        return Place(self._query.order, self._query.descending, key, str(row[1]))


def _standing(place: Place) -> tuple[int | str, str]:
    return place.key, place.id


def _whole(reader: Reader, tenant: str, ids: Sequence[str]) -> list[Session]:
    """Those sessions, in that order."""
    if not ids:
        return []
    marks = ", ".join("?" * len(ids))
    rows = reader.rows(f"SELECT {COLUMNS} FROM sessions WHERE tenant = ? AND id IN ({marks})", (tenant, *ids))
    found = {str(row[1]): session_of(row) for row in rows}
    return [found[session_id] for session_id in ids]
