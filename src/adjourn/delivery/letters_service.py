"""Dead letters, looked at and dealt with: one by one, or all that fit a description, in steps that lock nobody out.

A call ends after `SPEND_S`, however many there are; what it gives back says where the next one goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from adjourn.clock import Clock
from adjourn.database import Database, Reader, Tx
from adjourn.delivery import held, letters
from adjourn.delivery.held import Held
from adjourn.delivery.letters import Place, Wanted, parse_place
from adjourn.delivery.route import Shapes
from adjourn.errors import NotFound, ShapingFailed

STEP = 200
LOOK = 10_000
"""Each look examines at most so many rows."""
SPEND_S = 1.0
REDRIVEN_MAX = 5_000
"""At most so many wait at one destination to be tried again, before more are given back to it."""

Deal = Callable[[Tx, str | None, str, int], Held]


class Page(msgspec.Struct, frozen=True):
    """It may be short, or empty, and have a `cursor` all the same; without one it is the last."""

    letters: list[Held]
    cursor: str


class Dealt(msgspec.Struct, frozen=True):
    """`cursor`: where to go on; empty when all is done. `full`: all is done but what a destination did not get back
    because as many as may be are waiting there to be tried again; go on when they have been."""

    count: int
    cursor: str
    full: bool = False


class _Walk(msgspec.Struct):
    """Through the dead letters that are wanted, a step at a time. `after`: where it came to."""

    wanted: Wanted
    fits: Shapes | None
    newest_first: bool
    after: Place | None = None
    last: Place | None = None
    ended: bool = False
    look: int = STEP


class DeadLetters:
    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def select(self, wanted: Wanted, *, fits: Shapes | None, cursor: str = "", limit: int) -> Page:
        """Newest first. `fits`: a filter over the events. Raises BodyInvalid for a cursor that is none."""
        until_s = self._clock.monotonic() + SPEND_S
        walk = _Walk(wanted, fits, newest_first=True, after=parse_place(cursor) if cursor else None)
        found: list[Held] = []
        while not walk.ended:
            found += await self._step(walk, limit - len(found))
            if len(found) >= limit or self._clock.monotonic() > until_s:
                break
        return Page(found, "" if walk.ended else str(walk.after))

    async def show(self, tenant: str | None, letter_id: str) -> Held:
        """Raises NotFound."""
        return await self._database.read(held.show, tenant, letter_id)

    async def redrive(self, tenant: str | None, letter_id: str) -> Held:
        """Give one back to its destination, under its id, with all its attempts anew. Raises NotFound."""
        return await self._database.write(held.redrive, tenant, letter_id, self._clock.wall_ms())

    async def discard(self, tenant: str | None, letter_id: str) -> Held:
        """Delete one for good; it is counted. Raises NotFound."""
        return await self._database.write(held.discard, tenant, letter_id, self._clock.wall_ms())

    async def redrive_some(self, wanted: Wanted, *, fits: Shapes | None = None, cursor: str = "") -> Dealt:
        """Give back those that fit, oldest first, so that a destination gets them in the order in which it missed
        them. Those that die again meanwhile are not taken up again."""
        return await self._deal(held.redrive, wanted, fits, cursor)

    async def discard_some(self, wanted: Wanted, *, fits: Shapes | None = None, cursor: str = "") -> Dealt:
        """Delete those that fit for good."""
        return await self._deal(held.discard, wanted, fits, cursor)

    async def _deal(self, deal: Deal, wanted: Wanted, fits: Shapes | None, cursor: str) -> Dealt:
        until_s = self._clock.monotonic() + SPEND_S
        walk = _Walk(wanted, fits, newest_first=False)
        left = ""
        if cursor:
            after, last, left = [*cursor.split("~", 2), "", ""][:3]
            walk.after, walk.last = parse_place(after) if after else None, parse_place(last)
        elif (newest := await self._newest(wanted)) is None:
            return Dealt(0, "")
        else:
            walk.last = newest
        dealt = 0
        while not walk.ended:
            some = await self._step(walk, STEP)
            if deal is held.redrive:
                full = await self._database.read(_full, {one.destination for one in some})
                if full:  # what others did not take must not wait for it
                    left = "left"
                    besides = (*(walk.wanted.besides or ()), *sorted(full))
                    walk.wanted = msgspec.structs.replace(walk.wanted, besides=besides)
                    some = [one for one in some if one.destination not in full]
                    walk.ended = walk.ended or wanted.destination is not None
            if some:
                ids = [one.id for one in some]
                dealt += await self._database.write(_deal_with, deal, ids, self._clock.wall_ms())
            if self._clock.monotonic() > until_s:
                break
        if not walk.ended:
            return Dealt(dealt, f"{walk.after}~{walk.last}{left and '~'}{left}")
        return Dealt(dealt, f"~{walk.last}", full=True) if left else Dealt(dealt, "")

    async def _newest(self, wanted: Wanted) -> Place | None:
        anything = msgspec.structs.replace(wanted, code=None, event_id=None)
        looked = await self._database.read(letters.look, anything, after=None, newest_first=True, limit=1)
        return looked.reached

    async def _step(self, walk: _Walk, limit: int) -> list[Held]:
        """Of the next stretch those that fit, at most `limit`; the walk is moved on."""
        many = walk.fits is not None or letters.picky(walk.wanted)
        looked = await self._database.read(
            letters.look,
            walk.wanted,
            after=walk.after,
            last=walk.last,
            newest_first=walk.newest_first,
            limit=walk.look if many else min(limit, STEP),
        )
        # Where few fit, more are examined at once; where many do, no more than are read then.
        walk.look = min(LOOK, 2 * walk.look) if len(looked.fitting) < STEP // 2 else STEP
        places, reached = looked.fitting, looked.reached
        if len(places) > STEP:
            places, reached = places[:STEP], places[STEP - 1]
        whole = await self._database.read(letters.dead, places)
        found = whole if walk.fits is None else await _fitting(whole, walk.fits)
        if len(found) > limit:
            found = found[:limit]
            reached = _place(found[-1])
        walk.after, walk.ended = reached, reached is None
        return found


def _place(one: Held) -> Place:
    return Place(one.held_ms, one.destination, one.partition, one.offset)


def _full(reader: Reader, destinations: set[str]) -> set[str]:
    return {one for one in destinations if held.parked_count(reader, one, REDRIVEN_MAX) >= REDRIVEN_MAX}


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
