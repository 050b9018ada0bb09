"""Several programs capture while the server is killed every few seconds, and started again at once, for minutes:

python -m tests.faults.capture_under_kills --minutes 3 [--database postgresql] [--seed N]

Prints what became of the calls. `test_capture_under_kills.py` is the same in short.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from tests.faults.capturers import Tally
from tests.faults.rigs import ended, mapping, settings_of, url_of
from tests.flipping.rigs import free_port

from adjourn.delivery.conservation import Balance
from adjourn.node import Node
from adjourn.testing.account import Account, compare, logged, stored
from adjourn.testing.faults import run_python
from adjourn.testing.unreliable import UnreliableReceiver

ROOT = Path(__file__).parents[2]
BETWEEN_KILLS_S = (2.0, 4.0)
UP_S = (1.0, 2.0)
"""On a machine on which a start takes longer than the time between kills, it is left alone for this long."""
KILLS_MIN = 3
DRAIN_S = 240.0
HOOK_PATH = "/hook"


@dataclass
class Result:
    """What became of the calls, and what is in the log, at a database destination and at a webhook."""

    tallies: list[Tally] = field(default_factory=list[Tally])
    kills: int = 0
    down_s: float = 0.0
    """From each start to its first line."""
    seconds: float = 0.0
    log: Account | None = None
    table: Account | None = None
    hook: Account | None = None
    balances: list[Balance] = field(default_factory=list[Balance])

    @property
    def calls(self) -> int:
        return sum(tally.calls for tally in self.tallies)

    @property
    def accepted(self) -> int:
        return sum(tally.first + tally.retried for tally in self.tallies)

    def said(self) -> str:
        lines = [f"{self.seconds:.0f} s, {self.kills} kills, {self.down_s:.0f} s without a server"]
        for tally in self.tallies:
            lines.append(
                f"{tally.kind:8} {tally.calls:6} calls: {tally.first} taken at first, {tally.retried} at a retry, "
                f"{tally.refused} refused; at most {tally.tries_max} tries, {tally.wait_ms_max} ms"
            )
            lines += [f"         {error}" for error in tally.errors[:3]]
        share = 100 * self.accepted / max(1, self.calls)
        lines.append(f"{'all':8} {self.calls:6} calls, {self.accepted} accepted: {share:.3f} %")
        for name in ("log", "table", "hook"):
            account: Account = getattr(self, name)
            lost, doubled = len(account.missing), len(account.doubled)
            lines.append(f"{name:8} {account.found:6} events, {lost} of those accepted are lost, {doubled} are doubled")
        return "\n".join(lines)


def run(directory: Path, *, database: str, seconds: float, rng: random.Random, kinds: Sequence[str]) -> Result:
    port = free_port()
    result = Result()
    with UnreliableReceiver(rng, sessions_of) as receiver:
        mapped = mapping(
            directory, url_of(database, directory), server={"port": port}, routing=routing(directory, receiver)
        )
        config = directory / "adjourn.yaml"
        config.write_text(json.dumps(mapped))
        servers = Servers(config, rng)
        capturers: list[subprocess.Popen[bytes]] = []
        try:
            servers.start()
            for number, kind in enumerate(kinds):
                own = directory / f"capturer-{number}"
                own.mkdir()
                url = f"http://127.0.0.1:{port}"
                capturers.append(program("tests.faults.capturers", kind, url, f"{kind}{number}", str(own)))
            servers.kill_for(seconds)
            result.tallies = [finished(each) for each in capturers]
        finally:
            servers.kill()
            for each in capturers:
                ended(each)
        result.kills, result.down_s, result.seconds = servers.kills, servers.down_s, seconds
        asyncio.run(account(result, mapped, directory, receiver))
    return result


def routing(directory: Path, receiver: UnreliableReceiver) -> dict[str, object]:
    hook = {"type": "webhook", "url": receiver.url(HOOK_PATH), "batch_size": 50, "compression": "none"}
    allowed = {"allow_http": True, "allow_networks": ["127.0.0.0/8"]}
    table = {"type": "database", "connection_string": f"sqlite:///{directory}/out.db"}
    return {"destinations": [table, {**hook, **allowed}], "retry_delay_ms": 20, "retry_delay_ms_max": 500}


def sessions_of(body: bytes) -> Sequence[str]:
    return [str(one["session"]["session_id"]) for one in json.loads(body)["events"]]


class Servers:
    """One `adjourn serve` after the other, at one port and over one database."""

    def __init__(self, config: Path, rng: random.Random) -> None:
        self.kills = 0
        self.down_s = 0.0
        self._config = config
        self._rng = rng
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it says where it listens."""
        began_s = time.monotonic()
        self._process = program("adjourn", "serve", "--config", str(self._config))
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert b"http://" in line, f"the server did not start: {line!r}"
        self.down_s += time.monotonic() - began_s

    def kill_for(self, seconds: float) -> None:
        """The last one is left running."""
        end_s = killed_s = time.monotonic()
        end_s += seconds
        while time.monotonic() < end_s or self.kills < KILLS_MIN:
            up_s = killed_s + self._rng.uniform(*BETWEEN_KILLS_S) - time.monotonic()
            time.sleep(max(up_s, self._rng.uniform(*UP_S)))
            killed_s = time.monotonic()
            self.kill()
            self.kills += 1
            self.start()

    def kill(self) -> None:
        if self._process is not None:
            ended(self._process)
        self._process = None


def program(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return run_python(module, *arguments, module=True, env={"PYTHONPATH": path})


def finished(capturer: subprocess.Popen[bytes]) -> Tally:
    """After its last call was answered."""
    said = capturer.communicate(b"finish\n")[0]
    assert said, "a capturer broke down"
    return msgspec.json.decode(said, type=Tally)


async def account(result: Result, mapped: dict[str, object], directory: Path, receiver: UnreliableReceiver) -> None:
    acknowledged = [each for tally in result.tallies for each in tally.acknowledged]
    async with Node(settings_of(mapped)) as node:
        async with asyncio.timeout(DRAIN_S):
            await node.delivery.drained()
        result.log = compare(acknowledged, await logged(node))
        result.table = compare(acknowledged, stored(f"sqlite:///{directory}/out.db"))
        result.hook = compare(acknowledged, receiver.acknowledged(HOOK_PATH))
        result.balances = await node.delivery.balances()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.capture_under_kills")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    given = parser.parse_args()
    sys.stdout.write(f"seed={given.seed} database={given.database}\n")
    with tempfile.TemporaryDirectory(prefix="adjourn-kills-") as directory:
        result = run(
            Path(directory),
            database=given.database,
            seconds=given.minutes * 60,
            rng=random.Random(given.seed),
            kinds=("runtime", "client", "plain"),
        )
    sys.stdout.write(result.said() + "\n")


if __name__ == "__main__":
    main()
