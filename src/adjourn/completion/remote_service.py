"""A pump's sink that sends to a server, as an idempotent producer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from adjourn.completion.receipts import Outcome, Settled
from adjourn.errors import BodyTooLarge
from adjourn.eventlog import get_logger
from adjourn.sdk import AsyncClient

_log = get_logger("adjourn.pump")

RETRIES = 2
"""A server that stays away is the pump's to wait for, and to speak of."""


class RemoteSink:
    """What no server can be given (damaged lines, events larger than it takes) goes into `refused`, a file, whole."""

    def __init__(self, url: str, key: str, refused: Path) -> None:
        """Raises ConfigInvalid."""
        self._client = AsyncClient(url, key or None, retries=RETRIES)
        self._refused = refused

    async def send(self, producer: str, raws: Sequence[bytes], sequences: Sequence[int]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        for start, end in consecutive(sequences):
            outcomes.extend(await self._send(producer, raws[start:end], sequences[start]))
        return outcomes

    async def _send(self, producer: str, raws: Sequence[bytes], first: int) -> Sequence[Outcome]:
        """By halves where the server finds the body too large: one such event must not hold up those behind it."""
        try:
            return (await self._client.send(raws, producer=producer, first_sequence=first)).results
        except BodyTooLarge as error:
            if len(raws) == 1:
                await self.keep_torn(producer, [(raws[0], error.message)])
                return [Settled("invalid", message=f"{error.message} (kept in {self._refused})")]
        middle = len(raws) // 2
        before = await self._send(producer, raws[:middle], first)
        return [*before, *await self._send(producer, raws[middle:], first + middle)]

    async def keep_torn(self, producer: str, torn: Sequence[tuple[bytes, str]]) -> None:
        await asyncio.to_thread(_append, self._refused, torn)

    async def close(self, timeout_s: float) -> None:
        await self._client.close()


def consecutive(sequences: Sequence[int]) -> list[tuple[int, int]]:
    """Where runs of consecutive numbers begin and end: a request names only the first of its numbers."""
    cuts = [0, *(i for i in range(1, len(sequences)) if sequences[i] != sequences[i - 1] + 1), len(sequences)]
    return list(pairwise(cuts))


def _append(path: Path, torn: Sequence[tuple[bytes, str]]) -> None:
    with path.open("ab") as file:
        for line, why in torn:
            _log.error("spool_refused", file=str(path), reason=why)
            file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
