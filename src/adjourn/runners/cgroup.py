"""Limits of all of a session's processes together: a control group of its own, in one that was given to the server.

Adjourn makes groups nowhere else: each has one writer (systemd's rule). Version 2 is one folder, version 1 one folder a
controller; both are told apart by what is in them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from adjourn.errors import RunnerFailed
from adjourn.runners.sandbox import MB, Bounds

GONE_TIMEOUT_S = 2.0


class Group:
    """Of one running program."""

    def __init__(self, folders: Sequence[str], name: str) -> None:
        self._folders = [Path(folder, name) for folder in folders]
        self.limits: set[str] = set()
        """Which of `memory` and `processes` it sets."""

    def make(self, bounds: Bounds) -> None:
        """Raises RunnerFailed."""
        try:
            for folder in self._folders:
                folder.mkdir()
                self._limit(folder, bounds)
        except OSError as error:
            self.remove()
            raise RunnerFailed(
                f"{error.filename} cannot be written ({error.strerror}); delegate the control group to the server's "
                "user, with the controllers memory and pids, or take `cgroup` out of the runner's settings"
            ) from None

    def enter(self, pid: int) -> None:
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def kill(self) -> None:
        """Where the kernel can (version 2, Linux 5.14)."""
        for folder in self._folders:
            if (folder / "cgroup.kill").exists():
                (folder / "cgroup.kill").write_text("1")

    def remove(self) -> None:
        """A group stays busy for a moment after its last process has gone."""
        until = time.monotonic() + GONE_TIMEOUT_S
        for folder in self._folders:
            while folder.exists():
                try:
                    folder.rmdir()
                except OSError:
                    if time.monotonic() > until:
                        break
                    time.sleep(0.002)

    def _limit(self, folder: Path, bounds: Bounds) -> None:
        memory = None if bounds.memory_mb_max is None else bounds.memory_mb_max * MB
        names = (
            ("memory", "memory.max", memory),
            ("memory", "memory.limit_in_bytes", memory),
            ("memory", "memory.swap.max", 0 if memory is not None else None),
            ("processes", "pids.max", bounds.processes_max),
        )
        for limit, name, most in names:
            if most is not None and (folder / name).exists():
                (folder / name).write_text(str(most))
                self.limits.add(limit)
