"""The command runner: programs that behave, programs that do not, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from adjourn.errors import RunnerFailed, RunnerRefused
from adjourn.runner import Agent, Done, RunnerConfig
from adjourn.runners.command import CommandRunner
from adjourn.runners.sandbox import Bounds, Isolation
from adjourn.testing.exercise_runner import exercise_runner
from tests.runners.rigs import (
    NO_BUBBLEWRAP,
    CommandRig,
    asked,
    children,
    failure_of,
    in_loop,
    opening,
    settings,
    strays,
    text_of,
)

with_bubblewrap = pytest.param("bubblewrap", marks=pytest.mark.skipif(bool(NO_BUBBLEWRAP), reason=NO_BUBBLEWRAP))
either = pytest.mark.parametrize("isolation", ["none", with_bubblewrap])


@pytest.fixture(autouse=True)
def nothing_is_left() -> Any:
    """Of each test: no process, no file descriptor."""
    uvloop.run(asyncio.sleep(0))  # the first loop of a process opens what it keeps
    files, before = descriptors(), set(children())
    yield
    assert set(children()) <= before
    assert descriptors() <= files


def descriptors() -> set[str]:
    found: set[str] = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        except OSError:
            continue  # that of the listing itself
    return found


@asynccontextmanager
async def opened(folder: Path, isolation: Isolation, **more: Any) -> AsyncIterator[CommandRunner]:
    config = more.pop("config", {})
    runner = CommandRunner(settings(isolation, **more))
    await runner.open(opening(folder, **config))
    try:
        yield runner
    finally:
        await runner.close("sess_1", str(folder / "sess_1"))
        assert not (folder / "sess_1").exists()


async def turn(runner: CommandRunner, deed: str, text: str = "hello", **more: Any) -> list[Any]:
    return [event async for event in runner.turn("sess_1", asked(text, deed=deed, **more))]


@either
def test_it_keeps_the_contract(isolation: Isolation) -> None:
    """A program under the command runner passes the suite of runners, confined or not."""
    asyncio.run(exercise_runner(lambda: CommandRig(isolation)))


# --- programs that misbehave -----------------------------------------------------------------------------------------

MISDEEDS = [
    ("crash", "program_crashed", "with status 7"),
    ("segfault", "program_crashed", "by SIGSEGV"),
    ("exit_0", "program_exited", "without an answer"),
    ("close_stdout", "stdout_closed", "closed its standard output"),
    ("malformed", "protocol_error", "no line of the protocol"),
    ("unknown", "protocol_error", "no_such_type"),
    ("refund", "protocol_error", "negative"),
    ("flood", "output_too_large", "more than 4 MB"),
    ("long_line", "line_too_long", "more than 256 KB"),
    ("stderr_flood", "output_too_large", "more than 4 MB"),
    ("fork", "program_crashed", "with status 3"),
]


@either
@pytest.mark.parametrize(("deed", "code", "words"), MISDEEDS, ids=[deed for deed, *_ in MISDEEDS])
@in_loop
async def test_what_misbehaves_fails_its_turn(
    tmp_path: Path, isolation: Isolation, deed: str, code: str, words: str
) -> None:
    """A program that breaks fails its turn with a code and a reason, is gone with all that it started when the turn has
    ended, and the next turn starts another."""
    before = set(children())
    async with opened(tmp_path, isolation, output_mb_max=4, line_kb_max=256) as runner:
        failed = failure_of(await turn(runner, deed, "crash"))
        assert failed.code == code
        assert words in failed.message
        assert set(children()) <= before
        assert not strays(f"grandchild of {tmp_path}")
        events = await turn(runner, "answer")
        assert (text_of(events), events[-1]) == ("hello", Done("end_turn"))


@either
@in_loop
async def test_the_last_words_of_a_program_are_told_without_its_secrets(tmp_path: Path, isolation: Isolation) -> None:
    """The end of standard error is in the message of a crash; the values of the program's environment are not."""
    async with opened(tmp_path, isolation, env={"API_TOKEN": "sk-very-secret"}) as runner:
        failed = failure_of(await turn(runner, "crash"))
        assert "cannot go on with ***" in failed.message
        assert "secret" not in failed.message


@either
@pytest.mark.parametrize("how", ["interrupt", "close the turn", "close the session"])
@in_loop
async def test_what_ignores_being_asked_is_killed(tmp_path: Path, isolation: Isolation, how: str) -> None:
    """A program that heeds neither an interrupt nor SIGTERM is killed after its grace."""
    async with opened(tmp_path, isolation) as runner:
        async with aclosing(runner.turn("sess_1", asked("x", deed="ignore"))) as events:
            await anext(events)
            if how == "interrupt":
                await runner.interrupt("sess_1")
                assert await anext(events) == Done("interrupted")
            elif how == "close the session":
                await runner.close("sess_1")
                assert failure_of([await anext(events)]).code == "session_closed"
                await runner.open(opening(tmp_path))
        assert text_of(await turn(runner, "answer")) == "hello"


@either
@in_loop
async def test_what_ignores_sigterm_between_turns_is_killed(tmp_path: Path, isolation: Isolation) -> None:
    """Closing a session is bounded also where its program waits for nothing any more."""
    script = "read open; echo '{\"type\":\"ready\"}'; trap '' TERM; while :; do sleep 1; done"
    async with opened(tmp_path, isolation, command=["/bin/sh", "-c", script]):
        pass


@either
@in_loop
async def test_grandchildren_die_with_the_session(tmp_path: Path, isolation: Isolation) -> None:
    """Grandchildren that have left the session and the group, ignore SIGTERM and hold the pipes die with the program:
    when the session closes, and when its turn is closed early."""
    async with opened(tmp_path, isolation) as runner:
        assert text_of(await turn(runner, "fork")) == "forked"
        assert strays(f"grandchild of {tmp_path}")
    assert not strays(f"grandchild of {tmp_path}")
    async with opened(tmp_path, isolation) as runner:
        async with aclosing(runner.turn("sess_1", asked("hang", deed="fork"))) as events:
            await anext(events)
            assert strays(f"grandchild of {tmp_path}")
        assert not strays(f"grandchild of {tmp_path}")


@either
@in_loop
async def test_a_slow_listener_holds_the_program_back(tmp_path: Path, isolation: Isolation) -> None:
    """Output waits in the pipe while nobody reads it; it is not collected."""
    async with opened(tmp_path, isolation) as runner:
        async with aclosing(runner.turn("sess_1", asked("x", deed="flood"))) as events:
            await anext(events)
            held = runner._held["sess_1"].program
            assert held is not None
            pipes, seen = held.pipes, -1
            while seen != pipes.output_bytes or not pipes._paused:
                seen = pipes.output_bytes
                await asyncio.sleep(0.2)
            assert seen < 2_000_000


@either
@in_loop
async def test_what_is_said_after_the_end_is_not_heard(tmp_path: Path, isolation: Isolation) -> None:
    """Lines after a turn's last one do not come up in the next turn."""
    async with opened(tmp_path, isolation) as runner:
        assert [type(event).__name__ for event in await turn(runner, "late", turn_id="turn_1")] == ["Done"]
        for number in range(2, 5):
            events = await turn(runner, "answer", turn_id=f"turn_{number}")
            assert "".join(dict.fromkeys(text_of(events).split("too late"))) == "hello"


@either
@in_loop
async def test_a_program_that_dies_between_turns_is_started_again(tmp_path: Path, isolation: Isolation) -> None:
    """A program keeps its memory from turn to turn; killed from outside, another takes over with the next turn."""
    async with opened(tmp_path, isolation) as runner:
        assert text_of(await turn(runner, "remember", "a")) == "a"
        assert text_of(await turn(runner, "remember", "b")) == "a b"
        facts = runner.facts("sess_1")
        assert facts is not None
        assert facts.pid is not None
        os.kill(facts.pid, signal.SIGKILL if isolation == "bubblewrap" else signal.SIGUSR1)
        while (facts := runner.facts("sess_1")) is not None and facts.pid is not None:
            await asyncio.sleep(0.01)
        assert text_of(await turn(runner, "remember", "c")) == "c"


# --- what a program may see and use ----------------------------------------------------------------------------------


@either
@in_loop
async def test_the_servers_secrets_do_not_reach_it(
    tmp_path: Path, isolation: Isolation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program's environment is what its settings say, and nothing of the server's."""
    monkeypatch.setenv("DATABASE_PASSWORD", "hunter2")
    async with opened(tmp_path, isolation, env={"API_TOKEN": "its own"}) as runner:
        seen = text_of(await turn(runner, "environment"))
    names = {line.partition("=")[0] for line in seen.splitlines()} - {"PWD", "OLDPWD", "SHLVL", "_", "LC_CTYPE"}
    assert names == {
        "PATH", "HOME", "TMPDIR", "LANG", "ADJOURN_SESSION_ID", "ADJOURN_WORKSPACE", "API_TOKEN", "AGENT_PROGRAM",
    }  # fmt: skip
    assert "hunter2" not in seen


@pytest.mark.skipif(bool(NO_BUBBLEWRAP), reason=NO_BUBBLEWRAP)
@in_loop
async def test_bubblewrap_hides_what_is_not_its_own(tmp_path: Path) -> None:
    """Under bubblewrap a program reads the system and its workspace, writes the workspace alone, and reaches
    nothing."""
    (tmp_path / "secret").write_text("hunter2")
    (tmp_path / "sess_1").mkdir()
    (tmp_path / "sess_1" / "own").write_text("mine")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        async with opened(tmp_path, "bubblewrap") as runner:
            assert text_of(await turn(runner, "read", "own")) == "mine"
            assert text_of(await turn(runner, "write", "new")) == "written"
            assert (tmp_path / "sess_1" / "new").read_text() == "was here"
            for deed, text in [
                ("read", str(tmp_path / "secret")),
                ("read", "/etc/shadow"),
                ("read", f"/proc/{os.getpid()}/environ"),
                ("write", "/usr/new"),
                ("write", "/new"),
                ("write", "/etc/new"),
                ("connect", port),
            ]:
                assert failure_of(await turn(runner, deed, text)).code == "exception", (deed, text)
            await turn(runner, "write", str(tmp_path / "new"))  # in a /tmp of its own, which goes with it
            assert not (tmp_path / "new").exists()
            facts = runner.facts("sess_1")
            assert facts is not None
            assert {"bubblewrap", "no_network", "rlimits"} <= set(facts.isolation)
        async with opened(tmp_path, "bubblewrap", network=True) as runner:
            assert text_of(await turn(runner, "connect", port)) == "connected"


@in_loop
async def test_without_bubblewrap_there_is_no_network_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` without bubblewrap takes the network away all the same, or does not open where the kernel forbids that."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        try:
            async with opened(tmp_path, "auto") as runner:
                assert failure_of(await turn(runner, "connect", port)).code == "exception"
                facts = runner.facts("sess_1")
                assert facts is not None
                assert list(facts.isolation) == ["keeper", "no_network", "rlimits"]
        except RunnerFailed as error:
            assert "cannot take the network away" in error.message  # noqa: PT017 (either is right)
        async with opened(tmp_path, "none") as runner:
            assert text_of(await turn(runner, "connect", port)) == "connected"


@either
@in_loop
async def test_memory_and_files_are_bounded(tmp_path: Path, isolation: Isolation) -> None:
    """A program that wants more memory, or a larger file, than it may have does not get it."""
    async with opened(tmp_path, isolation, bounds=Bounds(memory_mb_max=200, file_mb_max=1)) as runner:
        assert text_of(await turn(runner, "allocate", "20")) == str(20 * 2**20)
        assert "MemoryError" in failure_of(await turn(runner, "allocate", "400")).message


@either
@in_loop
async def test_agents_are_known_by_name(tmp_path: Path, isolation: Isolation) -> None:
    """A message to an agent that the session does not have fails its turn, and names those that there are."""
    config = {"agents": [Agent(name="ann"), Agent(name="bob")]}
    async with opened(tmp_path, isolation, config=config) as runner:
        failed = failure_of(await turn(runner, "answer", agent="eve"))
        assert (failed.code, "ann, bob" in failed.message) == ("agent_unknown", True)


# --- programs that cannot begin --------------------------------------------------------------------------------------


@either
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["no-such-program"], "there is no program 'no-such-program'"),
        (["/bin/sh", "-c", "echo no key >&2; exit 4"], "with status 4 without an answer; its last words: no key"),
        (["/bin/sh", "-c", "exit 0"], "exited without an answer"),
        (["/bin/sh", "-c", "echo hello; sleep 60"], "no line of the protocol: 'hello'"),
        (["/bin/sh", "-c", 'echo \'{"type":"error","code":"x","message":"no model"}\''], "no model"),
        (["/bin/sh", "-c", 'echo \'{"type":"done"}\'; sleep 60'], "something else before `ready`"),
        (["/bin/sh", "-c", "sleep 60"], "did not say `ready` within 300 ms"),
    ],
)
@in_loop
async def test_a_program_that_cannot_begin(
    tmp_path: Path, isolation: Isolation, command: list[str], words: str
) -> None:
    """A session does not open where its program is not there, ends, or says something else; nothing is left of it."""
    timeout_ms = 300 if words.endswith("300 ms") else 60_000
    runner = CommandRunner(settings(isolation, command=command, start_timeout_ms=timeout_ms))
    with pytest.raises(RunnerFailed) as failed:
        await runner.open(opening(tmp_path))
    assert words in failed.value.message
    assert runner.facts("sess_1") is None
    await runner.close("sess_1", str(tmp_path / "sess_1"))
    assert not (tmp_path / "sess_1").exists()


@in_loop
async def test_an_open_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    """Whoever gives up opening a session leaves no process behind."""
    runner = CommandRunner(settings("none", command=["/bin/sh", "-c", "sleep 600"]))
    before = set(children())
    task = asyncio.create_task(runner.open(opening(tmp_path)))
    while not set(children()) - before:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    await runner.close("sess_1", str(tmp_path / "sess_1"))


@in_loop
async def test_bubblewrap_that_is_asked_for_and_missing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`isolation: bubblewrap` is refused where there is none, with what to install; `auto` does without it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunnerFailed, match="bwrap is not installed"):
        await CommandRunner(settings("bubblewrap")).open(opening(tmp_path))
    async with opened(tmp_path, "auto", network=True) as runner:
        facts = runner.facts("sess_1")
        assert facts is not None
        assert list(facts.isolation) == ["keeper", "rlimits"]


@pytest.mark.parametrize(
    ("config", "path", "words"),
    [
        (RunnerConfig(model="gpt-4"), "model", "did you mean 'gpt-4o'?"),
        (RunnerConfig(model="gpt-4o", allowed_tools=["Read", "Red"]), "allowed_tools[1]", "did you mean 'Read'?"),
        (RunnerConfig(model="gpt-4o", options={"deeds": 1}), "options.deeds", "did you mean 'deed'?"),
        (RunnerConfig(agents=[Agent(name="ann", model="o9")]), "agents[0].model", "there are gpt-4o"),
        (RunnerConfig(agents=[Agent(name="ann", allowed_tools=["X"])]), "agents[0].allowed_tools[0]", "there are Read"),
    ],
)
def test_what_is_not_there_is_refused(config: RunnerConfig, path: str, words: str) -> None:
    """A model, tool or option that the program does not have is refused with its path and what there is."""
    runner = CommandRunner(settings("none", models=["gpt-4o"], tools=["Read", "Edit"]))
    with pytest.raises(RunnerRefused) as refused:
        runner.check(config)
    assert refused.value.path == path
    assert words in refused.value.message
