"""Events out: each destination follows the log with cursors of its own; none can slow, block or re-send for another."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from adjourn.clock import Clock
from adjourn.database import LEASE_MS, Database, Fence
from adjourn.delivery import pauses
from adjourn.delivery.channel import Channel, ChannelStats
from adjourn.delivery.conservation import Balance, balances, consumer_of
from adjourn.delivery.follow_service import Follower
from adjourn.delivery.gate import GateState
from adjourn.delivery.held import waiting
from adjourn.delivery.known import Register, forget, register_all
from adjourn.delivery.latency import Latency
from adjourn.delivery.send_service import Sender
from adjourn.delivery.standing import Standing, lease_of, led, note_outage, outages
from adjourn.delivery.standing_service import Standings
from adjourn.errors import AdjournError, ConfigInvalid, Fenced, Unavailable
from adjourn.eventlog import get_logger
from adjourn.events import StoredEvent
from adjourn.log import Lease, Leases, Log
from adjourn.tracing import OFF, Tracing

_log = get_logger("adjourn.delivery")

PAUSES_EVERY_S = 1.0
ABANDONED_EVERY = 5
"""Looks at the pauses for one at what killed nodes have left."""
GIVE_BACK_S_MAX = 5.0
"""Beyond the time that a stop may take; a lease that is not given back ends by itself."""


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
        self._changing = asyncio.Lock()
        self._stopped = False
        self._paused: Mapping[str, str] = {}
        self._seeing = asyncio.Lock()
        self._gone_now: dict[str, str] = {}
        """Destinations that want no more events, until their pause is written down."""
        self._pausing: set[asyncio.Task[None]] = set()
        self._leading: dict[str, Lease] = {}
        self._noted: dict[str, tuple[Lease, str]] = {}
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
        await self._see_pauses()
        for sender in self._senders.values():
            self._start(sender)
        self._governor = asyncio.create_task(self._govern(), name="delivery-pauses")

    async def stop(self, timeout_s: float) -> None:
        """Let each destination finish the batch that it is sending; after the timeout it is cut off, and that batch is
        sent again at the next start. A change that is under way ends too. Idempotent."""
        self._stopped = True
        if self._governor is not None:
            self._governor.cancel()
            await asyncio.gather(self._governor, return_exceptions=True)
        await self._end(list(self._senders.values()), timeout_s)
        async with self._changing:  # what a change waited for has ended, and it starts nothing any more
            await self._close(list(self._senders.values()))
        await asyncio.gather(*self._pausing, return_exceptions=True)

    async def reconfigure(self, channels: Sequence[Channel], known: Mapping[str, int | None], timeout_s: float) -> None:
        """Deliver to these from now on. What did not change (the same Channel) is not touched; the others finish what
        they are sending. Raises what the database raises, before anything has changed, and Unavailable once the node
        is being stopped."""
        async with self._changing:
            self._require_not_stopped()
            await self._database.write(register_all, self._register, known, self._database.partitions)
            await self._see_pauses()
            self._require_not_stopped()
            kept = {id(channel) for channel in channels}
            old = [sender for sender in self._senders.values() if id(sender.channel) not in kept]
            await self._end(old, timeout_s)
            await self._close(old)
            self._require_not_stopped()
            self._known = known
            self._replace(old, channels)

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
        await self._see_pauses()

    async def resume(self, name: str) -> bool:
        """Whether it was paused. Raises NotFound."""
        await asyncio.gather(*self._pausing, return_exceptions=True)
        was_paused = await self._database.write(pauses.resume, name)
        await self._see_pauses()
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

    def _replace(self, old: Sequence[Sender], channels: Sequence[Channel]) -> None:
        for sender in old:
            del self._senders[sender.channel.name]
        counted = {sender.channel.name: sender.stats for sender in old}
        fresh = [self._sender(channel) for channel in channels if channel.name not in self._senders]
        for sender in fresh:
            sender.stats = counted.get(sender.channel.name, sender.stats)  # its counters go on, as counters must
            sender.stats.waiting = ""
        self._senders |= {sender.channel.name: sender for sender in fresh}
        self._obey(self._paused)
        for sender in fresh:
            self._start(sender)

    async def _end(self, senders: Sequence[Sender], timeout_s: float) -> None:
        for sender in senders:
            sender.stopping.set()
        tasks = [task for sender in senders if (task := self._tasks.get(sender.channel.name)) is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _close(self, senders: Sequence[Sender]) -> None:
        for sender in senders:
            if self._tasks.pop(sender.channel.name, None) is None:
                continue
            try:
                await sender.channel.destination.close()
            except Exception as error:  # the others are closed all the same, and what replaces it is started
                _log.warning("destination_not_closed", destination=sender.channel.name, error=str(error))

    def _require_not_stopped(self) -> None:
        if self._stopped:
            raise Unavailable("this server is stopping; nothing was reloaded: it reads its settings when it starts")

    async def _run(self, sender: Sender) -> None:
        """While this node holds the destination's lease, follow every partition; when it is lost, stop at once."""
        name = sender.channel.name
        held: Lease | None = None
        try:
            while not sender.stopping.is_set():
                until_s = self._clock.monotonic() + _ours_s()  # from the asking: the answer may come late
                lease = await self._take(lease_of(name))
                if lease is None:
                    await sender.pause(1.0)
                    continue
                held = lease
                if self._clock.monotonic() < until_s:
                    await self._lead(sender, lease, until_s)
        finally:
            await self._give_back(name, held)

    async def _lead(self, sender: Sender, lease: Lease, until_s: float) -> None:
        name = sender.channel.name
        self._leading[name] = lease
        following = [
            asyncio.create_task(self._follower(sender, partition, lease).run())
            for partition in range(self._database.partitions)
        ]
        try:
            await self._hold(lease, following, until_s)
        finally:
            del self._leading[name]
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)

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

    async def _hold(self, lease: Lease, following: Sequence[asyncio.Task[None]], until_s: float) -> None:
        """Renew the lease until it is lost, cannot be renewed in time, or the work has ended: what is being finished
        while the destination is stopped is as much this node's alone."""
        while (await asyncio.wait(following, timeout=self._renew_in_s(until_s)))[1]:
            asked_s = self._clock.monotonic()
            renewed = None
            with suppress(TimeoutError):  # a database that does not answer keeps nobody from taking over
                async with asyncio.timeout(max(0.0, until_s - asked_s)):
                    renewed = await self._take(lease.name)
            if renewed is not None and renewed.epoch == lease.epoch:
                until_s = asked_s + _ours_s()
            elif renewed is not None or self._clock.monotonic() >= until_s:
                return

    def _renew_in_s(self, until_s: float) -> float:
        return max(0.0, min(LEASE_MS / 4000, until_s - self._clock.monotonic()))

    async def _give_back(self, name: str, held: Lease | None) -> None:
        """Whoever is next notes what it finds; if nobody is, nothing of an outage stays."""
        try:
            async with asyncio.timeout(GIVE_BACK_S_MAX):
                if held is not None:
                    await self._note(name, "", held)
                await self._leases.release(lease_of(name))
        except Fenced:
            return  # it is another's already
        except Exception as error:  # it is taken over when its counter stands still
            _log.warning("lease_not_released", lease=lease_of(name), error=str(error))

    # --- pauses --------------------------------------------------------------------------------------------------

    async def _govern(self) -> None:
        """See what other nodes and commands have paused and resumed, and let them see what is away."""
        for turn in itertools.count():
            await asyncio.sleep(PAUSES_EVERY_S)
            try:
                await self._see_pauses()
                await self._note_outages()
                if turn % ABANDONED_EVERY == 0:
                    await self._end_abandoned()
            except AdjournError:
                continue  # the database is away, and with it every delivery
            except Exception:  # a defect of ours: pauses are seen all the same
                _log.exception("pauses_not_seen")

    async def _note_outages(self) -> None:
        for name, lease in list(self._leading.items()):
            if self._leading.get(name) != lease:
                continue  # given back meanwhile: nothing may be noted behind that
            sender = self._senders[name]
            reason = "" if sender.gate.paused is not None else sender.stats.waiting
            if self._noted.get(name) != (lease, reason):
                await self._note(name, reason, lease)
                self._noted[name] = lease, reason

    async def _note(self, name: str, reason: str, lease: Lease) -> None:
        now_ms, fence = self._clock.wall_ms(), Fence(lease.name, lease.epoch)
        await self._database.write(note_outage, name, reason, now_ms, fence=fence)

    async def _end_abandoned(self) -> None:
        """A node that was killed leaves its leases and what it noted. Where another delivers now, that one sees to it;
        where nobody does any more, it would be said for ever that somebody does."""
        if self._changing.locked():
            return
        async with self._changing:  # nothing is started meanwhile that would take the same lease
            left = await self._database.read(led) | (await self._database.read(outages)).keys()
            for name in sorted(left - self._senders.keys()):
                lease = await self._leases.take(lease_of(name))
                if lease is not None:
                    await self._give_back(name, lease)

    async def _see_pauses(self) -> None:
        """One look at a time, so that none is obeyed after one that began later: what was paused or resumed here
        stands."""
        async with self._seeing:
            self._obey(await self._database.read(pauses.paused))

    def _obey(self, paused: Mapping[str, str]) -> None:
        self._paused = paused
        for name, sender in self._senders.items():
            sender.paused(paused.get(name, self._gone_now.get(name)))

    def _gone(self, name: str, reason: str) -> None:
        self._gone_now[name] = reason
        self._obey(self._paused)
        _log.error("destination_gone", destination=name, reason=reason)
        task = asyncio.create_task(self._keep_paused(name, reason))
        self._pausing.add(task)
        task.add_done_callback(self._pausing.discard)

    async def _keep_paused(self, name: str, reason: str) -> None:
        try:
            await self._database.write(pauses.pause, name, reason, self._clock.wall_ms())
            async with self._seeing:  # a look that began before does not know of it
                self._paused = {name: reason, **self._paused}
        except AdjournError as error:  # it will say so again
            _log.warning("pause_not_kept", destination=name, error=error.message)
        finally:
            self._gone_now.pop(name, None)

    def _count(self, name: str, delivered: Sequence[StoredEvent], dead: int) -> None:
        stats = self._senders[name].stats
        stats.success += len(delivered)
        stats.failure += dead
        if self._on_delivered is not None and delivered:
            self._on_delivered(delivered)


def _ours_s() -> float:
    """For so long after it was asked for, a lease is believed in."""
    return 7 * LEASE_MS / 8000
