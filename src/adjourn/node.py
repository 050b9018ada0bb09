"""A node: one Adjourn process over a database, put together from its settings. No logic of its own.

`async with Node(settings) as node:` opens the database, follows the log with every enabled destination, and keeps
house. The HTTP server is a node with routes; `Runtime` is one in a thread, with a spool and a pump.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

import msgspec

from adjourn import channels
from adjourn.clock import Clock, SystemClock
from adjourn.completion import quarantine
from adjourn.completion.dedupe import judge
from adjourn.completion.hashes import event_id_hash
from adjourn.completion.otlp_service import Traces
from adjourn.completion.pump_service import KeepTorn, Send
from adjourn.completion.redact import redactor_of
from adjourn.completion.results import Result, conflicting
from adjourn.completion.service import Ingest, IngestSettings
from adjourn.database import LEASE_MS, Reader, Tx
from adjourn.databases.choose import database_for
from adjourn.databases.laned import LanedDatabase
from adjourn.delivery import records
from adjourn.delivery.channel import Channel
from adjourn.delivery.held import forget_letters, give_up
from adjourn.delivery.letters_service import DeadLetters
from adjourn.delivery.service import Delivery
from adjourn.delivery.transform import TransformCallable
from adjourn.errors import AdjournError, ConfigInvalid, NotFound
from adjourn.eventlog import get_logger
from adjourn.events import StoredEvent
from adjourn.ids import new_id
from adjourn.logs import upkeep
from adjourn.logs.append import Conflict, SqlAppender
from adjourn.logs.index import index
from adjourn.logs.leases import SqlLeases, this_process
from adjourn.logs.sql import SqlLog, register
from adjourn.prices import PriceTable
from adjourn.redaction_rules import parse_rule
from adjourn.roster import runners_of
from adjourn.security.service import Keys
from adjourn.sessions.service import Sessions
from adjourn.sessions.watched_service import WatchedSessions
from adjourn.settings import Settings
from adjourn.talk import means_of
from adjourn.tracing import tracing_of

_log = get_logger("adjourn.node")

RETAIN_EVERY_S = 10.0
COMPACT_PAUSE_S_MAX = 0.25
COMPACT_S_MAX = LEASE_MS / 4000
"""Then the lease is renewed, and retention and the index have their turn: under load there is always more to merge."""
DAY_MS = 86_400_000
MB = 1_000_000


RELOADABLE = ("routing", "logging")
"""Sections that `reconfigure` may change."""


class Reconfigured(msgspec.Struct, frozen=True):
    """Names of destinations: made anew, left as they were, and not delivered to any more."""

    started: list[str]
    kept: list[str]
    stopped: list[str]


class Node:
    """Everything that one process runs. Attributes are ready after `open`."""

    database: LanedDatabase
    log: SqlLog
    ingest: Ingest
    keys: Keys
    delivery: Delivery
    dead_letters: DeadLetters
    watched: WatchedSessions
    sessions: Sessions
    traces: Traces

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        on_delivered: Callable[[Sequence[StoredEvent]], None] | None = None,
        transforms: Mapping[str, TransformCallable] | None = None,
    ) -> None:
        """`transforms`: functions that destinations may name as theirs."""
        self.settings = settings
        self.prices = PriceTable()
        self.clock = clock or SystemClock()
        self._on_delivered = on_delivered
        self._transforms = dict(transforms or {})
        self._reconfiguring = asyncio.Lock()
        self._secret = b""
        self._upkeep: asyncio.Task[None] | None = None
        self._running: list[Delivery | WatchedSessions | Sessions] = []
        """What is to be stopped, the last first."""
        self._opened = False
        self._closed = False

    async def open(self) -> None:
        """Raises ConfigInvalid, ExtraMissing, Unavailable, DatabaseTooNew, DatabaseCorrupt. Nothing is left running
        then."""
        settings = self.settings
        running = channels.channels_of(settings, self._transforms, self._installation)
        self._tracing = tracing_of(settings.tracing.enabled)
        self.database = database_for(
            settings.database_url,
            durability=settings.database.durability,
            lanes=settings.database.lanes,
            readers=settings.database.readers,
            queue_events_max=settings.database.queue_events_max,
            write_timeout_ms=settings.database.write_timeout_ms,
        )
        self.log = SqlLog(self.database, self.clock, id_hash=self._id_hash)
        self.appender = SqlAppender(
            judge=judge,
            keep=_keep_conflicts,
            window_s=settings.validation.dedupe_window_s,
            window_memory_bytes=settings.validation.dedupe_memory_mb * MB,
            clock=self.clock,
            on_commit=self.log.announce,
            on_discard=self.log.distrust,
        )
        self._opened = True
        await self.database.open(self.appender)
        self._secret = await self.database.read(_secret)
        self.keys = Keys(self.database, self.clock, required=settings.validation.require_authentication)
        self.ingest = Ingest(self.database, self.log, self._ingest_settings(), self.prices, self.clock, self._tracing)
        try:
            await self._start(running)
        except BaseException:
            await self._stop(lambda: 1.0)
            raise

    async def _start(self, running: Sequence[Channel]) -> None:
        settings = self.settings
        await self._start_delivery(running)
        self.dead_letters = DeadLetters(self.database, self.clock)
        self.watched = WatchedSessions(
            self.database,
            self._leases,
            self.clock,
            settings.sessions,
            examine=self.ingest.examine,
            take_if=self.ingest.take_if,
            find_all=self.log.find_all,
        )
        self._running.append(self.watched)
        await self.watched.start()
        await self._start_sessions()
        self.traces = Traces(self.database, self.clock, settings.otlp, self.ingest, self.prices)
        self.traces.start()
        self._upkeep = asyncio.create_task(self._keep_house(), name="upkeep")

    async def close(self, timeout_s: float | None = None) -> None:
        """Finish what was begun, bounded by `server.drain_ms_max`; what is not delivered by then is at the next start.
        Idempotent, complete on return."""
        if self._closed:
            return
        self._closed = True
        bound_s = self.settings.server.drain_ms_max / 1000 if timeout_s is None else timeout_s
        until_s = self.clock.monotonic() + bound_s

        def left_s() -> float:
            return max(0.5, until_s - self.clock.monotonic())

        await self._stop(left_s)
        if self._opened:
            await self.database.close(left_s())

    async def _stop(self, left_s: Callable[[], float]) -> None:
        """All that was started, the last first. Idempotent."""
        upkeep, self._upkeep = self._upkeep, None
        if upkeep is not None:
            upkeep.cancel()
            await asyncio.gather(upkeep, return_exceptions=True)
            await self.traces.stop()
        while self._running:
            await self._running.pop().stop(left_s())
        if upkeep is not None:
            await self._release_upkeep(left_s())

    async def _release_upkeep(self, bound_s: float) -> None:
        try:
            async with asyncio.timeout(bound_s):
                await self._leases.release("upkeep")
        except (AdjournError, TimeoutError) as error:
            # The database is away. The lease ends by itself, and whatever happens the database must be closed.
            _log.warning("lease_not_released", error=str(error))

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def reconfigure(self, settings: Settings) -> Reconfigured:
        """Deliver by these settings from now on, whole or not at all; destinations that did not change go on
        undisturbed. Raises ConfigInvalid, also where something else has changed, which needs a restart."""
        async with self._reconfiguring:
            old = self.settings
            fixed = [name for name in old.__struct_fields__ if name not in RELOADABLE]
            if changed := [name for name in fixed if getattr(old, name) != getattr(settings, name)]:
                raise ConfigInvalid(
                    f"{', '.join(changed)} changed, which needs a restart; nothing was reloaded: restart, or change "
                    f"only {' and '.join(RELOADABLE)}",
                    path=changed[0],
                )
            before = self.delivery.channels
            running = channels.channels_of(settings, self._transforms, self._installation, (old, before))
            await self.delivery.reconfigure(running, _known(settings), settings.server.drain_ms_max / 1000)
            self.settings = settings
            kept = [one.name for one in running if any(one is other for other in before)]
            said = Reconfigured(
                started=[one.name for one in running if one.name not in kept],
                kept=kept,
                stopped=[one.name for one in before if one.name not in {other.name for other in running}],
            )
            _log.info("settings_reloaded", started=said.started, kept=said.kept, stopped=said.stopped)
            return said

    async def probe(self, name: str) -> None:
        """Reach a destination now, by a connection of its own; enabled or not, paused or not. Raises NotFound, and
        DestinationOutage with what is wrong."""
        for one in self.settings.routing.destinations:
            if one.name == name:
                destination = channels.destination_of(self.settings, one, self._installation)
                try:
                    await destination.open()
                    await destination.probe()
                finally:
                    await destination.close()
                return
        raise NotFound(f"there is no destination {name[:100]} in the settings; list them with: adjourn config show")

    def spool_sink(self, tenant: str) -> tuple[Send, KeepTorn]:
        """What a pump needs to move a spool's events into this node's log, as events of `tenant`."""

        async def send(producer: str, raws: Sequence[bytes], sequences: Sequence[int]) -> Sequence[Result]:
            return await self.ingest.take(tenant, raws, source="spool", producer=producer, sequences=sequences)

        async def keep_torn(producer: str, torn: Sequence[tuple[bytes, str]]) -> None:
            await self.database.write(_keep_torn, tenant, self.clock.wall_ms(), producer, torn)

        return send, keep_torn

    # --- inside --------------------------------------------------------------------------------------------------

    def _ingest_settings(self) -> IngestSettings:
        validation = self.settings.validation
        return IngestSettings(
            secret=self._secret,
            dedupe_by=validation.dedupe_by,
            timestamp_ahead_ms_max=validation.timestamp_ahead_ms_max,
            sources=frozenset(self.settings.capture.sources),
            redact_for=redactor_of([parse_rule(rule) for rule in validation.redact], self._secret),
        )

    def _installation(self) -> str:
        """What others know this database by; it tells nothing of the secret."""
        return hashlib.blake2b(self._secret, digest_size=8, person=b"adjourn.install").hexdigest()

    def _id_hash(self, tenant: str, event_id: str) -> bytes:
        return event_id_hash(self._secret, tenant, event_id)

    async def _start_delivery(self, running: Sequence[Channel]) -> None:
        owner = this_process(new_id("node", self.clock.wall_ms()))
        self._leases = SqlLeases(self.database, self.clock, owner)
        self.delivery = Delivery(
            self.database,
            self.log,
            self._leases,
            self.clock,
            running,
            register=_register,
            known=_known(self.settings),
            in_hand=lambda: self.ingest.in_hand,
            on_delivered=self._on_delivered,
            tracing=self._tracing,
        )
        self._running.append(self.delivery)
        await self.delivery.start()

    async def _start_sessions(self) -> None:
        given = (self.database, self._leases, self.clock, self.prices, self.ingest, runners_of(self.settings))
        self.sessions = Sessions(means_of(self.settings, *given))
        self._running.append(self.sessions)
        await self.sessions.start()

    async def _keep_house(self) -> None:
        """Compaction, the index of ids and retention, on the one node that holds the lease."""
        positions = [0] * self.database.partitions
        renewed_s = retained_s = -LEASE_MS
        while True:
            await asyncio.sleep(self.settings.log.compact_interval_ms / 1000)
            now_s = self.clock.monotonic()
            try:
                if now_s - renewed_s >= LEASE_MS / 4000:
                    if await self._leases.take("upkeep") is None:
                        continue
                    renewed_s = now_s
                positions = [await self._compact(p, offset) for p, offset in enumerate(positions)]
                if now_s - retained_s >= min(RETAIN_EVERY_S, self.settings.log.compact_interval_ms / 100):
                    retained_s = now_s
                    await self._retain()
                for partition in range(self.database.partitions):
                    await index(self.database, partition)
            except AdjournError as error:
                _log.warning("upkeep_waits", error=error.message)
            except Exception:
                _log.exception("upkeep_failed")

    async def _compact(self, partition: int, offset: int) -> int:
        """Where to go on. A tenth of the time is enough, and nobody's event waits for more than one merge."""
        until_s = time.monotonic() + COMPACT_S_MAX / self.database.partitions
        while (began_s := time.monotonic()) < until_s:
            following = await upkeep.compact(self.database, partition, offset)
            if following == offset:
                break
            offset = following
            await asyncio.sleep(min(9 * (time.monotonic() - began_s), COMPACT_PAUSE_S_MAX))
        return offset

    async def _retain(self) -> None:
        for destination in self.settings.routing.destinations:
            if destination.retention_days is not None:
                kept_since_ms = self.clock.wall_ms() - int(destination.retention_days * DAY_MS)
                while await self.database.write(forget_letters, destination.name, kept_since_ms):
                    await asyncio.sleep(0)
                await self.database.write(records.forget, destination.name, kept_since_ms)
        log = self.settings.log
        gone = await self.log.retain(
            age_ms_max=None if log.retention_days is None else int(log.retention_days * DAY_MS),
            bytes_max=None if log.retention_mb is None else log.retention_mb * MB,
        )
        if gone:
            await self.database.write(records.forget_retained)
        while await self.database.write(give_up, self.clock.wall_ms()):
            await asyncio.sleep(0)


def _known(settings: Settings) -> dict[str, int | None]:
    return {d.name: d.drop_after_ms for d in settings.routing.destinations}


def _secret(reader: Reader) -> bytes:
    secret = reader.rows("SELECT secret FROM installation")[0][0]
    if not isinstance(secret, bytes):
        raise TypeError("installation.secret is not bytes")
    return secret


def _register(tx: Tx, consumer: str, partition: int, drop_after_ms: int | None) -> None:
    register(tx, consumer, partition, drop_after_ms=drop_after_ms)


def _keep_conflicts(tx: Tx, conflicts: Sequence[Conflict]) -> None:
    quarantine.keep(tx, conflicting([(c.record, c.holder_offset) for c in conflicts]))


def _keep_torn(tx: Tx, tenant: str, now_ms: int, producer: str, torn: Sequence[tuple[bytes, str]]) -> None:
    quarantine.keep(
        tx,
        [
            quarantine.Quarantined(
                id=quarantine.quarantine_id(tenant, "spool_torn", line),
                tenant=tenant,
                received_ms=now_ms,
                code="spool_torn",
                path="",
                message=f"a line of spool {producer} is damaged ({why}); it was cut off by a crash or a full disk: "
                "compare it with the sender's own records",
                source="spool",
                state="held",
                body=line,
            )
            for line, why in torn
        ],
    )
