"""How each destination stands, with the age of its backlog, which only the log itself knows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from adjourn.database import Database
from adjourn.delivery.standing import Standing, standings
from adjourn.log import Log


class Standings:
    """Whoever looks again and again has one: a place that has not moved is not read again."""

    def __init__(self, database: Database, log: Log) -> None:
        self._database = database
        self._log = log
        self._received: dict[tuple[int, int], int | None] = {}

    async def read(self) -> list[Standing]:
        """Every destination that was ever configured, by name. Raises Unavailable."""
        found = await self._database.read(standings)
        wanted = {place for standing in found for place in standing.behind}
        self._received = {place: it for place, it in self._received.items() if place in wanted}
        for place in wanted - self._received.keys():
            self._received[place] = await self._received_ms(*place)
        return [
            msgspec.structs.replace(one, oldest_ms=_oldest([one.oldest_ms, *map(self._received.get, one.behind)]))
            for one in found
        ]

    async def _received_ms(self, partition: int, offset: int) -> int | None:
        """None where the block there is damaged or gone."""
        events = (await self._log.read(partition, offset, count=1)).events
        return events[0].received_ms if events else None


def _oldest(times: Sequence[int | None]) -> int | None:
    return min((time for time in times if time is not None), default=None)
