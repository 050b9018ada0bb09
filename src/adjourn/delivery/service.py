"""Events out: each destination follows the log with cursors of its own; none can slow, block or re-send for another."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from adjourn.clock import Clock
from adjourn.database import LEASE_MS, Database
from adjourn.delivery import pauses
from adjourn.delivery.channel import Channel, ChannelStats
from adjourn.delivery.conservation import Balance, balances, consumer_of
from adjourn.delivery.follow_service import Follower
from adjourn.delivery.gate import GateState
from adjourn.delivery.held import waiting
from adjourn.delivery.known import Register, forget, register_all
from adjourn.delivery.latency import Latency
from adjourn.delivery.send_service import Sender
from adjourn.delivery.standing import Standing, note_outage
from adjourn.delivery.standing_service import Standings
from adjourn.errors import AdjournError, ConfigInvalid
from adjourn.eventlog import get_logger
from adjourn.events import StoredEvent
from adjourn.log import Lease, Leases, Log
from adjourn.tracing import OFF, Tracing

_log = get_logger("adjourn.delivery")

PAUSES_EVERY_S = 1.0


class Delivery:
    def __init__(
        self,
        database: Database,
        log: Log,
        leases: Leases,
        clock: Clock,
        channels: Sequence[Channel],
        *,
        register: Register,
        known: Mapping[str, int | None],
        in_hand: Callable[[], int] = lambda: 0,
        on_delivered: Callable[[Sequence[StoredEvent]], None] | None = None,
        tracing: Tracing = OFF,
    ) -> None:
        """`known`: every configured destination and its `drop_after_ms`; disabled ones too: their backlog waits.
        `in_hand`: how many events this process is taking in now; it comes first."""
        self._database = database
        self._log = log
        self._leases = leases
        self._clock = clock
        self._register = register
        self._known = known
        self._in_hand = in_hand
        self._on_delivered = on_delivered
        self._tracing = tracing
        self._senders = {channel.name: self._sender(channel) for channel in channels}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._governor: asyncio.Task[None] | None = None
        self._pausing: set[asyncio.Task[None]] = set()
        self._leading: set[str] = set()
        self._noted: dict[str, str] = {}
        self._standings = Standings(database, log)

    @property
    def stats(self) -> Mapping[str, ChannelStats]:
        return {name: sender.stats for name, sender in self._senders.items()}

    @property
    def latency(self) -> Latency:
        """Of all destinations together."""
        return Latency.merged(stats.latency for stats in self.stats.values())

    @property
    def gates(self) -> Mapping[str, GateState]:
        """Of those that this node delivers to, unless another node does."""
        return {name: sender.gate.state for name, sender in self._senders.items()}

    @property
    def channels(self) -> Sequence[Channel]:
        """Those that this node delivers to."""
        return [sender.channel for sender in self._senders.values()]

    async def start(self) -> None:
        await self._database.write(register_all, self._register, self._known, self._database.partitions)
        self._obey(await self._database.read(pauses.paused))
        for sender in self._senders.values():
            self._start(sender)
        self._governor = asyncio.create_task(self._govern(), name="delivery-pauses")

    async def stop(self, timeout_s: float) -> None:
        """Let each destination finish the batch that it is sending; after the timeout it is cut off, and that batch is
        sent again at the next start. Idempotent."""
        if self._governor is not None:
            self._governor.cancel()
        await self._stop(list(self._senders.values()), timeout_s)
        await asyncio.gather(*self._pausing, return_exceptions=True)

    async def reconfigure(self, channels: Sequence[Channel], known: Mapping[str, int | None], timeout_s: float) -> None:
        """Deliver to these from now on. What did not change (the same Channel) is not touched; the others finish what
        they are sending. Raises what the database raises, before anything has changed."""
        await self._database.write(register_all, self._register, known, self._database.partitions)
        paused = await self._database.read(pauses.paused)
        self._known = known
        kept = {id(channel) for channel in channels}
        old = [sender for sender in self._senders.values() if id(sender.channel) not in kept]
        await self._stop(old, timeout_s)
        for sender in old:
            del self._senders[sender.channel.name]
        fresh = [self._sender(channel) for channel in channels if channel.name not in self._senders]
        counted = {sender.channel.name: sender.stats for sender in old}
        for sender in fresh:
            sender.stats = counted.get(sender.channel.name, sender.stats)  # its counters go on, as counters must
            sender.stats.waiting = ""
        self._senders |= {sender.channel.name: sender for sender in fresh}
        self._obey(paused)
        for sender in fresh:
            self._start(sender)

    async def drained(self) -> None:
        """Wait until every running destination has dealt with all that is in the log now, parked events included."""
        heads = await self._log.heads()
        for name in list(self._senders):
            for partition, head in enumerate(heads):
                while await self._log.cursor(consumer_of(name), partition) < head:
                    await asyncio.sleep(0.02)
            while await self._database.read(waiting, name):
                await asyncio.sleep(0.02)

    async def forget(self, name: str) -> None:
        """A destination that is configured nowhere any more: let retention pass its cursor. Raises NotFound, and
        ConfigInvalid while this node still lists it."""
        if name in self._known:
            raise ConfigInvalid(f"destination '{name}' is still configured; take it out of the settings first")
        await self._database.write(forget, name)

    async def pause(self, name: str, reason: str) -> None:
        """Deliver nothing there, on any node, until `resume`; its backlog waits. Raises NotFound."""
        await self._database.write(pauses.pause, name, reason, self._clock.wall_ms())
        self._obey(await self._database.read(pauses.paused))

    async def resume(self, name: str) -> bool:
        """Whether it was paused. Raises NotFound."""
        was_paused = await self._database.write(pauses.resume, name)
        self._obey(await self._database.read(pauses.paused))
        return was_paused

    async def balances(self) -> list[Balance]:
        return await self._database.read(balances)

    async def standings(self) -> list[Standing]:
        return await self._standings.read()

    # --- running destinations ------------------------------------------------------------------------------------

    def _sender(self, channel: Channel) -> Sender:
        return Sender(channel, self._clock, on_gone=self._gone, tracing=self._tracing)

    def _start(self, sender: Sender) -> None:
        name = sender.channel.name
        self._tasks[name] = asyncio.create_task(self._run(sender), name=f"deliver-{name}")

    async def _stop(self, senders: Sequence[Sender], timeout_s: float) -> None:
        for sender in senders:
            sender.stopping.set()
        tasks = [task for s in senders if (task := self._tasks.pop(s.channel.name, None)) is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for sender in senders:
            try:
                await sender.channel.destination.close()
            except Exception as error:  # the others are closed all the same, and what replaces it is started
                _log.warning("destination_not_closed", destination=sender.channel.name, error=str(error))

    async def _run(self, sender: Sender) -> None:
        """While this node holds the destination's lease, follow every partition; when it is lost, stop at once."""
        name = f"deliver/{sender.channel.name}"
        while not sender.stopping.is_set():
            lease = await self._take(name)
            if lease is None:
                await sender.pause(1.0)
                continue
            self._leading.add(sender.channel.name)
            following = [
                asyncio.create_task(self._follower(sender, partition, lease).run())
                for partition in range(self._database.partitions)
            ]
            try:
                await self._hold(sender, lease, following)
            finally:
                self._leading.discard(sender.channel.name)
                self._noted.pop(sender.channel.name, None)
                for task in following:
                    task.cancel()
                await asyncio.gather(*following, return_exceptions=True)
        await self._give_back(name)

    def _follower(self, sender: Sender, partition: int, lease: Lease) -> Follower:
        name = sender.channel.name
        return Follower(
            self._database,
            self._log,
            self._clock,
            sender,
            partition,
            lease,
            in_hand=self._in_hand,
            on_delivered=lambda delivered, dead: self._count(name, delivered, dead),
        )

    async def _take(self, name: str) -> Lease | None:
        try:
            return await self._leases.take(name)
        except Exception as error:
            _log.warning("lease_not_renewed", lease=name, error=str(error))
            return None

    async def _hold(self, sender: Sender, lease: Lease, following: Sequence[asyncio.Task[None]]) -> None:
        """Renew the lease until it is lost, cannot be renewed in time, or the work has ended."""
        held_until = self._clock.monotonic() + LEASE_MS / 1000
        while not all(task.done() for task in following):
            await asyncio.wait(following, timeout=LEASE_MS / 4000)
            if sender.stopping.is_set():
                await asyncio.wait(following)
                return
            renewed = await self._take(lease.name)
            now = self._clock.monotonic()
            if renewed is not None and renewed.epoch == lease.epoch:
                held_until = now + LEASE_MS / 1000
            elif renewed is not None or now > held_until - LEASE_MS / 2000:
                return

    async def _give_back(self, name: str) -> None:
        try:
            await self._leases.release(name)
        except Exception as error:  # it is taken over when its counter stands still
            _log.warning("lease_not_released", lease=name, error=str(error))

    # --- pauses --------------------------------------------------------------------------------------------------

    async def _govern(self) -> None:
        """See what other nodes and commands have paused and resumed, and let them see what is away."""
        while True:
            await asyncio.sleep(PAUSES_EVERY_S)
            try:
                self._obey(await self._database.read(pauses.paused))
                await self._note_outages()
            except AdjournError:
                continue  # the database is away, and with it every delivery

    async def _note_outages(self) -> None:
        for name in list(self._leading & self._senders.keys()):
            gate = self._senders[name].gate
            reason = "" if gate.paused is not None else self._senders[name].stats.waiting
            if self._noted.get(name) != reason:
                await self._database.write(note_outage, name, reason, self._clock.wall_ms())
                self._noted[name] = reason

    def _obey(self, paused: Mapping[str, str]) -> None:
        for name, sender in self._senders.items():
            sender.paused(paused.get(name))

    def _gone(self, name: str, reason: str) -> None:
        self._senders[name].paused(reason)
        _log.error("destination_gone", destination=name, reason=reason)
        task = asyncio.create_task(self._keep_paused(name, reason))
        self._pausing.add(task)
        task.add_done_callback(self._pausing.discard)

    async def _keep_paused(self, name: str, reason: str) -> None:
        try:
            await self._database.write(pauses.pause, name, reason, self._clock.wall_ms())
        except AdjournError as error:  # it will say so again
            _log.warning("pause_not_kept", destination=name, error=error.message)

    def _count(self, name: str, delivered: Sequence[StoredEvent], dead: int) -> None:
        stats = self._senders[name].stats
        stats.success += len(delivered)
        stats.failure += dead
        now_ms = self._clock.wall_ms()
        for received_ms, count in Counter([event.received_ms for event in delivered]).items():
            stats.latency.add(now_ms - received_ms, count)
        if self._on_delivered is not None and delivered:
            self._on_delivered(delivered)
