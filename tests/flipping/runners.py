"""What a user sees of the settings of a runner that is a program."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

import pytest
from tests.flipping.rigs import Flipped, with_node

from adjourn.errors import AdjournError, ConfigInvalid
from adjourn.node import Node
from adjourn.runner import RunnerConfig
from adjourn.sessions.session import NewSession, Session
from adjourn.sessions.turn import Message

TENANT = "default"

SOURCE = """
import json, os, resource, signal, socket, sys, time
times = [time.monotonic()]
late = [word[5:] for word in sys.argv if word.startswith('late:')]
time.sleep(float(late[0]) if late else 0)
times.append(time.monotonic())
print(json.dumps({'type': 'ready'}), flush=True)
def forks(most):
    started = []
    try:
        for _ in range(most):
            pid = os.fork()
            if not pid:
                signal.pause()
            started.append(pid)
    except OSError:
        pass
    for pid in started:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(started)
for line in sys.stdin:
    said = json.loads(line)
    if said['type'] == 'turn':
        try:
            text = str(eval(said['text']))
        except Exception as error:
            text = type(error).__name__
        print(json.dumps({'type': 'text_delta', 'text': text}))
        print(json.dumps({'type': 'done'}), flush=True)
if 'slow' in sys.argv:
    time.sleep(1)
    open('farewell', 'w').close()
"""
"""A program that answers with the value of what it is told, as Python sees it."""
PROGRAM = [os.path.realpath(sys.executable), "-S", "-c", SOURCE]
AGENT = {"hosting.runners": [{"name": "agent", "type": "command", "command": PROGRAM, "isolation": "none"}]}
BOXED = {
    "hosting.runners": [
        {
            "name": "agent",
            "type": "command",
            "command": PROGRAM,
            "isolation": "bubblewrap",
            "readable": [sys.base_prefix],
        }
    ]
}
THREE_MEGABYTES = "open('three', 'wb').write(os.urandom(3_100_000))"


def with_words(*words: str) -> dict[str, object]:
    """The program with arguments."""
    agent = {"name": "agent", "type": "command", "command": [*PROGRAM, *words], "isolation": "none"}
    return {"hosting.runners": [agent]}


def runner_of(flip: Flipped) -> str:
    return flip.mapped["hosting"]["runners"][0].get("name", flip.mapped["hosting"]["runners"][0]["type"])


async def told(node: Node, session: Session, expression: str) -> str:
    """The program's answer, or the code of its turn's failure."""
    try:
        turn = (await node.sessions.send(TENANT, session.id, Message(prompt=expression))).turn
    except AdjournError as error:
        return error.code
    return turn.error.code if turn.error is not None else turn.text


async def made(node: Node, flip: Flipped, **config: Any) -> Session:
    new = NewSession(pattern="hybrid", runner=runner_of(flip), config=RunnerConfig(**config))
    return (await node.sessions.create(TENANT, new))[0]


class Says:
    """What the program answers to an expression."""

    def __init__(self, expression: str) -> None:
        self.expression = expression

    def __call__(self, flip: Flipped) -> str:
        async def work(node: Node) -> str:
            return await told(node, await made(node, flip), self.expression)

        return with_node(flip, work)


class Takes:
    """Whether a session is made whose config asks for that."""

    def __init__(self, **config: Any) -> None:
        self.config = config

    def __call__(self, flip: Flipped) -> str:
        async def work(node: Node) -> str:
            try:
                await made(node, flip, **self.config)
            except AdjournError as error:
                return error.code
            return "made"

        return with_node(flip, work)


def name_of_the_runner(flip: Flipped) -> str:
    async def work(node: Node) -> str:
        return (await made(node, flip)).runner

    return with_node(flip, work)


def runs_a_program(flip: Flipped) -> str:
    async def work(node: Node) -> str:
        return await told(node, await made(node, flip), "1 + 1")

    try:
        return with_node(flip, work)
    except ConfigInvalid:
        return "an echo runs none"


def reaches_a_port_of_this_machine(flip: Flipped) -> str:
    async def work(node: Node) -> str:
        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            connect = f"socket.create_connection(('127.0.0.1', {port}), 20) and 'connected'"
            said = await told(node, await made(node, flip), connect)
        finally:
            server.close()
        return "connected" if said == "connected" else "cannot"

    return with_node(flip, work)


def is_put_into_a_sandbox(flip: Flipped) -> bool:
    """Or refused, where this machine has none."""
    return Says("socket.gethostname()")(flip) in ("sandbox", "runner_failed")


def can_start_thirty(flip: Flipped) -> bool:
    """In a control group, or under bubblewrap: elsewhere there is no such limit."""
    runner = flip.mapped["hosting"]["runners"][0]
    if os.geteuid():
        runner |= {"isolation": "bubblewrap", "readable": [sys.base_prefix]}
    else:
        groups = [group for group in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup") if os.access(group, os.W_OK)]
        if not groups:
            pytest.skip("there is no control group that may be written to, and root is not limited without one")
        runner["cgroup"] = groups[:1]
    return Says("forks(30)")(flip) == "30"


def reads_a_file_of_ours(flip: Flipped) -> str:
    return Says(f"len(open({__file__!r}).read()) > 9")(flip)


def snapshot_of_three_megabytes(flip: Flipped) -> str:
    async def work(node: Node) -> str:
        session = await made(node, flip)
        await told(node, session, THREE_MEGABYTES)
        try:
            await node.sessions.snapshot(TENANT, session.id)
        except AdjournError:
            return "refused"
        return "taken"

    return with_node(flip, work)


def has_time_to_say_farewell(flip: Flipped) -> bool:
    async def work(node: Node) -> str:
        new = NewSession(pattern="single_container", runner=runner_of(flip))
        session = (await node.sessions.create(TENANT, new))[0]
        folder = await told(node, session, "os.getcwd()")
        await node.sessions.terminate(TENANT, session.id)
        return folder

    return os.path.exists(f"{with_node(flip, work)}/farewell")


def most_that_start_at_once(flip: Flipped) -> int:
    """Programs leave a mark when they begin to start, and are slow to be ready."""

    async def work(node: Node) -> int:
        beginning = [asyncio.create_task(_begin(node, flip)) for _ in range(3)]
        await asyncio.gather(*beginning)
        spans = sorted(task.result() for task in beginning)
        return max(sum(began <= at < ready for began, ready in spans) for at, _ in spans)

    return with_node(flip, work)


async def _begin(node: Node, flip: Flipped) -> tuple[float, float]:
    """When its process began and was ready, by its own clock."""
    new = NewSession(pattern="single_container", runner=runner_of(flip))
    session = (await node.sessions.create(TENANT, new))[0]
    began, ready = (await told(node, session, "' '.join(map(str, times))")).split()
    return float(began), float(ready)
