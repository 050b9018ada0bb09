"""What is due of triggers: asked for, under a key that makes it happen once.

A time is moved on after its turn was asked for: a crash between the two asks again, under the same key, and finds the
turn that is there. Files are named to a turn only after they were written down, so that asking again says the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Protocol

import msgspec

from adjourn.clock import Clock
from adjourn.database import Database
from adjourn.errors import AdjournError, Fenced, KeyReused, NotFound, SessionEnded, TurnRunning
from adjourn.eventlog import get_logger
from adjourn.sessions import trigger_rows as rows
from adjourn.sessions import triggers
from adjourn.sessions.folders_service import Folders
from adjourn.sessions.trigger_rows import Kept, TriggerKey
from adjourn.sessions.triggers import FileTrigger, Outcome, Pending, Seen, Trigger
from adjourn.sessions.turn import Message, TurnResult

_log = get_logger("adjourn.sessions")

LOOK_S_MAX = 0.5
"""How long a look waits for what it has begun; that goes on meanwhile."""
AT_WORK_MAX = 256
CHECK_PER_LOOK = 500
SET_BACK_MS = 2_000
TROUBLE_MS = 60_000

_FIRST = TriggerKey("", "", "")


class Fire(Protocol):
    """Begins a turn, durably, and returns when it runs or waits. Asked again under the same key, it begins no other.
    Raises AdjournError."""

    def __call__(
        self, tenant: str, session_id: str, trigger_name: str, message: Message, *, idempotency_key: str
    ) -> Awaitable[TurnResult]: ...


class Firing:
    def __init__(self, database: Database, clock: Clock, fire: Fire, folders: Folders) -> None:
        self._database = database
        self._clock = clock
        self._fire = fire
        self._folders = folders
        self._at_work: dict[TriggerKey, asyncio.Task[None]] = {}
        self._looked: tuple[int, float] | None = None
        self._checked: TriggerKey | None = None

    async def look(self) -> None:
        """Begin all that is due by the wall clock, and wait a little for it. It costs what is due, not what exists.
        Raises Unavailable."""
        now_ms = self._clock.wall_ms()
        if self._set_back(now_ms):
            self._checked = _FIRST
        due, unreadable = await self._database.read(rows.due, now_ms, AT_WORK_MAX + len(self._at_work))
        for key, revision in unreadable:
            _log.error("trigger_unreadable", tenant=key.tenant, session=key.session_id, trigger=key.name)
            await self._database.write(rows.moved, key, revision, None, key=key.session_id)
        for kept in due:
            if kept.key not in self._at_work and len(self._at_work) < AT_WORK_MAX:
                task = asyncio.create_task(self._handle(kept, now_ms), name=f"trigger {kept.key.name}")
                self._at_work[kept.key] = task
                task.add_done_callback(lambda _, key=kept.key: self._at_work.pop(key, None))
        if self._at_work:
            await asyncio.wait(list(self._at_work.values()), timeout=LOOK_S_MAX)
        if self._checked is not None:
            self._checked = await self._check_some(self._checked, now_ms)

    async def stop(self, timeout_s: float) -> None:
        """Finish what has begun, bounded; what is given up is asked for again, under its key. Idempotent."""
        if self._at_work:
            _, pending = await asyncio.wait(list(self._at_work.values()), timeout=timeout_s)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _handle(self, kept: Kept, now_ms: int) -> None:
        """Nothing that happens to one keeps the others waiting."""
        try:
            await self._advance(kept, now_ms)
        except AdjournError as error:  # the database is away: it is due still
            _waits(kept.key, error.message)
        except Exception:
            _log.exception("trigger_failed", tenant=kept.key.tenant, session=kept.key.session_id, trigger=kept.key.name)
            await self._put_off(kept, now_ms + TROUBLE_MS)

    async def _put_off(self, kept: Kept, next_ms: int) -> None:
        try:
            await self._move(kept, next_ms, None)
        except AdjournError as error:
            _waits(kept.key, error.message)

    async def _advance(self, kept: Kept, now_ms: int) -> None:
        pending = kept.seen.pending
        if pending is None and isinstance(kept.trigger, FileTrigger):
            kept, pending = await self._look_for_files(kept, kept.trigger, now_ms)
            if pending is None:
                return
        elif pending is None:
            assert kept.next_ms is not None
            pending = triggers.pending(kept.trigger, kept.key.session_id, kept.next_ms, kept.revision, now_ms)
        asked = await self._ask(kept, pending)
        if asked is None:
            await self._database.write(rows.stop, kept.key.tenant, kept.key.session_id, key=kept.key.session_id)
            return
        outcome, error = asked
        next_ms, seen = triggers.after(
            kept.trigger, kept.seen, pending, outcome, error=error, now_ms=now_ms, salt=kept.key.salt
        )
        await self._move(kept, next_ms, seen)

    async def _ask(self, kept: Kept, pending: Pending) -> tuple[Outcome, str] | None:
        """What came of it, and why; None where the session will never take a turn again."""
        tenant, session_id, name = kept.key
        try:
            await self._fire(
                tenant, session_id, name, message_of(kept.trigger, pending.prompt), idempotency_key=pending.key
            )
        except KeyReused:  # it was asked for before, in other words
            return "started", ""
        except TurnRunning:
            return "busy", ""
        except (NotFound, SessionEnded):
            return None
        except AdjournError as error:
            _waits(kept.key, error.message)
            later = error.status in (429, 500, 503, 507) or isinstance(error, Fenced)
            return ("later" if later else "refused"), error.message
        except Exception as error:
            _log.exception("trigger_failed", tenant=tenant, session=session_id, trigger=name)
            return "later", f"it failed within the server ({type(error).__name__}); the log has more"
        return "started", ""

    async def _move(self, kept: Kept, next_ms: int | None, seen: Seen | None) -> bool:
        return await self._database.write(rows.moved, kept.key, kept.revision, next_ms, seen, key=kept.key.session_id)

    # --- files -------------------------------------------------------------------------------------------------------

    async def _look_for_files(self, kept: Kept, trigger: FileTrigger, now_ms: int) -> tuple[Kept, Pending | None]:
        """The turn to be asked for, written down; None: nothing is new, and it was moved on."""
        next_ms = now_ms + trigger.every_ms
        try:
            files = await self._folders.files(kept.key, trigger, now_ms)
            error = ""
        except AdjournError as problem:
            files, error = [], problem.message
        except OSError as problem:
            fact = f"{trigger.path} cannot be read ({problem.strerror or type(problem).__name__})"
            files, error = [], f"{fact}; let the server read it, or change the path"
        if error and error != kept.seen.error:
            _waits(kept.key, error)
        session_id, revision = kept.key.session_id, kept.revision
        pending = triggers.pending_files(trigger, session_id, kept.seen, files, revision, now_ms) if files else None
        if pending is None:
            seen = None if error == kept.seen.error else msgspec.structs.replace(kept.seen, error=error)
            await self._move(kept, next_ms, seen)
            return kept, None
        seen = msgspec.structs.replace(kept.seen, pending=pending, error="")
        if not await self._move(kept, kept.next_ms, seen):
            return kept, None  # another node was first
        return msgspec.structs.replace(kept, revision=revision + 1, seen=seen), pending

    # --- clocks that were set back -----------------------------------------------------------------------------------

    @property
    def checking(self) -> bool:
        """Whether it is not done yet with what another clock may have worked out."""
        return self._looked is None or self._checked is not None

    def _set_back(self, now_ms: int) -> bool:
        """Whether it may have been: this node has not looked before, or less time has passed on the wall."""
        now_s, before = self._clock.monotonic(), self._looked
        self._looked = (now_ms, now_s)
        return before is None or now_ms < before[0] + (now_s - before[1]) * 1000 - SET_BACK_MS

    async def _check_some(self, after: TriggerKey, now_ms: int) -> TriggerKey | None:
        """Bring nearer what was worked out by a clock that was ahead; where to go on."""
        several, following = await self._database.read(rows.page, after, CHECK_PER_LOOK)
        for kept in several:
            if kept.next_ms is not None and kept.key not in self._at_work:
                next_ms = triggers.too_far_ms(kept.trigger, kept.next_ms, now_ms, kept.key.salt)
                if next_ms is not None:
                    await self._move(kept, next_ms, None)
        return following


def message_of(trigger: Trigger, prompt: str) -> Message:
    return Message(prompt=prompt, queue=trigger.overlap == "queue")


def _waits(key: TriggerKey, reason: str) -> None:
    _log.warning("trigger_waits", tenant=key.tenant, session=key.session_id, trigger=key.name, error=reason)
