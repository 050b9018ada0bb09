"""The triggers of sessions: put, looked at, removed, called. What is due of them is `firing_service`'s."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from adjourn.clock import Clock
from adjourn.database import Database, Tx
from adjourn.errors import (
    BodyInvalid,
    BodyTooLarge,
    NotFound,
    SessionEnded,
    StatusRefused,
    TriggerInvalid,
)
from adjourn.sessions import trigger_rows as rows
from adjourn.sessions import triggers
from adjourn.sessions.firing_service import Fire, Firing, message_of
from adjourn.sessions.folders_service import Folders
from adjourn.sessions.hosting import Pattern
from adjourn.sessions.trigger_rows import Kept, TriggerKey
from adjourn.sessions.triggers import Trigger, WebhookTrigger
from adjourn.sessions.turn import TurnResult

BODY_BYTES_MAX = 262_144


class Triggers:
    """`workspace(tenant, session_id)` is the folder of a session; `folders` are those that it may watch besides, in
    which `{tenant}` stands for its tenant."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        fire: Fire,
        *,
        workspace: Callable[[str, str], str],
        folders: Sequence[str] = (),
    ) -> None:
        self._database = database
        self._clock = clock
        self._fire = fire
        self._folders = Folders(workspace, folders)
        self._firing = Firing(database, clock, fire, self._folders)

    async def look(self) -> None:
        """Begin all that is due by the wall clock. Raises Unavailable."""
        await self._firing.look()

    async def stop(self, timeout_s: float) -> None:
        """Finish what has begun, bounded. Idempotent."""
        await self._firing.stop(timeout_s)

    @property
    def checking(self) -> bool:
        """Whether it is not done yet with what another clock may have worked out."""
        return self._firing.checking

    # --- what callers ask --------------------------------------------------------------------------------------------

    def check(self, tenant: str, pattern: Pattern, new: Sequence[Trigger]) -> None:
        """Whether a session that is made may have them. Raises TriggerInvalid."""
        triggers.check_all(pattern, new, self._folders.of(tenant))

    async def put(self, tenant: str, session_id: str, trigger: Trigger) -> Kept:
        """Add it, or change the one of its name. Returns when it is durable. Raises NotFound, SessionEnded,
        TriggerInvalid."""
        session = await self._database.read(rows.pattern_of, tenant, session_id)
        if session is None:
            raise _no_session(session_id)
        pattern, ended = session
        if ended:
            raise SessionEnded(f"session {session_id} has ended, and starts no more turns; begin another one")
        triggers.check_pattern(pattern)
        triggers.check(trigger, self._folders.of(tenant))
        kept, room = await self._database.write(
            _put, tenant, session_id, trigger, self._clock.wall_ms(), key=session_id
        )
        if not room:
            fact = f"session {session_id} has {triggers.TRIGGERS_MAX} triggers, as many as it may"
            raise TriggerInvalid(f"{fact}; remove one first", path="name")
        if kept is None:
            raise _no_session(session_id)
        return kept

    async def remove(self, tenant: str, session_id: str, name: str) -> None:
        """Raises NotFound."""
        if not await self._database.write(rows.remove, TriggerKey(tenant, session_id, name), key=session_id):
            raise _no_trigger(session_id, name)

    async def get(self, tenant: str, session_id: str, name: str) -> Kept:
        """Raises NotFound."""
        kept = await self._database.read(rows.find, TriggerKey(tenant, session_id, name))
        if kept is None:
            raise _no_trigger(session_id, name)
        return kept

    async def list(self, tenant: str, session_id: str) -> list[Kept]:
        """In the order of their names. Raises NotFound."""
        if await self._database.read(rows.pattern_of, tenant, session_id) is None:
            raise _no_session(session_id)
        return await self._database.read(rows.select, tenant, session_id)

    async def call_webhook(
        self, tenant: str, session_id: str, name: str, body: bytes, *, idempotency_key: str = ""
    ) -> TurnResult:
        """Start a turn whose prompt has the body. Raises NotFound, StatusRefused, BodyInvalid, BodyTooLarge,
        TurnRunning, and what else beginning a turn does."""
        kept = await self.get(tenant, session_id, name)
        if not isinstance(kept.trigger, WebhookTrigger):
            kind = triggers.kind_of(kept.trigger)
            raise StatusRefused(f"trigger {name} is of the kind {kind}; only one of the kind webhook can be called")
        if not kept.trigger.enabled:
            raise StatusRefused(f"trigger {name} is switched off; put it again with enabled: true")
        if len(body) > BODY_BYTES_MAX:
            raise BodyTooLarge(f"the body has {len(body)} bytes; a webhook's prompt takes {BODY_BYTES_MAX}")
        try:
            text = body.decode()
        except UnicodeDecodeError as error:
            raise BodyInvalid(f"the body is not UTF-8 at byte {error.start}; send text, such as JSON") from None
        prompt = triggers.said(kept.trigger.prompt, body=text)
        key = f"trigger/{session_id}/{name}/call/{idempotency_key}" if idempotency_key else ""
        return await self._fire(tenant, session_id, name, message_of(kept.trigger, prompt), idempotency_key=key)


def _put(tx: Tx, tenant: str, session_id: str, trigger: Trigger, now_ms: int) -> tuple[Kept | None, bool]:
    """(how it stands, whether there is room); None where the session has gone."""
    if rows.pattern_of(tx, tenant, session_id) is None:
        return None, True
    others = [kept for kept in rows.select(tx, tenant, session_id) if kept.key.name != trigger.name]
    if len(others) >= triggers.TRIGGERS_MAX:
        return None, False
    rows.put(tx, tenant, session_id, [trigger], now_ms)
    return rows.find(tx, TriggerKey(tenant, session_id, trigger.name)), True


def _no_session(session_id: str) -> NotFound:
    return NotFound(f"there is no session {session_id[:100]}; check the id")


def _no_trigger(session_id: str, name: str) -> NotFound:
    return NotFound(f"session {session_id[:100]} has no trigger {name[:64]}; list them, or put it")
