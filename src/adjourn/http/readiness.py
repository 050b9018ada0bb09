"""Whether this node takes events now: asked of the database, because what was seen last may be long ago."""

from __future__ import annotations

import asyncio

from adjourn.database import Reader, Tx
from adjourn.databases.laned import LanedDatabase
from adjourn.errors import AdjournError

ANSWER_S_MAX = 1.0
KEYS_TRIED = 256


class Readiness:
    """One question at a time, however many ask: a database that hangs is not asked again until it has answered."""

    def __init__(self, database: LanedDatabase) -> None:
        self._database = database
        self._asking: asyncio.Task[str] | None = None

    async def trouble(self) -> str:
        """Fact and remedy; empty when events are taken."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="readiness")
        done, _ = await asyncio.wait((self._asking,), timeout=ANSWER_S_MAX)
        if not done:
            return f"the database has not answered for {ANSWER_S_MAX:g} s; see that it is reachable and not overloaded"
        return self._asking.result()

    async def _ask(self) -> str:
        try:
            if self._database.health().ok:
                await self._database.read(_look)
            else:
                # A lane connects again for a write. On a node that was taken out of rotation none may come.
                await asyncio.gather(*(self._database.write(_do_nothing, key=key) for key in self._keys()))
        except AdjournError as error:
            return error.message
        return self._database.health().detail

    def _keys(self) -> list[str]:
        """One for each lane."""
        return list({self._database.partition_of(str(n)): str(n) for n in range(KEYS_TRIED)}.values())


def _look(reader: Reader) -> None:
    reader.rows("SELECT 1")


def _do_nothing(tx: Tx) -> None:
    return
