"""A node's own lease, under which it runs turns and holds runners open; and what dead nodes held, taken over.

The lease's epoch fences every write of a turn. A node that could not renew it in time stops its turns before others may
take them: whatever they still write finds another epoch in the lease and in the session's row."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from adjourn.database import LEASE_MS, Fence, Reader, Tx
from adjourn.errors import AdjournError, Fenced, Unavailable
from adjourn.eventlog import get_logger
from adjourn.log import Lease
from adjourn.sessions import rows, takeover
from adjourn.sessions.lifecycle import Ending
from adjourn.sessions.means import Means

_log = get_logger("adjourn.sessions")

PREFIX = "node/"
BEAT_S = LEASE_MS / 4000
LOST_S = LEASE_MS * 0.8 / 1000
"""Not renewed for so long, it is as good as lost."""
LOOK_EVERY_S = 1.0
AT_ONCE = 50


class Owner:
    def __init__(
        self, means: Means, *, lost: Callable[[], Awaitable[None]], not_alone: Callable[[str], Awaitable[None]]
    ) -> None:
        """`lost`: ends all that was run under the lease that is lost.
        `not_alone`: called with the lease's name, now and then, where other nodes may have taken up what was held here.
        """
        self.taken_over = 0
        """Sessions of dead nodes, since this process started."""
        self._database = means.database
        self._leases = means.leases
        self._clock = means.clock
        self._compose = means.compose
        self._new_name = means.new_name
        self._lost = lost
        self._not_alone = not_alone
        self._lease: Lease | None = None
        self._renewed_s = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        """Of the lease. Raises Unavailable while there is none."""
        if self._lease is None:
            raise Unavailable("this node is taking up its lease; send again in a second", retry_after_ms=1000)
        return self._lease.name

    @property
    def fence(self) -> Fence:
        """Raises Unavailable while there is no lease, or where it may have been lost."""
        name = self.name
        assert self._lease is not None
        if self._clock.monotonic() - self._renewed_s > LOST_S:
            raise Unavailable("this node could not renew its lease; send again in a second", retry_after_ms=1000)
        return Fence(name, self._lease.epoch)

    def is_under(self, name: str | None) -> bool:
        """Whether that is the lease's name, which this node still goes by."""
        return self._lease is not None and self._lease.name == name

    async def start(self) -> None:
        """Take a lease, and what nodes of this machine left that are known to be dead. Raises Unavailable."""
        await self._begin()
        await self._look()
        self._task = asyncio.create_task(self._run(), name="owner")

    async def release(self, fence: Fence, ending: Ending | None = None) -> None:
        """All that is held under a lease, by the patterns; `ending`: of what was not abandoned. Raises Fenced."""
        failed: set[rows.SessionKey] = set()
        while found := [
            (key, root)
            for key, root in await self._database.read(rows.of_node, fence.name, 1_000 + len(failed))
            if key not in failed
        ]:
            by_lane: dict[int, list[tuple[rows.SessionKey, str]]] = {}
            for key, root in found:
                by_lane.setdefault(self._database.partition_of(root), []).append((key, root))
            for each in by_lane.values():
                for start in range(0, len(each), AT_ONCE):
                    part = each[start : start + AT_ONCE]
                    try:
                        await self._take_over_some(part, fence, ending)
                    except AdjournError:
                        raise
                    except Exception:  # one of them cannot be read or ended: the others shall not wait for it
                        failed |= await self._one_by_one(part, fence, ending)
            await self._leases.take(fence.name)

    async def _take_over_some(
        self, some: Sequence[tuple[rows.SessionKey, str]], fence: Fence, ending: Ending | None
    ) -> None:
        args = ([key for key, _ in some], fence.name, self._clock.wall_ms(), self._compose, ending)
        self.taken_over += await self._database.write(
            takeover.take_over, *args, key=some[0][1], fence=fence, weight=len(some)
        )

    async def _one_by_one(
        self, some: Sequence[tuple[rows.SessionKey, str]], fence: Fence, ending: Ending | None
    ) -> set[rows.SessionKey]:
        """Those that failed."""
        failed: set[rows.SessionKey] = set()
        for each in some:
            try:
                await self._take_over_some([each], fence, ending)
            except AdjournError:
                raise
            except Exception:
                _log.exception("session_not_taken_over", session=each[0].session_id)
                failed.add(each[0])
        return failed

    async def stop(self) -> None:
        """Give the lease up. Idempotent. What is still held under it is for others to take over."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        lease, self._lease = self._lease, None
        if lease is None:
            return
        try:
            if not await self._database.write(_forget_unused, lease.name):
                await self._leases.release(lease.name)
        except AdjournError as error:
            _log.warning("lease_not_released", lease=lease.name, error=error.message)

    # --- inside --------------------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        asked_s = self._clock.monotonic()
        lease = await self._leases.take(PREFIX + self._new_name())
        if lease is None:
            raise Unavailable("a new node's lease is held by another; start again")
        self._lease, self._renewed_s = lease, asked_s

    async def _run(self) -> None:
        looked_s = self._clock.monotonic()
        waits = ""
        while True:
            await asyncio.sleep(min(BEAT_S, LOOK_EVERY_S) / 2)
            try:
                await self._beat()
                if self._clock.monotonic() - looked_s >= LOOK_EVERY_S:
                    await self._look()
                    looked_s = self._clock.monotonic()
                waits = ""
            except AdjournError as error:
                if error.message != waits:
                    _log.warning("owner_waits", error=error.message)
                waits = error.message
            except Exception:
                _log.exception("owner_failed")

    async def _beat(self) -> None:
        since_s = self._clock.monotonic() - self._renewed_s
        if self._lease is not None and since_s < BEAT_S:
            return
        if self._lease is not None and since_s < LOST_S:
            asked_s = self._clock.monotonic()
            try:
                async with asyncio.timeout(LOST_S - since_s):
                    taken = await self._leases.take(self._lease.name)
            except TimeoutError:
                taken = None
            if taken is not None and taken.epoch == self._lease.epoch:
                self._renewed_s = asked_s
                return
        if self._lease is not None:
            _log.warning("node_lost_its_lease", lease=self._lease.name)
            self._lease = None
            await self._lost()
        await self._begin()

    async def _look(self) -> None:
        """Take over what dead nodes held."""
        mine = self._lease.name if self._lease is not None else ""
        others = [name for name in await self._database.read(_nodes) if name != mine]
        for name in others:
            lease = await self._leases.take(name)
            if lease is not None:
                await self._take_over(lease)
        if others and mine:
            await self._not_alone(mine)

    async def _take_over(self, dead: Lease) -> None:
        fence = Fence(dead.name, dead.epoch)
        before = self.taken_over
        try:
            await self.release(fence)
            await self._database.write(_forget, dead.name, fence=fence)
        except Fenced:  # another node was given it meanwhile
            return
        finally:
            if count := self.taken_over - before:
                _log.warning("sessions_taken_over", node=dead.name, count=count)


def _nodes(reader: Reader) -> list[str]:
    found = reader.rows("SELECT name FROM leases WHERE name >= ? AND name < ?", (PREFIX, PREFIX[:-1] + "0"))
    return [str(row[0]) for row in found]


def _forget_unused(tx: Tx, name: str) -> bool:
    """Whether nothing is held under it, and so it is gone. Locked first: whatever is written under it just now counts,
    or it would belong to a node that nobody looks for."""
    if tx.dialect != "sqlite":
        tx.rows("SELECT epoch FROM leases WHERE name = ? FOR UPDATE", (name,))
    if rows.of_node(tx, name, 1):
        return False
    _forget(tx, name)
    return True


def _forget(tx: Tx, name: str) -> None:
    tx.run("DELETE FROM leases WHERE name = ?", (name,))
