"""Faults that tests inject into the real thing: SQLite's disk, a full disk, and processes that die or stand still.

A power cut is in `power_cut.py`, a network that breaks in `tcp_proxy.py`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adjourn.errors import FaultUnavailable
from adjourn.testing.sqlite_vfs import FULL, IOERR_FSYNC, IOERR_WRITE, Interposer, SqliteFile

DiskError = Literal["io", "full"]


@dataclass(slots=True)
class _SyncFault:
    left: int
    code: int
    match: str


@dataclass(slots=True)
class _WriteFault:
    bytes_left: int
    code: int
    match: str


class SqliteFaults(Interposer):
    """Fails, delays, watches and counts the I/O of the SQLite files under `directory`, in this process.

    Install it before the database is opened. `match` is always the end of a file's path: `-wal`, `app.db`, or empty for
    all. An exception in a callback reaches SQLite as an I/O error and is raised again by `uninstall`.
    """

    def __init__(self, directory: Path | str) -> None:
        super().__init__(directory)
        self._lock = threading.Lock()
        self._sync_faults: list[_SyncFault] = []
        self._write_faults: list[_WriteFault] = []
        self._watchers: list[tuple[str, Callable[[Path], None]]] = []
        self._holds: list[tuple[str, threading.Event]] = []
        self._syncs: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def fail_sync(self, count: int = 1, *, error: DiskError = "io", match: str = "-wal") -> None:
        """The next `count` syncs of matching files return an error and do not sync."""
        code = IOERR_FSYNC if error == "io" else FULL
        with self._lock:
            self._sync_faults.append(_SyncFault(count, code, match))

    def fail_write(self, *, after_bytes: int = 0, error: DiskError = "full", match: str = "") -> None:
        """After `after_bytes` more bytes, every write to a matching file fails, until `heal`.

        The write that crosses the limit is cut short there, as on a real disk that fills up.
        """
        code = FULL if error == "full" else IOERR_WRITE
        with self._lock:
            self._write_faults.append(_WriteFault(after_bytes, code, match))

    def on_sync(self, callback: Callable[[Path], None], *, match: str = "") -> None:
        """Call `callback(path)` at the start of each matching sync, in SQLite's thread, before anything is synced.

        The callback must not use the connection that syncs.
        """
        with self._lock:
            self._watchers.append((match, callback))

    def hold_sync(self, until: threading.Event, *, match: str = "-wal") -> None:
        """Matching syncs wait for `until` (or for `heal`) before they sync."""
        with self._lock:
            self._holds.append((match, until))

    def heal(self) -> None:
        """End every fault and release every sync that is held; callbacks and counters stay."""
        with self._lock:
            self._sync_faults.clear()
            self._write_faults.clear()
            self._holds.clear()

    def uninstall(self) -> None:
        self.heal()
        super().uninstall()

    def syncs(self, match: str = "") -> int:
        """How many syncs of matching files have begun, those that failed included."""
        with self._lock:
            return sum(count for path, count in self._syncs.items() if path.endswith(match))

    def bytes_written(self, match: str = "") -> int:
        """How many bytes SQLite gave to matching files, those refused included."""
        with self._lock:
            return sum(count for path, count in self._bytes.items() if path.endswith(match))

    def write(self, file: SqliteFile, offset: int, data: bytes, proceed: Callable[[int], int]) -> int:
        path = str(file.path)
        allowed, code = len(data), 0
        with self._lock:
            self._bytes[path] += len(data)
            for fault in self._write_faults:
                if path.endswith(fault.match):
                    if len(data) > fault.bytes_left and fault.bytes_left <= allowed:
                        allowed, code = fault.bytes_left, fault.code
                    fault.bytes_left = max(0, fault.bytes_left - len(data))
        return proceed(allowed) or code

    def sync(self, file: SqliteFile, proceed: Callable[[], int]) -> int:
        path = str(file.path)
        with self._lock:
            self._syncs[path] += 1
            watchers = [callback for match, callback in self._watchers if path.endswith(match)]
        for callback in watchers:
            callback(file.path)
        self._wait_while_held(path)
        with self._lock:
            for fault in self._sync_faults:
                if fault.left and path.endswith(fault.match):
                    fault.left -= 1
                    return fault.code
        return proceed()

    def _wait_while_held(self, path: str) -> None:
        while True:
            with self._lock:
                held = [event for match, event in self._holds if path.endswith(match) and not event.is_set()]
            if not held:
                return
            held[0].wait(0.01)  # short, because `heal` may release it too


@contextmanager
def small_disk(megabytes: int) -> Generator[Path]:
    """A directory on a freshly mounted disk of that size; the disk is gone afterwards.

    Raises FaultUnavailable where mounting is not allowed.
    """
    with tempfile.TemporaryDirectory(prefix="adjourn-disk-") as directory:
        libc = ctypes.CDLL(None, use_errno=True)
        options = f"size={megabytes}m,mode=0700".encode()
        if libc.mount(b"tmpfs", directory.encode(), b"tmpfs", 0, options) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise FaultUnavailable(f"cannot mount a disk of {megabytes} MB ({reason}); run as root with CAP_SYS_ADMIN")
        try:
            yield Path(directory)
        finally:
            # Lazily (MNT_DETACH), for a file that the test left open must not keep the mount.
            if libc.umount2(directory.encode(), 2) != 0:
                raise OSError(ctypes.get_errno(), f"cannot unmount {directory}")


# Runs in the child before the program: PR_SET_PDEATHSIG (1) with SIGKILL. Set here and not by preexec_fn, which may
# deadlock in a process with threads. The parent may die before the call, hence the look at getppid.
_CHILD = """
import ctypes, os, runpy, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
parent, kind, program = sys.argv[1:4]
if os.getppid() != int(parent): os._exit(1)
sys.argv[:] = ["-c" if kind == "code" else program, *sys.argv[4:]]
if kind == "code": exec(compile(program, "<child>", "exec"), {"__name__": "__main__"})
else: runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


def run_python(
    program: str, *args: str, module: bool = False, env: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start `program` (source, or with `module` a module's name) in this Python; stdin and stdout are pipes.

    The child is killed when the thread that called this ends, so that it cannot survive the test. Its own children can.
    `env` is added to this process's environment.
    """
    kind = "module" if module else "code"
    return subprocess.Popen(
        [sys.executable, "-c", _CHILD, str(os.getpid()), kind, program, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **(env or {})},
    )


def kill_at_random(process: subprocess.Popen[bytes], *, between: tuple[float, float], rng: random.Random) -> bool:
    """SIGKILL `process` after a random time in seconds, and wait for its end; False if it had ended before."""
    time.sleep(rng.uniform(*between))
    running = process.poll() is None
    process.kill()
    process.wait()
    return running


@contextmanager
def stopped(pid: int) -> Generator[None]:
    """The process stands still inside the block, and goes on after it."""
    os.kill(pid, signal.SIGSTOP)
    try:
        _wait_until_stopped(pid)
        yield
    finally:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            pass  # killed while it stood still


def _wait_until_stopped(pid: int) -> None:
    """SIGSTOP takes effect at each thread's next return to user space: later than kill() returns."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        threads = Path(f"/proc/{pid}/task").glob("*/stat")
        # The state follows the command's name, which is in brackets and may itself hold brackets.
        if all(each.read_text().rpartition(")")[2].split()[0] in "TtZX" for each in threads):
            return
        time.sleep(0.001)
    raise OSError(errno.ETIMEDOUT, f"process {pid} did not stop within 5 s")
