"""The dedupe window: which identities one partition of the log took lately, and at which offsets.

It is an index over the `keys` of the newest blocks and nothing more: it is filled after COMMIT, never before, and where
its offset is not the log's (another process appended, an outcome was unknown, a restart) it reads what it missed.

Newest entries are in a dict; older ones in sorted arrays, 16 bytes an entry, searched by bisection. A bisection of a
long array misses the cache at every step, so a Bloom filter, 16 to 32 bits an entry, first says which hashes are
worth one. Past the memory limit arrays move to unlinked files: the window gets slower, never shorter.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from adjourn.clock import Clock

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

RECENT_MAX = 65_536
RECENT_ENTRY_BYTES = 170
RUN_ENTRY_BYTES = 16
SLOTS_PER_ENTRY = 16
"""At least, in a filter: one in 70 hashes that are not there passes it."""
GENERATIONS = 8
"""The window is dropped in this many steps: what is kept is between 1 and 1 + 2/8 windows old."""
MERGED_MAX = 4_194_304


class WindowStats(msgspec.Struct, frozen=True):
    entries: int
    memory_bytes: int
    spilled_bytes: int
    effective_s: float
    """How far back a resend is recognised now; the configured window, once the server has run that long."""


class _Run(msgspec.Struct):
    hashes: npt.NDArray[np.uint64]
    offsets: npt.NDArray[np.int64]
    seen: npt.NDArray[np.uint8]
    """The filter's bits; a power of two."""
    first_s: float
    last_s: float
    spilled: bool = False

    @property
    def bytes(self) -> int:
        return len(self.hashes) * RUN_ENTRY_BYTES + len(self.seen)


class Window:
    """Of one partition; used by its lane's thread alone."""

    def __init__(self, window_s: float, memory_bytes: int, clock: Clock) -> None:
        self.synced = -1
        """The next offset of the log as far as this window knows; -1 before the first look."""
        self._window_s = window_s
        self._memory_bytes = memory_bytes
        self._clock = clock
        self._recent: dict[bytes, int] = {}
        self._began = self._recent_since = self._recent_last = clock.monotonic()
        self._runs: list[_Run] = []
        self._staged: tuple[Sequence[bytes], int] | None = None

    def find(self, identities: Sequence[bytes]) -> list[tuple[int, int]]:
        """(index, offset) of each identity that was seen within the window; mostly empty."""
        self._expire()
        found: list[tuple[int, int]] = []
        if not self._recent.keys().isdisjoint(identities):
            get = self._recent.get
            found = [(i, offset) for i, h in enumerate(identities) if (offset := get(h)) is not None]
        if self._runs:
            found.extend(self._find_in_runs(identities))
        return found

    def stage(self, identities: Sequence[bytes], first_offset: int) -> None:
        """What the running transaction appends; `commit` or `discard` says what became of it."""
        self._staged = (identities, first_offset)

    def commit(self) -> None:
        if self._staged is not None:
            identities, first_offset = self._staged
            self._staged = None
            self.extend(identities, first_offset)

    def discard(self) -> None:
        self._staged = None

    def extend(self, identities: Sequence[bytes], first_offset: int) -> None:
        self._expire()  # what came long ago must not grow young again among these
        self._recent_last = self._clock.monotonic()
        end = first_offset + len(identities)
        self._recent.update(zip(identities, range(first_offset, end), strict=True))
        self.synced = end
        if len(self._recent) >= RECENT_MAX:
            self._freeze()

    def missed_s(self) -> float:
        """For how long it may not have seen what others appended; infinite before the first look."""
        return math.inf if self.synced < 0 else self._clock.monotonic() - self._recent_last

    def stats(self) -> WindowStats:
        runs = list(self._runs)
        memory = sum(run.bytes for run in runs if not run.spilled) + len(self._recent) * RECENT_ENTRY_BYTES
        return WindowStats(
            entries=len(self._recent) + sum(len(run.hashes) for run in runs),
            memory_bytes=memory,
            spilled_bytes=sum(run.bytes for run in runs if run.spilled),
            effective_s=min(self._window_s, self._clock.monotonic() - self._began),
        )

    def _expire(self) -> None:
        now = self._clock.monotonic()
        if now - self._recent_since >= self._window_s / GENERATIONS:
            self._freeze()
        while self._runs and now - self._runs[0].last_s > self._window_s:
            del self._runs[0]

    def _freeze(self) -> None:
        now = self._clock.monotonic()
        if self._recent:
            import numpy as np

            hashes = np.frombuffer(b"".join(self._recent), "<u8")
            offsets = np.fromiter(self._recent.values(), "<i8", len(self._recent))
            self._runs.append(_sorted(hashes, offsets, self._recent_since, self._recent_last))
            self._recent = {}
            self._merge()
            self._spill()
        self._recent_since = now

    def _merge(self) -> None:
        """Like sizes are merged, so that few arrays are searched; never over so long a time that expiry gets coarse."""
        import numpy as np

        while len(self._runs) >= 2:
            older, newer = self._runs[-2], self._runs[-1]
            size = len(older.hashes) + len(newer.hashes)
            span = newer.last_s - older.first_s
            if older.spilled or size > MERGED_MAX or len(older.hashes) > 2 * len(newer.hashes):
                return
            if span > self._window_s / GENERATIONS * 2:
                return
            del self._runs[-2:]
            hashes = np.concatenate((older.hashes, newer.hashes))
            offsets = np.concatenate((older.offsets, newer.offsets))
            self._runs.append(_sorted(hashes, offsets, older.first_s, newer.last_s))

    def _spill(self) -> None:
        """Oldest first, to files that have no name any more: they go when the process does."""
        memory = sum(run.bytes for run in self._runs if not run.spilled) + RECENT_MAX * RECENT_ENTRY_BYTES
        for run in self._runs:
            if memory <= self._memory_bytes:
                return
            if not run.spilled:
                try:
                    mapped = _mapped(run.hashes), _mapped(run.offsets), _mapped(run.seen)
                except (OSError, ValueError):  # no room for temporary files: memory is what is left
                    return
                memory -= run.bytes
                run.hashes, run.offsets, run.seen = mapped
                run.spilled = True

    def _find_in_runs(self, identities: Sequence[bytes]) -> Iterable[tuple[int, int]]:
        import numpy as np

        wanted = np.frombuffer(b"".join(identities), "<u8")
        for run in self._runs:
            width = (len(run.seen) * 8).bit_length() - 1
            maybe = np.flatnonzero(_marked(run.seen, _leading(wanted, width)))
            if len(maybe):
                maybe = maybe[_marked(run.seen, _trailing(wanted[maybe], width))]
            if len(maybe):
                places = np.searchsorted(run.hashes, wanted[maybe])
                places[places == len(run.hashes)] = 0
                for hit in np.flatnonzero(run.hashes[places] == wanted[maybe]):
                    yield int(maybe[hit]), int(run.offsets[places[hit]])


def _sorted(hashes: Any, offsets: Any, first_s: float, last_s: float) -> _Run:
    # A stable sort merges two sorted halves in linear time.
    order = hashes.argsort(kind="stable")
    hashes = hashes[order]
    return _Run(hashes, offsets[order], _filter(hashes), first_s, last_s)


def _filter(hashes: Any) -> Any:
    """A Bloom filter with two functions: the leading bits of a hash, and its trailing ones."""
    import numpy as np

    width = (len(hashes) * SLOTS_PER_ENTRY - 1).bit_length()
    slots = np.zeros(1 << width, "?")
    slots[_leading(hashes, width)] = True
    slots[_trailing(hashes, width)] = True
    return np.packbits(slots, bitorder="little")


def _leading(hashes: Any, width: int) -> Any:
    import numpy as np

    return (hashes >> np.uint64(64 - width)).view("i8")


def _trailing(hashes: Any, width: int) -> Any:
    import numpy as np

    return (hashes & np.uint64((1 << width) - 1)).view("i8")


def _marked(seen: Any, slots: Any) -> Any:
    return (seen.take(slots >> 3) >> (slots & 7).astype("u1") & 1).view("?")


def _mapped(array: Any) -> Any:
    import numpy as np

    with tempfile.TemporaryFile(prefix="adjourn-window-") as file:
        array.tofile(file)
        file.flush()
        # As a plain array: a memmap's own indexing is slow.
        return np.asarray(np.memmap(file, dtype=array.dtype, mode="r", shape=array.shape))
