"""Hosted sessions as tests make them: everything but what is named is the same. And what must hold of them at every
instant, whatever happens: `sound`."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec

from adjourn.database import Reader
from adjourn.logs.sql import _read as read_log
from adjourn.node import Node
from adjourn.runner import RunnerConfig
from adjourn.sessions import rows, turn_rows
from adjourn.sessions.hosting import Pattern
from adjourn.sessions.lifecycle import ENDED, NEXT
from adjourn.sessions.session import Described, Limits, NewSession, Price, Session, SessionKey, Spent
from adjourn.sessions.takeover import UNKEPT_EVENTS_MAX
from adjourn.sessions.turn import Message, SessionEvent
from adjourn.sessions.turn_rows import TurnRow


def session(**fields: Any) -> Session:
    given: dict[str, Any] = {
        "tenant": "default",
        "id": "sess_1",
        "status": "idle",
        "pattern": "hybrid",
        "role": "active",
        "kind": "api",
        "interface": "api",
        "user_id": "",
        "name": "",
        "runner": "echo",
        "model": "",
        "parent_id": None,
        "root_id": "sess_1",
        "resumed_from": None,
        "revision": 1,
        "epoch": 0,
        "node": None,
        "turn_id": None,
        "stopping": "",
        "created_ms": 1_000,
        "active_ms": 2_000,
        "ended_ms": None,
        "due_ms": None,
        "outcome": "",
        "error_code": "",
        "event_id": "evt_1",
        "amendment_id": None,
        "messages": 0,
        "events": 0,
        "queued": 0,
        "spent": Spent(),
        "described": Described(),
        "state": b"{}",
    }
    return Session(**{**given, **fields})


# --- on real nodes ---------------------------------------------------------------------------------------------------

ME = "default"
PATIENCE_S = 60.0
PRICED = Price(input_usd_per_mtok=Decimal(1), output_usd_per_mtok=Decimal(1))
"""A token costs 1000 nano-USD."""


def new(pattern: Pattern = "hybrid", *, budget: str | None = None, **fields: Any) -> NewSession:
    """Options of echo are given as `options`; with a budget it has a price."""
    config = RunnerConfig(
        options=fields.pop("options", {}),
        max_output_tokens=fields.pop("max_output_tokens", 64),
        agents=fields.pop("agents", ()),
        allowed_tools=fields.pop("allowed_tools", ()),
    )
    limits = fields.pop("limits", Limits())
    if budget is not None:
        limits = msgspec.structs.replace(limits, max_budget_usd=Decimal(budget))
        fields.setdefault("price", PRICED)
    return NewSession(pattern=pattern, config=config, limits=limits, **fields)


def say(prompt: str = "hello", **fields: Any) -> Message:
    return Message(prompt=prompt, **fields)


async def made(node: Node, pattern: Pattern = "hybrid", **fields: Any) -> Session:
    return (await node.sessions.create(ME, new(pattern, **fields)))[0]


async def got(node: Node, session: Session) -> Session:
    return await node.sessions.get(ME, session.id)


async def until(met: Callable[[], Awaitable[object]], what: str = "") -> None:
    """However slow the machine is; a test that waits for what never comes fails all the same."""
    deadline = time.monotonic() + PATIENCE_S
    while not await met():
        assert time.monotonic() < deadline, what or "it never happened"
        await asyncio.sleep(0.02)


async def until_status(node: Node, session: Session, *statuses: str) -> Session:
    async def met() -> bool:
        return (await got(node, session)).status in statuses

    await until(met, f"{session.id} did not become {statuses}")
    return await got(node, session)


async def until_told(node: Node, session: Session, kind: str) -> None:
    """Until such an event is known to this node."""

    async def met() -> bool:
        return any(event.type == kind for event in await node.sessions.events(ME, session.id, limit=10_000))

    await until(met, f"{session.id} told no {kind}")


def steps(events: Sequence[SessionEvent]) -> list[str]:
    """What happened, with the ways of the status."""
    found: list[str] = []
    for event in events:
        data = json.loads(bytes(event.data))
        found.append(f"{data['from']}>{data['to']}" if event.type == "status_changed" else event.type)
    return found


# --- what must hold at every instant ---------------------------------------------------------------------------------


class Story(msgspec.Struct):
    """All of one instant."""

    sessions: dict[tuple[str, str], Session]
    turns: dict[tuple[str, str], list[TurnRow]]
    told: dict[tuple[str, str], list[SessionEvent]]
    balances: dict[str, int]
    log: list[dict[str, Any]]

    def completions(self, session_id: str) -> list[dict[str, Any]]:
        return [
            event
            for event in self.log
            if event["session"]["session_id"] == session_id
            and event.get("event_type", "session.completed") == "session.completed"
        ]

    def moves(self, session_id: str) -> list[tuple[str, str]]:
        return [
            (event["from"], event["to"])
            for event in self.log
            if event["session"]["session_id"] == session_id and event.get("event_type") == "session.status_changed"
        ]

    def wrong(self) -> list[str]:
        """Whatever contradicts itself, in words."""
        found: list[str] = []
        for key, session in self.sessions.items():
            found += [f"{session.id}: {problem}" for problem in self._of_session(key, session)]
        for key, session in self.sessions.items():
            found += [f"{session.id}: {problem}" for problem in self._money(key, session)]
        return found

    def _of_session(self, key: tuple[str, str], session: Session) -> Iterator[str]:
        ended = session.ended_ms is not None
        if ended != (session.status in ENDED):
            yield f"is {session.status}, and ended_ms is {session.ended_ms}"
        completions = self.completions(session.id)
        if [event["event_id"] for event in completions] != [session.event_id] * ended:
            yield f"is {session.status} with completions {completions}"
        if any(event["outcome"]["status"] != session.outcome for event in completions):
            yield f"outcome is {session.outcome}, the log says {completions}"
        moves = self.moves(session.id)
        places = ["initializing", *(to for _, to in moves)]
        if [before for before, _ in moves] != places[:-1] or places[-1] != session.status:
            yield f"is {session.status}, and went {moves}"
        if bad := [move for move in moves if move[1] not in NEXT[move[0]]]:  # type: ignore[index]  # what the log says
            yield f"went {bad}, which the table has not"
        yield from self._of_turns(key, session)
        seqs = [event.seq for event in self.told.get(key, [])]
        # The numbers that a dead node may have told, and had not kept, are left out.
        steps = {(after - before) % UNKEPT_EVENTS_MAX for before, after in itertools.pairwise([0, *seqs])}
        if not steps <= {1} or (seqs[-1] if seqs else 0) != session.events:
            yield f"has {session.events} events, and these are kept: {seqs}"

    def _of_turns(self, key: tuple[str, str], session: Session) -> Iterator[str]:
        turns = self.turns.get(key, [])
        running = [turn.turn_id for turn in turns if turn.status == "running"]
        if running != ([session.turn_id] if session.turn_id else []):
            yield f"turn_id is {session.turn_id}, and {running} run"
        if (queued := len([turn for turn in turns if turn.status == "queued"])) != session.queued:
            yield f"queued is {session.queued}, and {queued} wait"
        if session.turn_id is not None and (session.node is None or session.status != "active"):
            yield f"runs a turn as {session.status} of node {session.node}"
        if session.ended_ms is not None and (session.node, session.turn_id, session.queued) != (None, None, 0):
            yield f"has ended, and belongs to {session.node} with {session.turn_id} and {session.queued} queued"
        for turn in turns:
            if (turn.reservation == "held") > (turn.status == "running"):
                yield f"turn {turn.turn_id} is {turn.status} and holds {turn.reserved_nanousd}"
            wanted = {"running": "held", "abandoned": "forfeited"}.get(turn.status, "settled")
            if turn.reserved_nanousd and turn.reservation != wanted:
                yield f"turn {turn.turn_id} is {turn.status}, and its hold {turn.reservation}"
            if turn.status == "abandoned" and turn.reserved_nanousd not in (0, turn.kept.turn.cost_nanousd):
                yield f"turn {turn.turn_id} held {turn.reserved_nanousd}, and forfeited {turn.kept.turn.cost_nanousd}"
            if (turn.ended_ms is not None) != bool(turn.answer):
                yield f"turn {turn.turn_id} ended at {turn.ended_ms} with answer {turn.answer!r}"
        began = [turn for turn in turns if turn.began_ms is not None]
        if session.spent.turns != len(began):
            yield f"counts {session.spent.turns} turns, and {len(began)} began"
        costs = sum(turn.kept.turn.cost_nanousd or 0 for turn in turns if turn.answer)
        if session.spent.cost_nanousd != costs:
            yield f"has spent {session.spent.cost_nanousd}, its turns {costs}"

    def _money(self, key: tuple[str, str], session: Session) -> Iterator[str]:
        """A budget is what is left of it, what is held of it, and what was spent of it: here and by all under it."""
        budget = session.described.limits.max_budget_usd
        balance = self.balances.get(f"budget/{key[0]}/{key[1]}")
        if (budget is None) != (balance is None):
            yield f"its budget is {budget}, and its account has {balance}"
        if budget is None or balance is None:
            return
        tree = [other for other in self.sessions.values() if self._under(other, session)]
        spent = sum(other.spent.cost_nanousd for other in tree)
        turns = [turn for other in tree for turn in self.turns.get((other.tenant, other.id), [])]
        held = sum(turn.reserved_nanousd for turn in turns if turn.reservation == "held")
        if balance + held + spent != int(budget * 10**9):
            yield f"budget {budget}: {balance} are left, {held} held, {spent} spent"

    def _under(self, session: Session, top: Session) -> bool:
        at: Session | None = session
        while at is not None and at.id != top.id:
            at = self.sessions.get((at.tenant, at.parent_id)) if at.parent_id else None
        return at is not None


def story_in(reader: Reader) -> Story:
    keys = [SessionKey(str(row[0]), str(row[1])) for row in reader.rows("SELECT tenant, id FROM sessions")]
    sessions = {key: found for key in keys if (found := rows.find(reader, key)) is not None}
    turns: dict[tuple[str, str], list[TurnRow]] = {}
    for row in reader.rows("SELECT tenant, turn_id FROM turns ORDER BY number"):
        turn = turn_rows.find(reader, str(row[0]), str(row[1]))
        assert turn is not None
        turns.setdefault(turn.key, []).append(turn)
    accounts = reader.rows("SELECT name, balance FROM accounts WHERE name >= 'budget/' AND name < 'budget0'")
    log: list[dict[str, Any]] = []
    for (partition,) in reader.rows("SELECT partition FROM log_heads ORDER BY partition"):
        log += _logged(reader, int(partition or 0))
    told = {key: rows.events_after(reader, key, 0, 100_000) for key in keys}
    return Story(sessions, turns, told, {str(row[0]): int(row[1] or 0) for row in accounts}, log)


def _logged(reader: Reader, partition: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    offset = 0
    while (part := read_log(reader, partition, offset, 5_000)).next_offset > offset:
        found += [json.loads(event.body) for event in part.events]
        offset = part.next_offset
    return found


async def story(node: Node) -> Story:
    return await node.database.read(story_in)


async def sound(node: Node) -> Story:
    """The story, in which nothing contradicts itself."""
    found = await story(node)
    assert found.wrong() == []
    return found


async def watching(node: Node, over: asyncio.Event) -> int:
    """Look again and again until it is over; how often that was."""
    looks = 0
    while not over.is_set() or looks < 2:
        await sound(node)
        looks += 1
        await asyncio.sleep(0.01)
    return looks
