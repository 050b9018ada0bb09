"""Sessions that run elsewhere: begin, hear, complete. What falls silent is abandoned by `watch_service`.

Completions are handed to the functions through which all events come in, so that they are validated, priced and
deduplicated like any other.
"""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial

from adjourn.clock import Clock
from adjourn.database import Database, Tx
from adjourn.errors import BodyInvalid, SessionEnded, SessionExists, TooBusy
from adjourn.events import ID_LENGTH_MAX, Record
from adjourn.ids import new_id
from adjourn.log import Leases
from adjourn.sessions import watched as rows
from adjourn.sessions.watch import (
    LEASE_MS_MIN,
    Begin,
    Complete,
    Heartbeat,
    Key,
    State,
    Watched,
    begun_event,
    completed_event,
    fingerprint,
    usage_event,
    usage_in,
)
from adjourn.sessions.watch_service import SOURCE, Examine, FindAll, TakeIf, Watch
from adjourn.sessions.watched import Beat
from adjourn.sessions.watched_answers import Ended, already, begun_before, checked, not_found, stands, still, told
from adjourn.settings import SessionsSettings

GATHER_S = 0.1
"""Heartbeats of so long are one write."""
COUNT_EVERY_S = 1.0
BEGUN_BYTES_MAX = 65_536
ATTEMPT_MAX = 2**53


class WatchedSessions:
    def __init__(
        self,
        database: Database,
        leases: Leases,
        clock: Clock,
        settings: SessionsSettings,
        *,
        examine: Examine,
        take_if: TakeIf,
        find_all: FindAll,
    ) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._examine = examine
        self._take_if = take_if
        self._heard: dict[Key, tuple[Beat, asyncio.Future[int | None]]] = {}
        self._writing: set[asyncio.Task[None]] = set()
        self._open: dict[str, int] = {}
        self._counted_s: float | None = None
        self.watch = Watch(
            database,
            leases,
            clock,
            settings.retention_days,
            take_if=take_if,
            find_all=find_all,
            heard=self._heard.__contains__,
        )

    async def start(self) -> None:
        self.watch.start()

    async def stop(self, timeout_s: float) -> None:
        """Idempotent. Another node may watch at once."""
        await asyncio.gather(*self._writing, return_exceptions=True)
        await self.watch.stop(timeout_s)

    # --- what clients ask ----------------------------------------------------------------------------------------

    async def begin(self, tenant: str, begin: Begin, *, idempotency_key: str = "") -> tuple[Watched, bool]:
        """(the session, whether it was begun by this call: false when the call was sent before). Returns when it is
        durable. Raises BodyInvalid, EventInvalid, SessionExists, TooBusy."""
        lease_ms = self._settings.lease_ms if begin.lease_ms is None else begin.lease_ms
        if not LEASE_MS_MIN <= lease_ms <= self._settings.lease_ms_max:
            fact = f"lease_ms is {lease_ms}; a lease lasts {LEASE_MS_MIN} to {self._settings.lease_ms_max} ms"
            raise BodyInvalid(f"{fact}: give that, or raise sessions.lease_ms_max", path="lease_ms")
        if not 1 <= begin.attempt <= ATTEMPT_MAX:
            raise BodyInvalid(f"attempt is {begin.attempt}; count attempts from 1", path="attempt")
        now_ms = self._clock.wall_ms()
        session_id = _new_session_id(tenant, idempotency_key, now_ms) if begin.session_id is None else begin.session_id
        event = begun_event(session_id, begin, now_ms)
        if len(event) > BEGUN_BYTES_MAX:
            raise BodyInvalid(f"the body has more than {BEGUN_BYTES_MAX} bytes; send the bulk with the completion")
        record = checked(await self._examine(tenant, event))
        token = hashlib.blake2b(idempotency_key.encode(), digest_size=16).digest() if idempotency_key else b""
        new = Watched(
            tenant=tenant,
            session_id=session_id,
            attempt=begin.attempt,
            state="open",
            token=token or fingerprint(begin),
            lease_ms=lease_ms,
            beat=0,
            begun=record.body,  # redacted already, and identified
            usage=b"",
            event_id=record.event_id,
            began_ms=now_ms,
            heard_ms=now_ms,
        )
        room = await self._room(tenant) > 0
        standing, fresh = await self._database.write(rows.begin, new, room, key=session_id)
        if standing is None:
            fact = f"tenant {tenant} has {self._settings.open_max} open sessions, as many as it may"
            raise TooBusy(f"{fact}; complete some, or raise sessions.open_max", retry_after_ms=1000)
        if fresh:
            self._open[tenant] = self._open.get(tenant, 0) + 1
        elif (standing.attempt, standing.token) != (new.attempt, new.token):
            raise SessionExists(begun_before(standing))
        return standing, fresh

    async def heartbeat(self, tenant: str, session_id: str, heartbeat: Heartbeat) -> int:
        """How long its lease lasts from now, in milliseconds. Returns when it is durable. Raises NotFound,
        SessionEnded, EventInvalid."""
        usage = b""
        if heartbeat.usage:
            record = checked(await self._examine(tenant, usage_event(session_id, heartbeat.usage)))
            usage = usage_in(record.body)  # redacted already
        key = _key(tenant, session_id, heartbeat.attempt)
        lease_ms = await asyncio.shield(self._hear(Beat(key, usage)))
        if lease_ms is None:
            watched = await self._find(key)
            raise SessionEnded(f"{stands(watched)}; it takes no more heartbeats{still(watched)}")
        return lease_ms

    async def complete(self, tenant: str, session_id: str, complete: Complete) -> Ended:
        """Returns when it is durable. Raises NotFound, SessionEnded where another completion stands, EventInvalid (the
        session stays open, what was sent is in quarantine), EventConflict."""
        key = _key(tenant, session_id, complete.attempt)
        while True:
            watched = await self._find(key)
            now_ms = self._clock.wall_ms()
            if watched.ended_ms is not None and watched.state != "abandoned":
                return already(watched, fingerprint(complete))
            change = partial(_completed, watched=watched, now_ms=now_ms, content=fingerprint(complete))
            taken = await self._take_if(tenant, completed_event(watched, complete, now_ms), change, source=SOURCE)
            if taken is not None:
                return told(taken, watched)
            # It was completed or abandoned since it was looked at.

    async def get(self, tenant: str, session_id: str, attempt: int | None = None) -> Watched:
        """Without `attempt`, the newest run. Raises NotFound."""
        if attempt is not None:
            return await self._find(_key(tenant, session_id, attempt))
        found = await self._database.read(rows.latest, tenant, _key(tenant, session_id, 1).session_id)
        if found is None:
            raise not_found(session_id)
        return found

    async def list(
        self, tenant: str, *, state: State | None = None, after: Key | None = None, limit: int
    ) -> list[Watched]:
        return await self._database.read(rows.select, tenant, state=state, after=after, limit=limit)

    async def count_open(self) -> int:
        """Of all tenants, as it is now."""
        return sum((await self._database.read(rows.count_open)).values())

    # --- inside --------------------------------------------------------------------------------------------------

    async def _find(self, key: Key) -> Watched:
        found = await self._database.read(rows.find, key)
        if found is None:
            raise not_found(key.session_id, key.attempt)
        return found

    async def _room(self, tenant: str) -> int:
        """How many sessions more the tenant may begin. Other nodes' are seen within `COUNT_EVERY_S`."""
        now_s = self._clock.monotonic()
        if self._counted_s is None or now_s - self._counted_s >= COUNT_EVERY_S:
            self._counted_s = now_s
            self._open = await self._database.read(rows.count_open)
        return self._settings.open_max - self._open.get(tenant, 0)

    # --- hearing -------------------------------------------------------------------------------------------------

    def _hear(self, beat: Beat) -> asyncio.Future[int | None]:
        """Gathered with others; the lease in milliseconds, or None where nothing of that name is open."""
        waiting = self._heard.get(beat.key)
        if waiting is not None:
            waiting[0].usage = beat.usage or waiting[0].usage
            return waiting[1]
        loop = asyncio.get_running_loop()
        if not self._heard:
            loop.call_later(GATHER_S, self._write_heard)
        future: asyncio.Future[int | None] = loop.create_future()
        self._heard[beat.key] = beat, future
        return future

    def _write_heard(self) -> None:
        heard = dict(self._heard)
        self._heard.clear()
        parts: dict[int, dict[Key, tuple[Beat, asyncio.Future[int | None]]]] = {}
        for key, each in heard.items():
            parts.setdefault(self._database.partition_of(key.session_id), {})[key] = each
        for part in parts.values():
            task = asyncio.ensure_future(self._write_part(part))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _write_part(self, part: dict[Key, tuple[Beat, asyncio.Future[int | None]]]) -> None:
        beats = [beat for beat, _ in part.values()]
        try:
            kept = await self._database.write(
                rows.beat, beats, self._clock.wall_ms(), key=beats[0].key.session_id, weight=len(beats)
            )
        except Exception as error:
            for _, future in part.values():
                future.set_exception(error)
                future.exception()  # whoever waited for it may have hung up
            return
        for key, (_, future) in part.items():
            future.set_result(kept.get(key))


def _completed(tx: Tx, record: Record, *, watched: Watched, now_ms: int, content: bytes) -> bool:
    if watched.state == "open":
        return rows.end(tx, watched.key, "completed", now_ms=now_ms, content=content)
    return rows.end(tx, watched.key, "amended", now_ms=now_ms, content=content, amendment_id=record.event_id)


def _key(tenant: str, session_id: str, attempt: int) -> Key:
    """What no database could look up was never begun, and must not spoil the write that it shares with others.
    Raises NotFound."""
    if not 1 <= attempt <= ATTEMPT_MAX or "\0" in session_id or len(session_id) > ID_LENGTH_MAX:
        raise not_found(session_id, attempt)
    return Key(tenant, session_id, attempt)


def _new_session_id(tenant: str, idempotency_key: str, now_ms: int) -> str:
    """The same call gets the same id, however often it is sent."""
    if not idempotency_key:
        return new_id("sess", now_ms)
    text = f"{len(tenant)}:{tenant}{idempotency_key}"
    return f"sess_{hashlib.blake2b(text.encode(), digest_size=15, person=b'adjourn.begin').hexdigest()}"
