"""A program for the command runner that does what its prompt says, word by word, well or badly: `say:so leave:7`.

It speaks the runner protocol by itself, with the standard library alone. What it does before it is ready is the
session's system prompt.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

MARK = os.environ.get("FAULT_MARK", "")
"""In the command line of whatever it leaves behind."""
FOREVER_S = 3_600
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


class Program:
    def __init__(self) -> None:
        self.partial = b""
        self.turn_id = ""
        self.text = ""

    def run(self) -> None:
        opened = self.read()
        self.do(opened["system_prompt"])
        self.tell(type="ready")
        while (line := self.read())["type"] != "close":
            if line["type"] == "turn":
                self.turn_id, self.text = line["turn_id"], line["text"]
                if self.do(line["text"]):
                    self.tell(type="done")

    def do(self, words: str) -> bool:
        """Whether the turn has still to end."""
        for word in words.split():
            name, _, argument = word.partition(":")
            if DEEDS[name](self, argument):
                return False
        return True

    def tell(self, **fields: object) -> None:
        write(1, json.dumps(fields).encode() + b"\n")

    def read(self) -> dict[str, str]:
        while b"\n" not in self.partial:
            part = os.read(0, 65_536)
            if not part:
                sys.exit(0)
            self.partial += part
        line, _, self.partial = self.partial.partition(b"\n")
        return json.loads(line) if line.strip() else self.read()


def write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


# --- deeds: what they return says whether the turn is over ------------------------------------------------------------


def say(program: Program, text: str) -> None:
    program.tell(type="text_delta", text=text)


def spend(program: Program, usd: str) -> None:
    program.tell(type="cost", usd=usd)


def use(program: Program, tokens: str) -> None:
    program.tell(type="usage", input_tokens=int(tokens), output_tokens=0)


def write_file(program: Program, name: str) -> None:
    with open(name, "w") as file:
        file.write("was here")


def wait(program: Program, _: str) -> bool:
    """As one should: until it is interrupted."""
    while program.read()["type"] != "interrupt":
        pass
    program.tell(type="done", stop_reason="interrupted")
    return True


def stream(program: Program, pieces: str) -> None:
    """At a client's pace: a cent and a word each, every 20 ms; ends early when it is interrupted."""
    for number in range(int(pieces)):
        say(program, f"{number} ")
        spend(program, "0.01")
        if select.select([0], [], [], 0.02)[0] and program.read()["type"] == "interrupt":
            return


def hang(program: Program, _: str) -> None:
    time.sleep(FOREVER_S)


def ignore(program: Program, _: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def leave(program: Program, status: str) -> None:
    os._exit(int(status))


def die(program: Program, name: str) -> None:
    os.kill(os.getpid(), signal.Signals[name])
    hang(program, "")


def complain(program: Program, text: str) -> None:
    write(2, text.encode() + b"\n")


def fork(program: Program, _: str) -> None:
    """A grandchild that ignores SIGTERM and holds the pipes."""
    subprocess.Popen([sys.executable, "-IS", "-c", STUBBORN, MARK])


def daemon(program: Program, _: str) -> None:
    """One that has left session, group and parent, and holds none of the pipes."""
    nothing = subprocess.DEVNULL
    again = f"import subprocess, sys; subprocess.Popen([sys.executable, '-IS', '-c', {STUBBORN!r}, {MARK!r}])"
    subprocess.run(
        [sys.executable, "-IS", "-c", again, MARK],
        stdin=nothing,
        stdout=nothing,
        stderr=nothing,
        start_new_session=True,
        check=True,
    )


def flood(program: Program, where: str) -> None:
    """As lines of the protocol, as one line, or on standard error."""
    piece = {"lines": b'{"type":"text_delta","text":"' + b"x" * 4_000 + b'"}\n'}.get(where, b"x" * 65_536)
    while True:
        write(2 if where == "stderr" else 1, piece)


def garble(program: Program, how: str) -> None:
    """A line that is none of the protocol; then silence."""
    lines = {
        "words": b"hello, here I am\n",
        "bytes": b"\xff\xfe\x00\x80\n",
        "half": b'{"type": "text_del\n',
        "list": b"[1, 2]\n",
        "type": b'{"type": "sing"}\n',
        "deep": b'{"type":"tool_call","id":"1","name":"x","arguments":' + b"[" * 30_000 + b"]" * 30_000 + b"}\n",
        "refund": b'{"type":"cost","usd":"-5"}\n',
        "nan": b'{"type":"cost","usd":"NaN"}\n',
        "surrogate": b'{"type":"text_delta","text":"\\ud800"}\n',
        "nul": b'{"type":"text_delta","text":"a\\u0000b"}\n',
        "empty": b"\n\n\n",
        "ready": b'{"type":"ready"}\n',
    }
    write(1, lines[how])


def close(program: Program, which: str) -> None:
    os.close({"stdout": 1, "stdin": 0}[which])


def done(program: Program, _: str) -> bool:
    """The turn is over; what follows is done after it."""
    program.tell(type="done")
    return False


def end(program: Program, _: str) -> bool:
    """No further `done`."""
    return True


def twice(program: Program, _: str) -> bool:
    write(1, b'{"type":"done"}\n{"type":"done"}\n{"type":"text_delta","text":"more"}\n{"type":"error","code":"x"}\n')
    return True


DEEDS: dict[str, Callable[[Program, str], bool | None]] = {
    each.__name__: each
    for each in (say, spend, use, wait, stream, hang, ignore, leave, die, complain, fork, daemon, flood, garble, close)
}
DEEDS |= {"write": write_file, "done": done, "end": end, "twice": twice}

if __name__ == "__main__":
    Program().run()
