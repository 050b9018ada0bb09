"""A program for the tests of the command runner: does what the options of its turn say, well or badly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

# Beside the package, as a copy of the file would be: importing all of Adjourn takes half a second.
sys.path.insert(0, os.environ["AGENT_PROGRAM"])
from agent_program import Failed, Turn, serve

GRANDCHILD = "import os, signal, time; os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"


def answer(turn: Turn) -> Iterator[str]:
    deed = turn.options.get("deed", "answer")
    yield from {**WELL, **BADLY}[deed](turn)


def echo(turn: Turn) -> Iterator[str]:
    yield turn.text


def stream(turn: Turn) -> Iterator[str]:
    yield turn.text
    for number in range(25):
        time.sleep(0.01)
        yield f" {number}"


def hang(turn: Turn) -> Iterator[str]:
    yield "waiting"
    while not turn.interrupted:
        time.sleep(0.005)


def fail(turn: Turn) -> Iterator[str]:
    yield "some"
    raise Failed("told_to", "told to fail")


def cost(turn: Turn) -> Iterator[str]:
    turn.usage(input_tokens=7, output_tokens=1)
    turn.cost("0.001")
    yield "that costs"
    turn.usage(output_tokens=2)
    turn.cost("0.0005")


def tool(turn: Turn) -> Iterator[str]:
    call = turn.tool_call("look", {"at": "sky"})
    turn.tool_result(call, ["blue"])
    yield "it is blue"


def count(turn: Turn) -> Iterator[str]:
    yield str(len(turn.history()))


def environment(turn: Turn) -> Iterator[str]:
    yield "\n".join(f"{name}={value}" for name, value in sorted(os.environ.items()))


def read(turn: Turn) -> Iterator[str]:
    with open(turn.text, "rb") as file:
        yield file.read(1_000).decode("utf-8", "replace")


def connect(turn: Turn) -> Iterator[str]:
    import socket

    with socket.create_connection(("127.0.0.1", int(turn.text)), timeout=10):
        yield "connected"


def write(turn: Turn) -> Iterator[str]:
    with open(turn.text, "w") as file:
        file.write("was here")
    yield "written"


def allocate(turn: Turn) -> Iterator[str]:
    yield str(len(bytearray(int(turn.text) * 2**20)))


def remember(turn: Turn) -> Iterator[str]:
    MEMORY.append(turn.text)
    yield " ".join(MEMORY)


def fork(turn: Turn) -> Iterator[str]:
    """Grandchildren that leave the session and the group, ignore SIGTERM, and hold the pipes open."""
    for _ in range(3):
        subprocess.Popen([sys.executable, "-S", "-c", GRANDCHILD, f"grandchild of {os.getcwd()}"], env={})
    yield "forked"
    if turn.text == "crash":
        os._exit(3)
    while turn.text == "hang":
        time.sleep(1)


def crash(turn: Turn) -> Iterator[str]:
    yield "so far"
    sys.stderr.write(f"cannot go on with {os.environ.get('API_TOKEN')}\n")
    sys.stderr.flush()
    os._exit(7)


def segfault(turn: Turn) -> Iterator[str]:
    yield "so far"
    os.kill(os.getpid(), signal.SIGSEGV)


def exit_0(turn: Turn) -> Iterator[str]:
    yield "so far"
    os._exit(0)


def close_stdout(turn: Turn) -> Iterator[str]:
    yield "so far"
    os.close(turn._program._answers.fileno())
    time.sleep(600)


def malformed(turn: Turn) -> Iterator[str]:
    yield "so far"
    _raw(turn, b'{"type": "text_delta", "text": \n')
    time.sleep(600)


def unknown(turn: Turn) -> Iterator[str]:
    _raw(turn, b'{"type": "no_such_type"}\n')
    yield ""
    time.sleep(600)


def refund(turn: Turn) -> Iterator[str]:
    turn.cost("-5")
    yield ""
    time.sleep(600)


def late(turn: Turn) -> Iterator[str]:
    """Speaks after its end: of this turn, and of none."""
    _raw(turn, b'{"type":"done"}\n' + b'{"type":"text_delta","text":"too late"}\n' * 1_000)
    yield "too late"


def flood(turn: Turn) -> Iterator[str]:
    while True:
        yield "x" * 10_000


def long_line(turn: Turn) -> Iterator[str]:
    yield ""
    while True:
        _raw(turn, b"x" * 65_536)


def stderr_flood(turn: Turn) -> Iterator[str]:
    yield ""
    while True:
        os.write(2, b"y" * 65_536)


def ignore(turn: Turn) -> Iterator[str]:
    """Neither an interrupt nor SIGTERM ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield "never"
    while True:
        time.sleep(600)


def _raw(turn: Turn, text: bytes) -> None:
    os.write(turn._program._answers.fileno(), text)


MEMORY: list[str] = []
WELL = {f.__name__: f for f in (stream, hang, fail, cost, tool, count, environment, read, write, connect, remember)}
WELL |= {"answer": echo, "allocate": allocate, "fork": fork}
BADLY = {
    f.__name__: f
    for f in (crash, segfault, exit_0, close_stdout, malformed, unknown, refund, late, flood, long_line, stderr_flood)
}
BADLY |= {"ignore": ignore}

serve(answer)
