"""Leases in a table: owner, epoch, and a counter that the owner moves. Who judges a holder dead is the observer, by its
own monotonic clock, when the counter has stood still for `LEASE_MS`."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec

from adjourn.clock import Clock
from adjourn.database import LEASE_MS, Database, Tx
from adjourn.log import Lease


class _Seen(msgspec.Struct):
    owner: str
    epoch: int
    beat: int
    since_s: float


class SqlLeases:
    """One node's view. `owner` tells which process that is, so that a holder that died on this very machine is known
    to be dead without waiting."""

    def __init__(self, database: Database, clock: Clock, owner: str) -> None:
        self._database = database
        self._clock = clock
        self._owner = owner
        self._seen: dict[str, _Seen] = {}

    async def take(self, name: str) -> Lease | None:
        found = await self._database.write(_take, name, self._owner, self._dead(name))
        seen = self._seen.get(name)
        now = self._clock.monotonic()
        if seen is None or (seen.owner, seen.epoch, seen.beat) != (found.owner, found.epoch, found.beat):
            found.since_s = now
            self._seen[name] = found
        return Lease(name, self._owner, found.epoch) if found.owner == self._owner else None

    async def release(self, name: str) -> None:
        self._seen.pop(name, None)
        await self._database.write(_release, name, self._owner)

    def _dead(self, name: str) -> tuple[int, int] | None:
        """(epoch, beat) of a holder that this node has watched standing still, or None."""
        seen = self._seen.get(name)
        if seen is None:
            return None
        still_ms = (self._clock.monotonic() - seen.since_s) * 1000
        return (seen.epoch, seen.beat) if still_ms >= LEASE_MS else None


def _take(tx: Tx, name: str, owner: str, dead: tuple[int, int] | None) -> _Seen:
    lock = "" if tx.dialect == "sqlite" else " FOR UPDATE"
    tx.run("INSERT INTO leases (name, owner, epoch, beat) VALUES (?, '', 0, 0) ON CONFLICT (name) DO NOTHING", (name,))
    row = tx.rows(f"SELECT owner, epoch, beat FROM leases WHERE name = ?{lock}", (name,))[0]
    holder, epoch, beat = str(row[0]), int(row[1] or 0), int(row[2] or 0)
    if holder == owner:
        tx.run("UPDATE leases SET beat = beat + 1 WHERE name = ?", (name,))
        return _Seen(owner, epoch, beat + 1, 0.0)
    if not holder or dead == (epoch, beat) or process_is_gone(holder):
        tx.run("UPDATE leases SET owner = ?, epoch = epoch + 1, beat = 0 WHERE name = ?", (owner, name))
        return _Seen(owner, epoch + 1, 0, 0.0)
    return _Seen(holder, epoch, beat, 0.0)


def _release(tx: Tx, name: str, owner: str) -> None:
    tx.run("UPDATE leases SET owner = '' WHERE name = ? AND owner = ?", (name, owner))


def this_process(node: str) -> str:
    """`node_…@host:boot:pid:start`: enough to see, on the same machine, that a process has ended."""
    pid = os.getpid()
    return f"{node}@{socket.gethostname()}:{_boot()}:{pid}:{_started(pid)}"


def process_is_gone(owner: str) -> bool:
    """True only if it is certain: same host, same boot, and no process of that id that started then."""
    parts = owner.rpartition("@")[2].split(":")
    if len(parts) != 4 or not _boot() or parts[:2] != [socket.gethostname(), _boot()]:
        return False
    return parts[2].isdigit() and _started(int(parts[2])) != parts[3]


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")[:16] + _pid_namespace()
    except OSError:
        return ""


def _pid_namespace() -> str:
    """Process ids mean nothing outside their namespace: two containers of one host must not judge each other."""
    try:
        return "-" + os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return ""


def _started(pid: int) -> str:
    """Clock ticks after boot at which a process started; empty if there is none. Zombies count as ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[19]
