"""Many hosted sessions of all sorts, for tests of lists and statistics."""

from __future__ import annotations

import random
from collections.abc import Iterable

from adjourn.database import Tx
from adjourn.ids import new_id
from adjourn.runner import RunnerConfig
from adjourn.sessions.columns import COLUMNS, MARKS, values_of
from adjourn.sessions.hosting import Pattern
from adjourn.sessions.lifecycle import ENDED, Status
from adjourn.sessions.session import Described, Session, Spent

BEGAN_MS = 1_700_000_000_000
PATTERNS: list[Pattern] = ["ephemeral", "long_running", "hybrid", "single_container"]
STATUSES: list[Status] = ["initializing", "active", "idle", "completed", "error", "terminated"]


def session(number: int, rng: random.Random, *, tenant: str = "t", parent: Session | None = None) -> Session:
    """The `number`-th: each second one, at times several at once."""
    created_ms = BEGAN_MS + number // 3 * 1000
    status = rng.choice(STATUSES)
    ended = status in ENDED
    active_ms = created_ms + rng.randrange(50) * 10_000
    session_id = new_id("sess", created_ms, rng.randbytes(8))
    model = rng.choice(["", "model-a", "model-b"])
    return Session(
        tenant=tenant,
        id=session_id,
        status=status,
        pattern=rng.choice(PATTERNS),
        role=rng.choice(["director", "department", "observer", "active"]),
        kind=rng.choice(["chat", "api"]),
        interface=rng.choice(["api", "web"]),
        user_id=rng.choice(["", "ann", "bob", f"user-{rng.randrange(200)}"]),
        name=rng.choice(["", "Nightly report", "nightly", "n%_x"]),
        runner=rng.choice(["echo", "command"]),
        model=model,
        parent_id=parent.id if parent else None,
        root_id=parent.root_id if parent else session_id,
        resumed_from=None,
        revision=1,
        epoch=1,
        node=None,
        turn_id=None,
        stopping="",
        created_ms=created_ms,
        active_ms=active_ms,
        ended_ms=active_ms if ended else None,
        due_ms=None,
        outcome="success" if status == "completed" else "error" if ended else "",
        error_code="",
        event_id=new_id("evt", created_ms, rng.randbytes(8)),
        amendment_id=None,
        messages=2,
        events=3,
        queued=0,
        spent=_spent(rng),
        described=Described(
            tags=sorted(rng.sample(["red", "green", "blue", "rare"], rng.choice([0, 1, 2]), counts=[30, 20, 9, 1])),
            config=RunnerConfig(model=model),
        ),
        state=b"{}",
    )


def _spent(rng: random.Random) -> Spent:
    return Spent(
        turns=rng.randrange(5),
        input_tokens=rng.randrange(1000),
        output_tokens=rng.randrange(100),
        cache_read_tokens=rng.randrange(10),
        tool_calls=rng.randrange(3),
        errors=rng.randrange(2),
        cost_nanousd=rng.choice([0, 0, 5, rng.randrange(10**9)]),
    )


def sessions(count: int, rng: random.Random, *, tenant: str = "t") -> list[Session]:
    """Some of them in trees."""
    made: list[Session] = []
    for number in range(count):
        parent = rng.choice(made[-200:]) if made and rng.random() < 0.3 else None
        made.append(session(number, rng, tenant=tenant, parent=parent))
    return made


def put(tx: Tx, made: Iterable[Session]) -> None:
    for one in made:
        tx.run(f"INSERT INTO sessions ({COLUMNS}) VALUES ({MARKS})", values_of(one))
        for tag in set(one.described.tags):
            tx.run("INSERT INTO session_tags (tenant, tag, session_id) VALUES (?, ?, ?)", (one.tenant, tag, one.id))
