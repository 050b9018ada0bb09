"""A node: one Adjourn process over a database, put together from its settings. No logic of its own.

`async with Node(settings) as node:` opens the database, follows the log with every enabled destination, and keeps
house. The HTTP server is a node with routes; `Runtime` is one in a thread, with a spool and a pump.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from adjourn.clock import Clock, SystemClock
from adjourn.completion import quarantine
from adjourn.completion.dedupe import judge
from adjourn.completion.pump_service import KeepTorn, Send
from adjourn.completion.service import Ingest, IngestSettings, Result, conflicting
from adjourn.completion.validate import event_id_hash
from adjourn.database import LEASE_MS, Reader, Tx
from adjourn.databases.choose import database_for
from adjourn.databases.laned import LanedDatabase
from adjourn.delivery import records
from adjourn.delivery.channel import Channel
from adjourn.delivery.held import forget_letters
from adjourn.delivery.service import Delivery
from adjourn.destination import Destination
from adjourn.destinations.database import DatabaseDestination
from adjourn.destinations.logfile import LogfileDestination
from adjourn.errors import AdjournError, ConfigInvalid
from adjourn.eventlog import get_logger
from adjourn.events import StoredEvent
from adjourn.ids import new_id
from adjourn.logs import upkeep
from adjourn.logs.append import Conflict, SqlAppender
from adjourn.logs.leases import SqlLeases, this_process
from adjourn.logs.sql import SqlLog, register
from adjourn.prices import PriceTable
from adjourn.secret import reveal
from adjourn.security.service import Keys
from adjourn.settings import DestinationSettings, Settings

_log = get_logger("adjourn.node")

RETAIN_EVERY_S = 10.0
DAY_MS = 86_400_000
MB = 1_000_000


class Node:
    """Everything that one process runs. Attributes are ready after `open`."""

    database: LanedDatabase
    log: SqlLog
    ingest: Ingest
    keys: Keys
    delivery: Delivery

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock | None = None,
        on_delivered: Callable[[Sequence[StoredEvent]], None] | None = None,
    ) -> None:
        self.settings = settings
        self.prices = PriceTable()
        self.clock = clock or SystemClock()
        self._on_delivered = on_delivered
        self._secret = b""
        self._upkeep: asyncio.Task[None] | None = None
        self._opened = False
        self._closed = False

    async def open(self) -> None:
        """Raises ConfigInvalid, Unavailable, DatabaseTooNew, DatabaseCorrupt. Nothing is left running then."""
        settings = self.settings
        channels = [channel_of(settings, d) for d in settings.routing.destinations if d.enabled]
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
        )
        self._opened = True
        await self.database.open(self.appender)
        self._secret = await self.database.read(_secret)
        self.keys = Keys(self.database, self.clock, required=settings.validation.require_authentication)
        self.ingest = Ingest(self.database, self.log, self._ingest_settings(), self.prices, self.clock)
        await self._start_delivery(channels)
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

        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.gather(self._upkeep, return_exceptions=True)
            await self.delivery.stop(left_s())
            await self._release_upkeep(left_s())
        if self._opened:
            await self.database.close(left_s())

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
        )

    def _id_hash(self, tenant: str, event_id: str) -> bytes:
        return event_id_hash(self._secret, tenant, event_id)

    async def _start_delivery(self, channels: Sequence[Channel]) -> None:
        owner = this_process(new_id("node", self.clock.wall_ms()))
        self._leases = SqlLeases(self.database, self.clock, owner)
        self.delivery = Delivery(
            self.database,
            self.log,
            self._leases,
            self.clock,
            channels,
            register=_register,
            known={d.name: d.drop_after_ms for d in self.settings.routing.destinations},
            in_hand=lambda: self.ingest.in_hand,
            on_delivered=self._on_delivered,
        )
        await self.delivery.start()

    async def _keep_house(self) -> None:
        """Compaction and retention, on the one node that holds the lease."""
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
            except AdjournError as error:
                _log.warning("upkeep_waits", error=error.message)
            except Exception:
                _log.exception("upkeep_failed")

    async def _compact(self, partition: int, offset: int) -> int:
        while (following := await upkeep.compact(self.database, partition, offset)) != offset:
            offset = following
            await asyncio.sleep(0)
        return offset

    async def _retain(self) -> None:
        for destination in self.settings.routing.destinations:
            if destination.retention_days is not None:
                kept_since_ms = self.clock.wall_ms() - int(destination.retention_days * DAY_MS)
                await self.database.write(forget_letters, destination.name, kept_since_ms)
                await self.database.write(records.forget, destination.name, kept_since_ms)
        log = self.settings.log
        await self.log.retain(
            age_ms_max=None if log.retention_days is None else int(log.retention_days * DAY_MS),
            bytes_max=None if log.retention_mb is None else log.retention_mb * MB,
        )


def channel_of(settings: Settings, destination: DestinationSettings) -> Channel:
    return Channel(
        name=destination.name,
        type=destination.type,
        destination=destination_of(destination),
        sampling_rate=destination.sampling_rate,
        batch_size=destination.batch_size,
        attempts=settings.routing.attempts_of(destination),
        delay_ms=settings.routing.delay_ms_of(destination),
        delay_ms_max=settings.routing.retry_delay_ms_max,
    )


def destination_of(settings: DestinationSettings) -> Destination:
    """Raises ConfigInvalid for a type that this version loads but does not deliver to."""
    if settings.transform:
        raise ConfigInvalid(
            f"destination '{settings.name}' wants the transform '{settings.transform}', and this version delivers "
            "events as they are; take the transform out, or set enabled: false until it can",
            path="routing.destinations",
        )
    if settings.type == "database":
        return DatabaseDestination(
            name=settings.name, connection_string=reveal(settings.connection_string), table=settings.table
        )
    if settings.type == "logfile":
        return LogfileDestination(
            name=settings.name,
            path=settings.log_path or None,
            level=settings.log_level or None,
            rotate_bytes=settings.rotate_mb * MB,
            rotate_keep=settings.rotate_keep,
        )
    raise ConfigInvalid(
        f"destination '{settings.name}' is of type '{settings.type}', to which this version cannot deliver yet; "
        "use database or logfile, or set enabled: false, and its events wait for it",
        path="routing.destinations",
    )


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
