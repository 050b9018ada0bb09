"""The asynchronous client; the other one is generated from this file."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Protocol, TypeVar

import msgspec

from adjourn.clock import Clock, SystemClock
from adjourn.errors import AdjournError, NotFound, SessionEnded, Unavailable
from adjourn.events import SessionType, UserPart
from adjourn.sdk import _client as client
from adjourn.sdk import _watch as watching
from adjourn.sdk.beat_service import AsyncBeat
from adjourn.sdk.models import (
    CompletedAnswer,
    EventAnswer,
    MetricsAnswer,
    SendAnswer,
    SessionState,
    WatchedAnswer,
    WatchedPage,
)

T = TypeVar("T")


class AsyncClient:
    """Speaks to one Adjourn server. Make one and keep it: it holds connections open.

        async with AsyncClient("http://127.0.0.1:8700", key) as adjourn:
            answer = await adjourn.send([b'{"session": {"session_id": "sess_1"}}'])

    Every method raises a class of `adjourn.errors`, and nothing else, for what the server or the network does."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_ms: int = 30_000,
        compress: bool = True,
        retries: int | None = client.RETRIES,
    ) -> None:
        """`timeout_ms` bounds each wait: for the connection, and for the answer to one try. `retries` is how often a
        request is tried again; None is until it is answered. Raises ConfigInvalid."""
        # Here, not above: it takes a tenth of a second, which `import adjourn` need not cost those who never send.
        import httpx

        client.check_options(timeout_ms, retries)
        self._server = client.server_of(url, key)
        self._timeout_ms = timeout_ms
        self._compress = compress
        self._retries = retries
        self._clock: Clock = SystemClock()
        self.sessions = AsyncSessions(self._decoded)
        """Watched sessions."""
        self._http = httpx.AsyncClient(
            headers=self._server.headers(),
            timeout=timeout_ms / 1000,
            trust_env=not self._server.is_loopback,  # no proxy knows the way to this machine's own loopback
            follow_redirects=False,  # the key goes where it was meant to go, and nowhere else
        )

    def __repr__(self) -> str:
        return f"AsyncClient({self._server.url!r})"

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        await self._http.aclose()

    async def send(self, events: Sequence[bytes], *, producer: str = "", first_sequence: int = 0) -> SendAnswer:
        """Send events, each a JSON object on one line, in one request; returns when all of them are durable.

        What fails for a time is sent again: the server knows a resend by its event ids, within its dedupe window. A
        `producer` that numbers its events from 1 without gaps (`first_sequence` is the number of the first) is known
        again however late. No events are answered without asking.

        Raises EventInvalid and BodyInvalid before anything is sent; Unauthenticated, Forbidden, BodyTooLarge,
        MediaTypeUnsupported, BodyInvalid as the server says; TooBusy, Unavailable, StorageFull after the last try."""
        request = client.send_request(events, producer=producer, first_sequence=first_sequence, compress=self._compress)
        if not events:
            return SendAnswer()
        answer = await self._answer(request)
        return client.decode_sent(self._server, answer, len(events))

    async def event(self, event_id: str) -> EventAnswer:
        """One event of the key's tenant. Raises NotFound."""
        answer = await self._answer(client.Request("GET", client.event_path(event_id)))
        return client.decode(self._server, answer, EventAnswer)

    async def metrics(self) -> MetricsAnswer:
        """Counts and latencies since the server's process started."""
        answer = await self._answer(client.Request("GET", "/v1/metrics"))
        return client.decode(self._server, answer, MetricsAnswer)

    async def ready(self) -> bool:
        """Whether the server takes events now: one try. False where nothing answers, or where it says that it does not.

        Raises Unavailable where something else than Adjourn answers."""
        try:
            answer = await self._once(client.Request("GET", "/readyz"))
        except Unavailable:
            return False
        if answer.status == 503:
            return False
        if not answer.ok:
            raise self._refusal(answer)
        client.decode(self._server, answer, object)
        return True

    async def request(
        self, method: str, path: str, *, query: Mapping[str, str | int] | None = None, json: object = None
    ) -> object:
        """Any other route: its answer as JSON values, None where it has no body; `msgspec.convert` makes types of them.

        Only GET is tried again: of the others it is not known whether a second time would do it twice."""
        headers: dict[str, str] = {}
        body = None
        if json is not None:
            headers, body = {"content-type": "application/json"}, msgspec.json.encode(json)
        request = client.Request(method.upper(), f"/{path.lstrip('/')}", headers, body, query)
        answer = await self._answer(request, again=request.method == "GET")
        return client.decode(self._server, answer, object) if answer.body else None

    async def _decoded(self, request: client.Request, kind: type[T], *, again: bool = True) -> T:
        return client.decode(self._server, await self._answer(request, again=again), kind)

    async def _answer(self, request: client.Request, *, again: bool = True) -> client.Answer:
        """The answer, if it is 2xx; else its error. What may pass is tried `again`."""
        tries = 0
        while True:
            tries += 1
            error: AdjournError
            try:
                answer = await self._once(request)
            except Unavailable as unanswered:
                error = unanswered
            else:
                if answer.ok:
                    return answer
                error = self._refusal(answer)
                if answer.status not in client.RETRIED_STATUSES:
                    raise error
            if not again or (self._retries is not None and tries > self._retries):
                raise client.given_up(error, tries)
            await asyncio.sleep(client.retry_delay_ms(tries, random.random(), error.retry_after_ms) / 1000)

    async def _once(self, request: client.Request) -> client.Answer:
        """Whatever is answered. Raises Unavailable where nothing is."""
        import httpx

        url = self._server.url + request.path
        try:
            response = await self._http.request(
                request.method, url, content=request.body, headers=request.headers, params=request.query
            )
        except httpx.InvalidURL as error:
            raise client.bad_url(f"{url!r} is no URL ({error}); check host and path") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise client.nothing_answers(self._server, str(error)) from None
        except httpx.TimeoutException:
            raise client.too_slow(self._server, self._timeout_ms) from None
        except httpx.RequestError as error:
            raise client.broken_off(self._server, str(error)) from None
        return client.Answer(response.status_code, response.headers, response.content)

    def _refusal(self, answer: client.Answer) -> AdjournError:
        return client.refusal(self._server, answer, self._clock.wall_ms())


class _Ask(Protocol):
    """What answers a request, as a type of it."""

    async def __call__(self, request: client.Request, kind: type[T], *, again: bool = True) -> T: ...


class AsyncSessions:
    """Sessions that the server watches, so that the death of a program does not cost their completions."""

    def __init__(self, ask: _Ask) -> None:
        self._ask = ask

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
            self._ask,
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
        return await self._ask(request, WatchedAnswer)

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
        return await self._ask(client.Request("GET", watching.WATCHED_PATH, query=query), WatchedPage)


class AsyncWatch(watching.Watched):
    """One watched session; `AsyncSessions.watch` makes it.

    Entering begins it and raises what `AsyncClient` raises, and SessionExists. Leaving completes it: normally as
    `success`, by TimeoutError as `timeout`, cancelled or interrupted as `user_terminated`, by any other exception as
    `error`, and that passes on."""

    def __init__(
        self,
        ask: _Ask,
        *,
        session_id: str | None,
        session_type: SessionType,
        user: UserPart,
        model: str | None,
        attempt: int,
        lease_ms: int | None,
        custom_tags: Mapping[str, object] | None,
    ) -> None:
        super().__init__(
            session_id=session_id,
            session_type=session_type,
            user=user,
            model=model,
            attempt=attempt,
            lease_ms=lease_ms,
            custom_tags=custom_tags,
        )
        self._ask = ask
        self._beat: AsyncBeat | None = None

    async def __aenter__(self) -> AsyncWatch:
        self.answer = await self._ask(self.begin_request(), WatchedAnswer)
        self._beat = AsyncBeat(self._heartbeat, self.beat_s)
        self._beat.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._beat is not None
        await self._beat.stop()
        try:
            self.completed = await self._ask(self.complete_request(error), CompletedAnswer)
        except AdjournError as refused:
            if error is None:
                raise
            # What went wrong inside comes first.
            error.add_note(f"adjourn: the completion of session {self.session_id} was not taken: {refused}")

    async def _heartbeat(self) -> float | None:
        """Seconds until the next; None where no more are taken, and only the completion is left to say."""
        try:
            await self._ask(self.heartbeat_request(), object, again=False)
        except (SessionEnded, NotFound):
            return None
        except AdjournError:
            return self.beat_s / 4  # the lease is running
        return self.heard()
