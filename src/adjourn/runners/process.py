"""A program that runs: its lines, its limits, and an end that leaves nothing of it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from adjourn.errors import RunnerFailed
from adjourn.runners import sandbox
from adjourn.runners.cgroup import Group
from adjourn.runners.jsonlines import Fault

TAIL_BYTES = 4_096
"""Of standard error, kept for the message of a program that fails."""
HIGH_BYTES, LOW_BYTES = 262_144, 65_536
"""Of output that nobody has read yet: the program waits above the one, and goes on below the other."""
EXIT_TIMEOUT_S = 1.0
"""Between a program's last output and its exit."""
KILL_TIMEOUT_S = 5.0

_INFO = re.compile(rb'\A\{\s*"child-pid": (\d+)[^}]*\}\n')
"""What bubblewrap says first."""


class First(NamedTuple):
    """The first process of a namespace: when it has gone, so have all others."""

    pid: int
    pidfd: int


def _nothing() -> None:
    pass


class Pipes(asyncio.SubprocessProtocol):
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
        self._transport: asyncio.SubprocessTransport | None = None
        self.listening = True
        """Else what comes is dropped: no turn asked for it."""
        self.fault: Fault | None = None
        self.closed = False
        self.output_bytes = 0
        self.tail = bytearray()
        self.first: First | None = None
        self.kill: Callable[[], None] = _nothing
        self.exited: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.SubprocessTransport", transport)

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.output_bytes += len(data)
        if fd == 2:
            self.tail = (self.tail + data)[-TAIL_BYTES:]
        else:
            self._take(data)
        if self.output_bytes > self._output_bytes_max:
            most = self._output_bytes_max // sandbox.MB
            self.fail(
                Fault("output_too_large", f"the program wrote more than {most} MB; raise output_mb_max, or mend it")
            )

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self.closed = True
            self._wake()

    def process_exited(self) -> None:
        if not self.exited.done():
            self.exited.set_result(None)

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

    async def line(self) -> bytes | None:
        """The next one; None after the last. Raises Fault."""
        while True:
            if self.fault is not None:
                raise self.fault
            if self._lines:
                line = self._lines.popleft()
                self._held = self._held - len(line) if self._lines else 0
                if self._paused and self._held < LOW_BYTES:
                    self._pause(False)
                return line
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
                self._lines.extend(line for line in lines if line.strip())
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
        pipe = self._transport.get_pipe_transport(1) if self._transport else None
        if pipe is None or wanted == self._paused or self.closed:
            return
        self._paused = wanted
        reading = cast("asyncio.ReadTransport", pipe)
        (reading.pause_reading if wanted else reading.resume_reading)()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Program:
    """`start`, then lines; `stop` ends it and all that it has started, and is complete on return."""

    def __init__(
        self, transport: asyncio.SubprocessTransport, pipes: Pipes, means: sandbox.Means, group: Group | None
    ) -> None:
        self._transport, self._group = transport, group
        self._stopping: asyncio.Task[None] | None = None
        self.pipes = pipes
        self.pid = transport.get_pid()
        self.means: sandbox.Means = means
        self.limits = sorted(group.limits) if group is not None else []
        """Those of its control group."""
        pipes.kill = self._kill

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str,
        bounds: sandbox.Bounds,
        means: sandbox.Means,
        pipes: Callable[[], Pipes],
        group: Group | None,
    ) -> Program:
        """Raises RunnerFailed."""
        if group is not None:
            group.make(bounds)
        try:
            transport, made = await asyncio.get_running_loop().subprocess_exec(
                pipes, *sandbox.HELD, *command, env=env, cwd=cwd, start_new_session=True
            )
        except BaseException as error:
            if group is not None:
                group.remove()
            if isinstance(error, OSError):
                raise RunnerFailed(f"cannot start a process: {error.strerror}; raise the server's limits") from None
            raise
        program = cls(transport, made, means, group)
        try:
            if group is not None:
                group.enter(program.pid)
            sandbox.confine(program.pid, bounds, memory=group is None or "memory" not in group.limits)
        except OSError as error:
            await program.stop(grace_ms=0)
            raise RunnerFailed(f"cannot confine a process: {error.strerror}; look at the server's limits") from None
        program.say(b"\n")
        return program

    @property
    def running(self) -> bool:
        pipes = self.pipes
        return self._stopping is None and pipes.fault is None and not pipes.closed and not pipes.exited.done()

    @property
    def status(self) -> int | None:
        """How it ended: 128 + n after signal n."""
        code = self._transport.get_returncode()
        return code if code is None or code >= 0 else 128 - code

    def say(self, line: bytes) -> None:
        """A program that no longer reads is found out by its silence."""
        pipe = self._transport.get_pipe_transport(0)
        if pipe is not None and not pipe.is_closing():
            cast("asyncio.WriteTransport", pipe).write(line)

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
            if (stdin := self._transport.get_pipe_transport(0)) is not None:
                stdin.close()
            if not (await asyncio.wait(exited, timeout=grace_s / 2))[0]:
                self._terminate()
                await asyncio.wait(exited, timeout=grace_s / 2)
        if not self.pipes.exited.done():
            self._kill()
            if not (await asyncio.wait(exited, timeout=KILL_TIMEOUT_S))[0]:
                self._transport.kill()
                await asyncio.wait(exited, timeout=KILL_TIMEOUT_S)
        await self._first_gone()
        self.pipes.fail(Fault("program_exited", "the program was stopped", retryable=True))
        self._transport.close()
        if self._group is not None:
            await asyncio.to_thread(self._group.remove)

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
            self._transport.kill()


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
