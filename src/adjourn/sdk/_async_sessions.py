"""Sessions of a server; the synchronous ones are generated from this file."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Unpack

from adjourn.errors import NotFound, RevisionStale, SessionEnded
from adjourn.events import OutcomeStatus, SessionType, UserPart
from adjourn.sdk import _client as client
from adjourn.sdk import _sessions as hosting
from adjourn.sdk import _watch as watching
from adjourn.sdk._async_events import AsyncEvents, AsyncTurn
from adjourn.sdk._async_hosted import AsyncHosted
from adjourn.sdk._async_watch import AsyncWatch
from adjourn.sdk._async_wire import AsyncWire
from adjourn.sdk.models import SessionState, WatchedAnswer, WatchedPage
from adjourn.sdk.models_events import SessionEventPage
from adjourn.sdk.models_sessions import (
    AppendedAnswer,
    MessagePage,
    Part,
    Pattern,
    SentAnswer,
    SessionAnswer,
    SessionPage,
    SnapshotAnswer,
    StatsAnswer,
    TriggerAnswer,
    TriggerList,
    TurnAnswer,
)


class AsyncSessions:
    """Sessions that the server hosts, and those that it watches.

    What fails on the way is sent again and done once: each call has an Idempotency-Key of its own. Where the server
    knows none (`interrupt`, `resume`, `snapshot`, `amend`), only what was certainly not done is sent again."""

    def __init__(self, wire: AsyncWire) -> None:
        self._wire = wire

    # --- hosted --------------------------------------------------------------------------------------------------

    async def create(
        self, pattern: Pattern, *, idempotency_key: str = "", **new: Unpack[hosting.NewSession]
    ) -> SessionAnswer:
        """Begin a session. Raises RunnerRefused, LimitReached, PriceUnknown, KeyReused."""
        return await self._wire.ask(hosting.create_request(pattern, new, idempotency_key), SessionAnswer)

    def session(self, pattern: Pattern, **new: Unpack[hosting.NewSession]) -> AsyncHosted:
        """A session from entry to exit: entering creates it, leaving completes it."""
        return AsyncHosted(self, pattern, new)

    async def get(self, session_id: str) -> SessionAnswer:
        """Raises NotFound."""
        return await self._wire.ask(client.Request("GET", hosting.path_of(session_id)), SessionAnswer)

    async def list(
        self,
        *,
        limit: int = hosting.PAGE,
        cursor: str = "",
        **wanted: Unpack[hosting.Filter],
    ) -> SessionPage:
        """One page, newest first unless `order` and `descending` say otherwise."""
        return await self._wire.ask(hosting.list_request(wanted, limit=limit, cursor=cursor), SessionPage)

    async def iterate(
        self,
        *,
        limit: int = hosting.PAGE,
        **wanted: Unpack[hosting.Filter],
    ) -> AsyncGenerator[SessionAnswer]:
        """All of them, `limit` asked for at a time."""
        cursor: str | None = ""
        while cursor is not None:
            page = await self.list(limit=limit, cursor=cursor, **wanted)
            for each in page.sessions:
                yield each
            cursor = page.next_cursor

    async def update(self, session_id: str, revision: int, **changes: Unpack[hosting.Changes]) -> SessionAnswer:
        """Change a session as it was at that revision. Raises RevisionStale where it has changed since."""
        request = hosting.write("PATCH", hosting.path_of(session_id), {"revision": revision, **changes})
        tries = client.Tries()
        try:
            return await self._wire.ask(request, SessionAnswer, tries=tries)
        except RevisionStale:
            if tries.unsure and hosting.is_patched(session := await self.get(session_id), revision, changes):
                return session
            raise

    async def delete(self, session_id: str, *, force: bool = False) -> None:
        """Delete one that has ended, with its conversation; with `force`, one that has not. Raises StatusRefused."""
        path = hosting.path_of(session_id) + ("?force=true" if force else "")
        tries = client.Tries()
        try:
            await self._wire.answer(hosting.write("DELETE", path), tries=tries)
        except NotFound:
            if not tries.unsure:
                raise

    async def send(
        self,
        session_id: str,
        said: str | Sequence[Part],
        *,
        idempotency_key: str = "",
        **how: Unpack[hosting.Asking],
    ) -> SentAnswer:
        """Run a turn, and wait for its end, however long it takes. A turn that failed is an answer, too.

        Raises TurnRunning, SessionEnded, LimitReached, BudgetReached."""
        return await self.stream(session_id, said, idempotency_key=idempotency_key, **how).answer()

    def stream(
        self,
        session_id: str,
        said: str | Sequence[Part],
        *,
        idempotency_key: str = "",
        **how: Unpack[hosting.Asking],
    ) -> AsyncTurn:
        """Run a turn, and iterate over what happens in it."""
        path, key = hosting.path_of(session_id, "messages"), idempotency_key or hosting.token()
        message = hosting.message_of(said, how)
        streamed = hosting.write("POST", path, {**message, "stream": True}, key=key)
        return AsyncTurn(self._wire, streamed, hosting.write("POST", path, message, key=key))

    async def append(
        self,
        session_id: str,
        said: str | Sequence[Part],
        **how: Unpack[hosting.Saying],
    ) -> AppendedAnswer:
        """Add a message without a turn. Under a `message_id` it is added once; without one, under a new one."""
        message = {"message_id": f"msg_{hosting.token()}", **hosting.message_of(said, how), "run": False}
        request = hosting.write("POST", hosting.path_of(session_id, "messages"), message)
        return await self._wire.ask(request, AppendedAnswer)

    async def messages(
        self, session_id: str, *, after: int = 0, before: int | None = None, limit: int = 50, newest: bool = False
    ) -> MessagePage:
        """One page of the conversation. `newest`: of those between `after` and `before`, the last ones."""
        path = hosting.path_of(session_id, "messages")
        request = hosting.page_request(path, after=after, before=before, limit=limit, newest=newest)
        return await self._wire.ask(request, MessagePage)

    async def interrupt(self, session_id: str) -> SessionAnswer:
        """Ask the turn that runs to end soon."""
        return await self._wire.ask(
            hosting.write("POST", hosting.path_of(session_id, "interrupt")), SessionAnswer, again="undone"
        )

    async def resume(self, session_id: str) -> SessionAnswer:
        """Make an idle session active; go on with one that has ended in a new one, which is the answer."""
        return await self._wire.ask(
            hosting.write("POST", hosting.path_of(session_id, "resume")), SessionAnswer, again="undone"
        )

    async def complete(
        self,
        session_id: str,
        *,
        outcome: OutcomeStatus = "success",
        error_code: str = "",
        final_message: str = "",
        final_state: object = None,
    ) -> SessionAnswer:
        """End a session; its completion says so. Raises SessionEnded, TurnRunning."""
        body = {"outcome": outcome, "error_code": error_code, "final_message": final_message}
        body |= {} if final_state is None else {"final_state": final_state}
        request = hosting.write("POST", hosting.path_of(session_id, "complete"), body)
        tries = client.Tries()
        try:
            return await self._wire.ask(request, SessionAnswer, tries=tries)
        except SessionEnded:
            if tries.unsure:
                session = await self.get(session_id)
                if (session.status, session.outcome, session.error_code) == ("completed", outcome, error_code):
                    return session
            raise

    async def terminate(self, session_id: str, *, reason: str = "") -> SessionAnswer:
        """End a session now, its turn too, as terminated by its user. Nothing where it is terminated already."""
        request = hosting.write("POST", hosting.path_of(session_id, "terminate"), {"reason": reason})
        return await self._wire.ask(request, SessionAnswer)

    async def amend(self, session_id: str, **correction: Unpack[hosting.Correction]) -> SessionAnswer:
        """Correct the completion of a session that has ended."""
        request = hosting.write("POST", hosting.path_of(session_id, "amend"), correction)
        return await self._wire.ask(request, SessionAnswer, again="undone")

    async def snapshot(self, session_id: str) -> SnapshotAnswer:
        """Keep state, position in the conversation and workspace; a new session may begin from it (`snapshot_id`)."""
        return await self._wire.ask(
            hosting.write("POST", hosting.path_of(session_id, "snapshot")), SnapshotAnswer, again="undone"
        )

    async def stats(self, *, shown: int | None = None) -> StatsAnswer:
        """What all sessions add up to. `shown`: how many values of one kind are told apart."""
        return await self._wire.ask(hosting.page_request(f"{watching.SESSIONS_PATH}/stats", shown=shown), StatsAnswer)

    async def events(self, session_id: str, *, after: int = 0, limit: int = 100) -> SessionEventPage:
        """One page of what happened in a session."""
        request = hosting.page_request(hosting.path_of(session_id, "events"), after=after, limit=limit)
        return await self._wire.ask(request, SessionEventPage)

    def follow(self, session_id: str, *, after: int = 0) -> AsyncEvents:
        """What happens in a session, as it comes, until it has ended."""
        return AsyncEvents(self._wire, client.Request("GET", hosting.path_of(session_id, "events")), after=after)

    # --- triggers ------------------------------------------------------------------------------------------------

    async def triggers(self, session_id: str) -> Sequence[TriggerAnswer]:
        """When a session starts turns by itself."""
        request = client.Request("GET", hosting.path_of(session_id, "triggers"))
        return (await self._wire.ask(request, TriggerList)).triggers

    async def trigger(self, session_id: str, name: str) -> TriggerAnswer:
        """Raises NotFound."""
        return await self._wire.ask(client.Request("GET", hosting.trigger_path(session_id, name)), TriggerAnswer)

    async def put_trigger(self, session_id: str, name: str, trigger: Mapping[str, object]) -> TriggerAnswer:
        """Add a trigger, or change the one of that name: `{"kind": "interval", "every_ms": 60_000, "prompt": "…"}`.
        Raises TriggerInvalid."""
        request = hosting.write("PUT", hosting.trigger_path(session_id, name), trigger)
        return await self._wire.ask(request, TriggerAnswer)

    async def remove_trigger(self, session_id: str, name: str) -> None:
        """Raises NotFound."""
        tries = client.Tries()
        try:
            await self._wire.answer(hosting.write("DELETE", hosting.trigger_path(session_id, name)), tries=tries)
        except NotFound:
            if not tries.unsure:
                raise

    async def call_trigger(
        self,
        session_id: str,
        name: str,
        body: bytes = b"",
        *,
        idempotency_key: str = "",
    ) -> TurnAnswer:
        """Call a webhook: begins a turn whose prompt has the body, and does not wait for its end."""
        request = hosting.call_request(session_id, name, body, idempotency_key)
        return await self._wire.ask(request, TurnAnswer)

    # --- watched -------------------------------------------------------------------------------------------------
    def watch(
        self,
        *,
        session_id: str | None = None,
        user_id: str | None = None,
        model: str | None = None,
        session_type: SessionType = "chat",
        organization_id: str | None = None,
        tier: str | None = None,
        attempt: int = 1,
        lease_ms: int | None = None,
        custom_tags: Mapping[str, object] | None = None,
    ) -> AsyncWatch:
        """A session from entry to exit, as `adjourn.session` is, that heartbeats while it lasts. If nothing is heard of
        it for `lease_ms` (the server's setting by default), the server completes it as `error`/`abandoned`."""
        return AsyncWatch(
            self._wire,
            session_id=session_id,
            session_type=session_type,
            user=UserPart(user_id=user_id, organization_id=organization_id, tier=tier),
            model=model,
            attempt=attempt,
            lease_ms=lease_ms,
            custom_tags=custom_tags,
        )

    async def watched(self, session_id: str, *, attempt: int | None = None) -> WatchedAnswer:
        """The newest run of a watched session, or one of its runs. Raises NotFound."""
        query = None if attempt is None else {"attempt": attempt}
        request = client.Request("GET", watching.watched_path(session_id), query=query)
        return await self._wire.ask(request, WatchedAnswer)

    async def list_watched(
        self,
        *,
        state: SessionState | None = None,
        limit: int = 50,
        cursor: str = "",
    ) -> WatchedPage:
        """One page of the tenant's watched sessions, in the order of their ids."""
        query: dict[str, str | int] = {"limit": limit}
        query |= {"state": state} if state else {}
        query |= {"cursor": cursor} if cursor else {}
        return await self._wire.ask(client.Request("GET", watching.WATCHED_PATH, query=query), WatchedPage)
