"""How a list of sessions is looked for: each filter as a condition, and which of them an index answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adjourn.database import Value
from adjourn.ids import new_id
from adjourn.sessions.query import Order, Query

CLOCK_MS = 60_000
"""By so much the time in a session's id may differ from its `created_ms`."""

KEYS: dict[Order, str] = {"created": "s.id", "active": "s.active_ms", "ended": "s.ended_ms", "cost": "s.cost_nanousd"}
_INDEXES: dict[Order, str] = {
    "created": "",
    "active": "sessions_by_active",
    "ended": "sessions_by_ended",
    "cost": "sessions_by_cost",
}


class Test(msgspec.Struct, frozen=True):
    """A condition on the session `s`."""

    sql: str
    params: tuple[Value, ...] = ()


class Part(msgspec.Struct, frozen=True):
    """A stretch of an index; of the primary key where that has no name."""

    test: Test
    index: str = ""
    tag: bool = False
    """Of the tags `t`, each with its session `s`."""


class Way(msgspec.Struct, frozen=True):
    """Sessions that an index leads to. `parts` have none in common. `answers`: the filter that needs no test any more;
    empty: none. `ordered`: each part is in order of the list's key."""

    answers: str
    parts: Sequence[Part]
    ordered: bool = True


class Plan:
    """`tests`: every filter, by name. `ways`: those that an index answers, as a rule the narrowest first."""

    def __init__(self, query: Query) -> None:
        self.tests: dict[str, Test] = {}
        self.ways: list[Way] = []
        self._query = query
        self._add_trees(query)
        self._add_equal("user", "user_id", query.user_id)
        for tag in dict.fromkeys(query.tags):
            self._add_tag(tag)
        self._add_equal("model", "model", query.model)
        self._add_statuses(query)
        for name in ("role", "interface", "kind", "pattern"):
            self._add_equal(name, name, getattr(query, name))
        # There are few runners, and nobody needs their rarest one fast: no index.
        if query.runner is not None:
            self.tests["runner"] = Test("s.runner = ?", (query.runner,))
        if query.name_prefix:
            self.tests["name"] = Test("substr(s.name, 1, ?) = ?", (len(query.name_prefix), query.name_prefix))
        self._add_ranges(query)

    def whole(self) -> Way:
        """Everything, in the list's order."""
        order = self._query.order
        return Way("ended" if order == "ended" else "", [Part(Test("1 = 1"), _INDEXES[order])])

    def bounds(self, key: str) -> list[Test]:
        """Of a walk in the list's order, whose key is in the column `key`."""
        query = self._query
        if query.order == "created":
            return [near] if (near := _near(key, query)) else []
        if query.order == "ended":
            return [Test("s.ended_ms IS NOT NULL"), self.tests["ended"]]
        return []

    def rest(self, way: Way) -> Test:
        """What is left to be tested."""
        return all_of([test for name, test in self.tests.items() if name != way.answers])

    def _add_equal(self, name: str, column: str, value: str | None) -> None:
        if value is not None:
            self.tests[name] = Test(f"s.{column} = ?", (value,))
            self.ways.append(Way(name, [Part(self.tests[name], f"sessions_by_{name}")]))

    def _add_trees(self, query: Query) -> None:
        if query.parent_id is not None:
            self._add_equal("parent", "parent_id", query.parent_id)
        if query.root_id is not None:
            root = (query.root_id,)
            self.tests["root"] = Test("s.root_id = ?", root)
            below = Part(Test("s.parent_id IS NOT NULL AND s.root_id = ?", root), "sessions_by_root")
            itself = Part(Test("s.parent_id IS NULL AND s.root_id = ? AND s.id = ?", root * 2))
            self.ways.append(Way("root", [below, itself]))

    def _add_tag(self, tag: str) -> None:
        name = f"tag {tag}"
        # Not EXISTS: for that, PostgreSQL may read every session that has the tag first.
        has = "SELECT 1 FROM session_tags o WHERE o.tenant = s.tenant AND o.tag = ? AND o.session_id = s.id"
        self.tests[name] = Test(f"({has}) IS NOT NULL", (tag,))
        self.ways.append(Way(name, [Part(Test("t.tag = ?", (tag,)), tag=True)]))

    def _add_statuses(self, query: Query) -> None:
        statuses = query.statuses()
        if statuses is None:
            return
        marks = ", ".join("?" * len(statuses))
        self.tests["status"] = Test(f"s.status IN ({marks})", tuple(statuses)) if statuses else Test("1 = 0")
        parts = [Part(Test("s.status = ?", (status,)), "sessions_by_status") for status in statuses]
        self.ways.append(Way("status", parts))

    def _add_ranges(self, query: Query) -> None:
        created = _between("s.created_ms", query.created_since_ms, query.created_until_ms)
        near = _near("s.id", query)
        if created is not None and near is not None:
            self.tests["created"] = created
            self.ways.append(Way("", [Part(near)], ordered=False))
        ended = _between("s.ended_ms", query.ended_since_ms, query.ended_until_ms)
        if ended is not None:
            self.tests["ended"] = ended
            self.ways.append(Way("ended", [Part(ended, "sessions_by_ended")], ordered=False))
        elif query.order == "ended":
            self.tests["ended"] = Test("s.ended_ms IS NOT NULL")


def all_of(tests: Sequence[Test]) -> Test:
    """Of none: what is always so."""
    params = tuple(value for test in tests for value in test.params)
    return Test(" AND ".join(test.sql for test in tests) or "1 = 1", params)


def _between(column: str, since: Value, until: Value) -> Test | None:
    given = [(f"{column} {sign} ?", value) for sign, value in ((">=", since), ("<", until)) if value is not None]
    return Test(" AND ".join(sql for sql, _ in given), tuple(value for _, value in given)) if given else None


def _near(column: str, query: Query) -> Test | None:
    """The range of `created_ms`, roughly, as one of ids."""
    since, until = query.created_since_ms, query.created_until_ms
    low = None if since is None else _id_at(since - CLOCK_MS)
    return _between(column, low, None if until is None else _id_at(until + CLOCK_MS))


def _id_at(wall_ms: int) -> str:
    """The least id of that time."""
    return new_id("sess", min(max(wall_ms, 0), 2**50 - 1), bytes(8))
