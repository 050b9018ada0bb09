"""A program that runs: its lines, its limits, and an end that leaves nothing of it."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from adjourn.errors import RunnerFailed
from adjourn.runners import sandbox
from adjourn.runners.cgroup import Group
from adjourn.runners.jsonlines import Fault

TAIL_BYTES = 4_096
"""Of standard error, kept for the message of a program that fails."""
HIGH_BYTES, LOW_BYTES = 262_144, 65_536
"""Of output that nobody has read yet: the program waits above the one, and goes on below the other."""
EXIT_TIMEOUT_S = 5.0
"""Between a program's last output and its exit."""
KILL_TIMEOUT_S = 10.0

_INFO = re.compile(rb'\A\{\s*"child-pid": (\d+)[^}]*\}\n')
"""What bubblewrap says first."""


class First(NamedTuple):
    """The first process of a namespace: when it has gone, so have all others."""

    pid: int
    pidfd: int


def _nothing() -> None:
    pass


class Pipes:
    """Collects lines from standard output, and the end of standard error. Reading stops while many wait."""

    def __init__(self, means: sandbox.Means, *, line_bytes_max: int, output_bytes_max: int) -> None:
        self._line_bytes_max, self._output_bytes_max = line_bytes_max, output_bytes_max
        self._told = means != "bubblewrap"
        """Whether the first process is known."""
        self._lines: deque[bytes] = deque()
        self._partial = bytearray()
        self._held = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self.reading: asyncio.ReadTransport | None = None
        """Standard output."""
        self.listening = True
        """Else what comes is dropped: no turn asked for it."""
        self.fault: Fault | None = None
        self.closed = False
        self.output_bytes = 0
        self.tail = bytearray()
        self.first: First | None = None
        self.kill: Callable[[], None] = _nothing
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def received(self, data: bytes, *, error: bool) -> None:
        """From standard output, or standard error."""
        self.output_bytes += len(data)
        if error:
            self.tail = (self.tail + data)[-TAIL_BYTES:]
        else:
            self._take(data)
        if self.output_bytes > self._output_bytes_max:
            most = self._output_bytes_max // sandbox.MB
            self.fail(Fault("output_too_large", f"the program wrote more than {most} MB; raise output_mb_max"))

    def ended(self) -> None:
        """Of standard output."""
        self.closed = True
        self._wake()

    def fail(self, fault: Fault) -> None:
        """End it. Whoever reads finds this instead of a line."""
        if self.fault is None:
            self.fault = fault
            self._pause(True)
            self._wake()
            self.kill()

    def listen(self) -> None:
        """For a turn that begins: what came before it was not for it."""
        self._lines.clear()
        self._held = self.output_bytes = 0
        self.tail.clear()
        self.listening = True
        self._pause(False)

    def rest(self) -> None:
        """No turn runs: what comes is read and dropped, so that a program which goes on and on is found out."""
        self.listening = False
        self._lines.clear()
        self._held = 0
        if self.fault is None:
            self._pause(False)

    async def line(self) -> bytes | None:
        """The next one; None after the last. Raises Fault, after what was said before it: that may have cost money."""
        while True:
            if self._lines:
                line = self._lines.popleft()
                self._held = self._held - len(line) if self._lines else 0
                if self._paused and self._held < LOW_BYTES and self.fault is None:
                    self._pause(False)
                return line
            if self.fault is not None:
                raise self.fault
            if self.closed:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter

    def _take(self, data: bytes) -> None:
        self._partial += data
        if not self._told and not self._read_info():
            return
        longest = 0
        if b"\n" in data:
            *lines, rest = bytes(self._partial).split(b"\n")
            self._partial = bytearray(rest)
            longest = max(map(len, lines))
            if self.listening:
                fitting = itertools.takewhile(lambda line: len(line) <= self._line_bytes_max, lines)
                self._lines.extend(line for line in fitting if line.strip())
                self._held += sum(map(len, lines))
                self._wake()
        if max(longest, len(self._partial)) > self._line_bytes_max:
            most = self._line_bytes_max // 1024
            self.fail(Fault("line_too_long", f"the program wrote a line of more than {most} KB; split what it says"))
        elif self._held > HIGH_BYTES:
            self._pause(True)

    def _read_info(self) -> bool:
        found = _INFO.match(self._partial)
        if found is None:
            return False
        pid = int(found[1])
        self._told = True
        del self._partial[: found.end()]
        try:
            self.first = First(pid, os.pidfd_open(pid))
        except OSError:
            pass  # it has gone already, and with it everything
        self._partial, rest = bytearray(), bytes(self._partial)
        self._take(rest)
        return False

    def _pause(self, wanted: bool) -> None:
        if self.reading is None or wanted == self._paused or self.closed:
            return
        self._paused = wanted
        (self.reading.pause_reading if wanted else self.reading.resume_reading)()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class _Stream(asyncio.Protocol):
    """One end of a pipe."""

    def __init__(self, pipes: Pipes, *, error: bool = False, output: bool = False) -> None:
        self._pipes, self._error, self._output = pipes, error, output
        self.lost = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        self._pipes.received(data, error=self._error)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._output:
            self._pipes.ended()
        if not self.lost.done():
            self.lost.set_result(None)


class Program:
    """`start`, then lines; `stop` ends it and all that it has started, and is complete on return.

    The loop's own subprocesses are not used: uvloop's hand the child's ends of its pipes on twice, so that nobody sees
    it close one, and asyncio's want a thread each (3.11)."""

    def __init__(
        self, process: subprocess.Popen[bytes], pipes: Pipes, means: sandbox.Means, group: Group | None
    ) -> None:
        self._process, self._group = process, group
        self._stopping: asyncio.Task[None] | None = None
        self._transports: list[asyncio.BaseTransport] = []
        self._lost: list[asyncio.Future[None]] = []
        self._stdin: asyncio.WriteTransport | None = None
        self.pipes = pipes
        self.pid = process.pid
        self.means: sandbox.Means = means
        self.limits = sorted(group.limits) if group is not None else []
        """Those of its control group."""
        pipes.kill = self._kill
        self._pidfd = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._exited)

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        bounds: sandbox.Bounds,
        means: sandbox.Means,
        pipes: Pipes,
        group: Group | None,
    ) -> Program:
        """Raises RunnerFailed."""
        if group is not None:
            group.make(bounds)
        try:
            process = sandbox.spawn(means, command, env=env, cwd=cwd)
        except OSError as error:
            if group is not None:
                group.remove()
            raise RunnerFailed(f"cannot start a process: {error.strerror}; raise the server's limits") from None
        program = cls(process, pipes, means, group)
        try:
            if group is not None:
                group.enter(program.pid)
            sandbox.confine(program.pid, bounds, memory=group is None or "memory" not in group.limits)
            await program._connect()
        except OSError as error:
            await program.stop(grace_ms=0)
            raise RunnerFailed(f"cannot confine a process: {error.strerror}; look at the server's limits") from None
        except BaseException:
            await program.stop(grace_ms=0)
            raise
        program.say(b"\n")
        return program

    async def _connect(self) -> None:
        loop, pipes = asyncio.get_running_loop(), self.pipes
        self._stdin, stdin = await loop.connect_write_pipe(lambda: _Stream(pipes), self._process.stdin)
        self._transports.append(self._stdin)
        self._lost.append(stdin.lost)
        pipes.reading, stdout = await loop.connect_read_pipe(lambda: _Stream(pipes, output=True), self._process.stdout)
        self._transports.append(pipes.reading)
        self._lost.append(stdout.lost)
        reading, stderr = await loop.connect_read_pipe(lambda: _Stream(pipes, error=True), self._process.stderr)
        self._transports.append(reading)
        self._lost.append(stderr.lost)

    def _exited(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._process.wait()
        if not self.pipes.exited.done():
            self.pipes.exited.set_result(None)

    @property
    def running(self) -> bool:
        pipes = self.pipes
        return self._stopping is None and pipes.fault is None and not pipes.closed and not pipes.exited.done()

    @property
    def status(self) -> int | None:
        """How it ended: 128 + n after signal n."""
        code = self._process.returncode
        return 128 - code if code is not None and code < 0 else code

    def say(self, line: bytes) -> None:
        """A program that no longer reads is found out by its silence."""
        if self._stdin is not None and not self._stdin.is_closing():
            self._stdin.write(line)

    async def exit(self) -> None:
        """Give a program that has said its last a moment to exit."""
        await asyncio.wait([self.pipes.exited], timeout=EXIT_TIMEOUT_S)

    async def stop(self, *, grace_ms: int, farewell: bytes = b"") -> None:
        """Ask it to end, tell it to, make it. Idempotent; goes on where its caller is cancelled."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(grace_ms / 1_000, farewell))
        await asyncio.shield(self._stopping)

    async def _stop(self, grace_s: float, farewell: bytes) -> None:
        exited = [self.pipes.exited]
        self.pipes.listening = False
        if grace_s and not self.pipes.exited.done():
            self.say(farewell)
            if self._stdin is not None:
                self._stdin.close()
            if not (await asyncio.wait(exited, timeout=grace_s / 2))[0]:
                self._terminate()
                await asyncio.wait(exited, timeout=grace_s / 2)
        if not self.pipes.exited.done():
            self._kill()
            if not (await asyncio.wait(exited, timeout=KILL_TIMEOUT_S))[0]:
                self._process.kill()
                await asyncio.wait(exited, timeout=KILL_TIMEOUT_S)
        await self._first_gone()
        self.pipes.fail(Fault("program_exited", "the program was stopped", retryable=True))
        await self._disconnect()
        if self._group is not None:
            await asyncio.to_thread(self._group.remove)

    async def _disconnect(self) -> None:
        """What the program has not read is not waited for."""
        if self._stdin is not None and not self._lost[0].done():
            self._stdin.abort()
        for transport in self._transports:
            transport.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr)[len(self._transports) :]:
            if pipe is not None:
                pipe.close()
        if self._lost:
            await asyncio.wait(self._lost, timeout=EXIT_TIMEOUT_S)

    async def _first_gone(self) -> None:
        """Bubblewrap ends with the program; the others in its namespace are killed by the kernel, soon after."""
        first = self.pipes.first
        if first is None:
            return
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(first.pidfd, gone.set)
        try:
            await asyncio.wait_for(gone.wait(), KILL_TIMEOUT_S)
        except TimeoutError:
            pass
        finally:
            loop.remove_reader(first.pidfd)
            os.close(first.pidfd)
            self.pipes.first = None

    def _terminate(self) -> None:
        """To the program itself: its keeper hands it on, bubblewrap would die of it."""
        first = self.pipes.first
        for pid in _children(first.pid) if first else [self.pid] if self.means == "keeper" else []:
            _send(pid, signal.SIGTERM)

    def _kill(self) -> None:
        if self.pipes.exited.done():
            return
        if self._group is not None:
            self._group.kill()
        if self.pipes.first is not None:
            try:
                signal.pidfd_send_signal(self.pipes.first.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
        elif self.means == "keeper":
            _send(self.pid, signal.SIGUSR1)
        else:
            self._process.kill()


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
