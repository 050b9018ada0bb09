"""Brings the totals of sessions up to date, a moment after sessions have changed; on the one node that has the role."""

from __future__ import annotations

import time

from adjourn.database import Database
from adjourn.sessions import totals

QUIET_MS = 10_000
"""A session that changes more often is counted when it rests: meanwhile whoever asks adds it up."""
EVERY_MS = 500
AT_ONCE = 200
LOOK_S = 0.2
"""After that, the next look goes on: whoever calls this has other things to do in time."""


class Counting:
    def __init__(self, database: Database, *, quiet_ms: int = QUIET_MS, every_ms: int = EVERY_MS) -> None:
        self._database = database
        self._quiet_ms = quiet_ms
        self._every_ms = every_ms
        self._next_ms = 0

    async def look(self, now_ms: int) -> int:
        """Count what has been quiet; how many sessions that was. It may be called as often as one likes."""
        if now_ms < self._next_ms <= now_ms + self._every_ms:
            return 0
        self._next_ms = now_ms + self._every_ms
        until_s = time.monotonic() + LOOK_S
        counted = found = await self._round(now_ms)
        while found >= AT_ONCE // 2 and time.monotonic() < until_s:
            found = await self._round(now_ms)
            counted += found
        return counted

    async def _round(self, now_ms: int) -> int:
        """In the lane of each session, where nobody else changes it."""
        found = await self._database.read(totals.waiting, now_ms - self._quiet_ms, AT_ONCE)
        groups: dict[tuple[str, int], list[totals.Waiting]] = {}
        for one in found:
            groups.setdefault((one.tenant, self._database.partition_of(one.root_id)), []).append(one)
        counted = 0
        for (tenant, _), group in sorted(groups.items()):
            ids = [one.id for one in group]
            counted += await self._database.write(totals.count, tenant, ids, key=group[0].root_id)
        for tenant in await self._database.read(totals.leftover_tenants):
            counted += await self._database.write(totals.count, tenant, [], key=tenant)
        return counted
