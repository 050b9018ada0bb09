"""Dead letters, looked at and dealt with: one by one, or all that fit a description, in steps that lock nobody out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from adjourn.clock import Clock
from adjourn.database import Database, Tx
from adjourn.delivery import held
from adjourn.delivery.held import Held, Place, Wanted
from adjourn.delivery.route import Shapes
from adjourn.errors import NotFound, ShapingFailed

STEP = 200
LOOK = 10_000
"""Each look goes through all dead letters that there are."""

Deal = Callable[[Tx, str | None, str, int], Held]


class DeadLetters:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def select(self, wanted: Wanted, *, fits: Shapes | None, before: str = "", limit: int) -> list[Held]:
        """Newest first. `fits`: a filter over the events. Raises NotFound for a `before` that is gone."""
        if fits is None:
            return await self._database.read(held.select, wanted, before=before, limit=limit)
        behind = await self._database.read(held.place_of, wanted.tenant, before) if before else None
        found: list[Held] = []
        async for page in self._letters(wanted, fits, behind):
            found += page
            if len(found) >= limit:
                break
        return found[:limit]

    async def show(self, tenant: str | None, letter_id: str) -> Held:
        """Raises NotFound."""
        return await self._database.read(held.show, tenant, letter_id)

    async def redrive(self, tenant: str | None, letter_id: str) -> Held:
        """Give one back to its destination, under its id, with all its attempts anew. Raises NotFound."""
        return await self._database.write(held.redrive, tenant, letter_id, self._clock.wall_ms())

    async def discard(self, tenant: str | None, letter_id: str) -> Held:
        """Delete one for good; it is counted. Raises NotFound."""
        return await self._database.write(held.discard, tenant, letter_id, self._clock.wall_ms())

    async def redrive_all(self, wanted: Wanted, *, fits: Shapes | None = None) -> int:
        """How many were given back. Those that die again while this runs are not taken up again."""
        return await self._all(held.redrive, wanted, fits)

    async def discard_all(self, wanted: Wanted, *, fits: Shapes | None = None) -> int:
        """How many were deleted for good."""
        return await self._all(held.discard, wanted, fits)

    async def _all(self, deal: Deal, wanted: Wanted, fits: Shapes | None) -> int:
        # Oldest first, so that what a destination gets again it gets in the order in which it missed it.
        if fits is None:
            ids = [":".join(map(str, place[1:])) async for page in self._places(wanted, None) for place in page]
        else:
            ids = [letter.id async for page in self._letters(wanted, fits, None) for letter in page]
        ids.reverse()
        dealt = 0
        for start in range(0, len(ids), STEP):
            dealt += await self._database.write(_deal_with, deal, ids[start : start + STEP], self._clock.wall_ms())
        return dealt

    async def _places(self, wanted: Wanted, behind: Place | None) -> AsyncGenerator[list[Place]]:
        while True:
            page = await self._database.read(held.places, wanted, behind=behind, limit=LOOK)
            yield page
            if len(page) < LOOK:
                return
            behind = page[-1]

    async def _letters(self, wanted: Wanted, fits: Shapes, behind: Place | None) -> AsyncGenerator[list[Held]]:
        """Those that fit, a page at a time; what somebody else deals with meanwhile is left out."""
        async for places in self._places(wanted, behind):
            for start in range(0, len(places), STEP):
                yield await _fitting(await self._database.read(held.dead, places[start : start + STEP]), fits)


def _deal_with(tx: Tx, deal: Deal, ids: list[str], now_ms: int) -> int:
    dealt = 0
    for letter_id in ids:
        try:
            deal(tx, None, letter_id, now_ms)
        except NotFound:  # somebody else has dealt with it meanwhile
            continue
        dealt += 1
    return dealt


async def _fitting(page: list[Held], fits: Shapes) -> list[Held]:
    """A filter may take long over an event: others have their turn between two."""
    found: list[Held] = []
    for letter in page:
        if _fits(letter, fits):
            found.append(letter)
        await asyncio.sleep(0)
    return found


def _fits(letter: Held, fits: Shapes) -> bool:
    """A filter that fails on an event does not pick it."""
    try:
        return fits.shape(letter.event()) is not None
    except ShapingFailed:
        return False
