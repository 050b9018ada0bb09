"""The runner that runs a program: anything that speaks lines of JSON on its standard input and output.

A session that is open has one process, with a workspace of its own; what confines it is in `sandbox.py`. A program that
breaks the protocol, a limit, or itself fails its turn, and the next turn starts another.
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
import os
import shutil
import signal
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

import msgspec

from adjourn.errors import RunnerFailed, RunnerRefused
from adjourn.eventlog import get_logger
from adjourn.runner import Done, Facts, Opening, RunnerConfig, Turn, TurnEvent, TurnFailed
from adjourn.runners import jsonlines, sandbox
from adjourn.runners.cgroup import Group
from adjourn.runners.jsonlines import Fault, HistoryWanted, Log, Ready
from adjourn.runners.process import Pipes, Program
from adjourn.runners.workspace import pack, remove, unpack

_log = get_logger("adjourn.runners.command")

LAST_WORDS = 1_000
"""Of standard error, in a message; and of a line for the log."""
SECRET_LENGTH_MIN = 4  # shorter values of `env` are no secrets, and would tear holes into every word

_SIGNALS = frozenset(int(number) for number in signal.Signals)
_numbers = itertools.count()


class CommandSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an administrator says of a program. None: no limit."""

    name: str
    command: Sequence[str]
    models: Sequence[str] = ()
    """Those that it knows; empty: any."""
    tools: Sequence[str] = ()
    """Those that it has."""
    options: Sequence[str] | None = None
    """Those that it knows; None: any."""
    env: Mapping[str, str] = {}
    """All of its environment, but for PATH, HOME, LANG, TMPDIR and what begins with ADJOURN_."""
    readable: Sequence[str] = ()
    """Folders and files that it may read under bubblewrap, besides the system's and those that its command names."""
    isolation: sandbox.Isolation = "auto"
    network: bool = False
    cgroup: Sequence[str] = ()
    """The control group that the server may make groups in; of version 1, that of each controller."""
    bounds: sandbox.Bounds = sandbox.Bounds()
    output_mb_max: int = 64
    """Of a turn."""
    line_kb_max: int = 1_024
    workspace_mb_max: int = 1_024
    """Of what is archived or restored."""
    start_timeout_ms: int = 10_000
    stop_grace_ms: int = 2_000
    starts_max: int = 4
    """Programs that start at once; the others wait."""


class _Held:
    """A session that is open."""

    def __init__(self, opening: Opening) -> None:
        self.opening = opening
        self.program: Program | None = None
        self.lock = asyncio.Lock()
        """Of starting and closing."""
        self.turn_id = ""
        """Of the one that runs."""
        self.asked = False
        self.history_sent = False
        self.interrupted = False
        self.closed = False

    def begin(self, turn_id: str) -> None:
        self.turn_id = turn_id
        self.asked = self.history_sent = self.interrupted = False

    def rest(self) -> None:
        """The turn is over: what still comes is for nobody."""
        self.turn_id = ""
        if self.program is not None:
            self.program.pipes.rest()


class CommandRunner:
    """See the module. Raises nothing before `open`: whether the program is there is found out then."""

    def __init__(self, settings: CommandSettings) -> None:
        self._settings = settings
        self._held: dict[str, _Held] = {}
        self._starts = asyncio.Semaphore(settings.starts_max)
        self._means: sandbox.Means | None = None

    def check(self, config: RunnerConfig) -> None:
        known = self._settings
        _refuse_unknown(known.name, "model", config.model, known.models or None, "model")
        for number, tool in enumerate(config.allowed_tools):
            _refuse_unknown(known.name, "tool", tool, known.tools, f"allowed_tools[{number}]")
        for name in config.options:
            _refuse_unknown(known.name, "option", name, known.options, f"options.{name}")
        for number, agent in enumerate(config.agents):
            _refuse_unknown(known.name, "model", agent.model, known.models or None, f"agents[{number}].model")
            for at, tool in enumerate(agent.allowed_tools or ()):
                _refuse_unknown(known.name, "tool", tool, known.tools, f"agents[{number}].allowed_tools[{at}]")

    async def open(self, opening: Opening) -> None:
        held = self._held.setdefault(opening.session_id, _Held(opening))
        try:
            await self._program(held)
        except BaseException:
            if held.program is None:
                self._held.pop(opening.session_id, None)
            raise

    async def turn(self, session_id: str, turn: Turn) -> AsyncGenerator[TurnEvent, None]:
        held = self._held.get(session_id)
        if held is None:
            raise RunnerFailed(f"{session_id} is not open; open it before its turn")
        if held.turn_id:
            raise RunnerFailed(f"{session_id} runs {held.turn_id}; wait for its end")
        if refused := self._refused(held, turn):
            yield refused
            return
        held.begin(turn.turn_id)
        try:
            while held.turn_id:
                event = await self._next(held, turn)
                if isinstance(event, Done | TurnFailed):
                    held.rest()
                yield event
        finally:
            if held.turn_id:
                held.rest()
                if held.program is not None:
                    await held.program.stop(grace_ms=0)

    async def interrupt(self, session_id: str) -> None:
        held = self._held.get(session_id)
        if held is None or not held.turn_id or held.interrupted:
            return
        held.interrupted = True
        if (program := held.program) is not None:
            turn_id = held.turn_id
            program.say(jsonlines.line(jsonlines.Interrupt(turn_id=turn_id)))

            def late() -> None:
                if held.turn_id == turn_id and held.interrupted and held.program is program:
                    program.pipes.fail(Fault("interrupted", "the program did not stop when it was interrupted"))

            asyncio.get_running_loop().call_later(self._settings.stop_grace_ms / 1_000, late)

    def facts(self, session_id: str) -> Facts | None:
        held = self._held.get(session_id)
        if held is None:
            return None
        program = held.program
        return Facts(pid=program.pid, isolation=self._isolation(program)) if program and program.running else Facts()

    async def archive(self, session_id: str, workspace: str, *, bytes_max: int) -> bytes | None:
        return await asyncio.to_thread(pack, workspace, min(bytes_max, self._workspace_bytes_max))

    async def restore(self, workspace: str, archive: bytes) -> None:
        await asyncio.to_thread(unpack, workspace, archive, self._workspace_bytes_max)

    async def close(self, session_id: str, workspace: str = "") -> None:
        held = self._held.pop(session_id, None)
        if held is not None:
            held.closed = True
            async with held.lock:
                if held.program is not None:
                    # A turn that still runs is not asked politely: it would be waited for.
                    grace_ms = 0 if held.turn_id else self._settings.stop_grace_ms
                    await held.program.stop(grace_ms=grace_ms, farewell=jsonlines.line(jsonlines.Close()))
        if workspace:
            await asyncio.to_thread(remove, workspace)

    @property
    def _workspace_bytes_max(self) -> int:
        return self._settings.workspace_mb_max * sandbox.MB

    def _refused(self, held: _Held, turn: Turn) -> TurnFailed | None:
        names = [agent.name for agent in held.opening.config.agents]
        try:
            for name in turn.options:
                _refuse_unknown(self._settings.name, "option", name, self._settings.options, f"options.{name}")
        except RunnerRefused as error:
            return TurnFailed(error.code, error.message)
        if names and turn.said.agent not in (names if len(names) > 1 else [*names, ""]):
            return TurnFailed("agent_unknown", f"there is no agent {turn.said.agent!r}; there are {', '.join(names)}")
        return None

    # --- one event ---------------------------------------------------------------------------------------------------

    async def _next(self, held: _Held, turn: Turn) -> TurnEvent:
        try:
            if not held.asked and (failed := await self._ask(held, turn)) is not None:
                return failed
            while True:
                said = await self._read(held, turn)
                if isinstance(said, Log):
                    self._log(held, said)
                elif isinstance(said, HistoryWanted):
                    await self._tell(held, turn)
                elif isinstance(said, Ready):
                    raise Fault("protocol_error", "the program said `ready` within a turn; mend it")
                elif said is not None:
                    return said
        except Fault as fault:
            return await self._faulted(held, fault)

    async def _ask(self, held: _Held, turn: Turn) -> TurnEvent | None:
        try:
            program = await self._program(held)
        except RunnerFailed as error:
            return TurnFailed("start_failed", error.message, retryable=True)
        if held.interrupted:
            return Done("interrupted")
        program.pipes.listen()
        program.say(jsonlines.turn_line(turn, held.opening.config))
        held.asked = True
        return None

    async def _read(self, held: _Held, turn: Turn) -> Ready | Log | HistoryWanted | TurnEvent | None:
        program = held.program
        line = await program.pipes.line() if program else None
        if line is None:
            raise await _gone(program)
        said = jsonlines.read(line, turn.turn_id)
        if turn.said.agent and isinstance(said, jsonlines.OF_AGENTS) and not said.agent:
            return msgspec.structs.replace(said, agent=turn.said.agent)
        return said

    async def _tell(self, held: _Held, turn: Turn) -> None:
        if held.history_sent:
            raise Fault("protocol_error", "the program asked twice for the history in one turn; once is enough")
        held.history_sent = True
        messages = await turn.history()
        if held.program is not None:
            held.program.say(jsonlines.line(jsonlines.Conversation(turn_id=turn.turn_id, messages=messages)))

    async def _faulted(self, held: _Held, fault: Fault) -> TurnEvent:
        """The program is of no more use. What it failed with goes with its last words."""
        program = held.program
        if program is not None:
            await program.stop(grace_ms=0)
        if held.interrupted:
            return Done("interrupted")
        if held.closed:
            return TurnFailed("session_closed", "the session was closed during its turn", retryable=True)
        event = fault.event
        return msgspec.structs.replace(event, message=event.message + self._last_words(program))

    def _last_words(self, program: Program | None) -> str:
        words = program.pipes.tail.decode("utf-8", "replace") if program else ""
        for value in self._settings.env.values():
            if len(value) >= SECRET_LENGTH_MIN:
                words = words.replace(value, "***")
        words = words.strip()[-LAST_WORDS:]
        return f"; its last words: {words}" if words else ""

    def _log(self, held: _Held, said: Log) -> None:
        session, text = held.opening.session_id, msgspec.json.encode(said.message[:LAST_WORDS]).decode()  # on one line
        if said.level == "error":
            _log.error("program_log", session_id=session, message=text)
        if said.level == "warning":
            _log.warning("program_log", session_id=session, message=text)
        if said.level == "info":
            _log.info("program_log", session_id=session, message=text)

    # --- one process -------------------------------------------------------------------------------------------------

    async def _program(self, held: _Held) -> Program:
        """The one that runs, or a new one."""
        async with held.lock:
            if held.program is not None:
                if held.program.running:
                    return held.program
                await held.program.stop(grace_ms=0)
            if held.closed:
                raise RunnerFailed(f"{held.opening.session_id} is closed; open it again")
            async with self._starts:
                held.program = await self._start(held.opening)
            return held.program

    async def _start(self, opening: Opening) -> Program:
        """Raises RunnerFailed."""
        known, means, workspace = self._settings, await self._choose(), _absolute(opening.workspace)
        program = await Program.start(
            self._confined(workspace, means),
            env=sandbox.environment(known.env, opening.session_id, workspace, means),
            cwd="/" if means == "bubblewrap" else workspace,
            bounds=known.bounds,
            means=means,
            pipes=Pipes(
                means, line_bytes_max=known.line_kb_max * 1_024, output_bytes_max=known.output_mb_max * sandbox.MB
            ),
            group=Group(known.cgroup, f"adjourn-{os.getpid()}-{next(_numbers)}") if known.cgroup else None,
        )
        try:
            program.say(jsonlines.open_line(opening, workspace))
            await asyncio.wait_for(self._ready(program), known.start_timeout_ms / 1_000)
        except TimeoutError:
            fault = Fault("", f"the program did not say `ready` within {known.start_timeout_ms} ms")
            raise await self._unstarted(program, fault) from None
        except Fault as fault:
            raise await self._unstarted(program, fault) from None
        except BaseException:
            await program.stop(grace_ms=0)
            raise
        program.pipes.rest()
        return program

    async def _ready(self, program: Program) -> None:
        while (line := await program.pipes.line()) is not None:
            said = jsonlines.read(line, "")
            if isinstance(said, Ready):
                return
            if isinstance(said, TurnFailed):
                raise Fault(said.code, f"the program refused the session: {said.message}")
            if not isinstance(said, Log):
                raise Fault("", "the program said something else before `ready`")
        raise await _gone(program)

    async def _unstarted(self, program: Program, fault: Fault) -> RunnerFailed:
        await program.stop(grace_ms=0)
        return RunnerFailed(f"{self._settings.name}: {fault.event.message}{self._last_words(program)}")

    def _confined(self, workspace: str, means: sandbox.Means) -> list[str]:
        known = self._settings
        found = shutil.which(known.command[0], path=known.env.get("PATH", sandbox.PATH))
        if found is None:
            raise RunnerFailed(f"{known.name}: there is no program {known.command[0]!r}; give its whole path")
        command = [found, *known.command[1:]]
        try:
            os.makedirs(workspace, mode=0o700, exist_ok=True)
            if means == "keeper":
                os.makedirs(Path(workspace, ".tmp"), exist_ok=True)
                return sandbox.keeper(command, network=known.network or known.isolation == "none")
        except OSError as error:
            raise RunnerFailed(f"cannot make the workspace {workspace}: {error.strerror}") from None
        return sandbox.bubblewrap(command, workspace, known.bounds, network=known.network, readable=known.readable)

    async def _choose(self) -> sandbox.Means:
        if self._settings.isolation == "none":
            return "keeper"
        if self._means is None:
            why = await asyncio.to_thread(sandbox.why_no_bubblewrap)
            if why and self._settings.isolation == "bubblewrap":
                raise RunnerFailed(f"{self._settings.name}: {why}; or set isolation to auto or none")
            if why:
                _log.warning("program_without_bubblewrap", runner=self._settings.name, why=why)
            self._means = "keeper" if why else "bubblewrap"
        return self._means

    def _isolation(self, program: Program) -> list[str]:
        known = self._settings
        return [
            program.means,
            *([] if known.network or known.isolation == "none" else ["no_network"]),
            "rlimits",
            *(f"cgroup_{limit}" for limit in program.limits),
        ]


def _absolute(path: str) -> str:
    return os.path.abspath(path)


async def _gone(program: Program | None) -> Fault:
    if program is None:
        return Fault("program_exited", "the program has gone", retryable=True)
    await program.exit()
    status = program.status
    if status is None:
        return Fault("stdout_closed", "the program closed its standard output without an answer; mend it")
    if status == 0:
        return Fault("program_exited", "the program exited without an answer; a turn ends with `done` or `error`")
    how = f"by {signal.Signals(status - 128).name}" if status - 128 in _SIGNALS else f"with status {status}"
    return Fault("program_crashed", f"the program ended {how} without an answer", retryable=True)


def _refuse_unknown(runner: str, kind: str, name: str, known: Sequence[str] | None, path: str) -> None:
    """An empty name is the program's own choice."""
    if not name or known is None or name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}" if known else "there are none"
    raise RunnerRefused(f"{runner} has no {kind} {name!r}; {hint}", path=path)
