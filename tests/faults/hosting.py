"""A server whose runners misbehave on demand, and what must be left of it after every test: nothing.

`host.at_rest()` waits until no process, descriptor, stream, turn, hold, row or workspace is left that no session has
any more, and says what is.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from tests.http import hosting as http
from tests.http.serving import Serving, serving
from tests.sessions.hosted import Story, story_in

from adjourn.databases.check import reading
from adjourn.schema_sessions import metadata
from adjourn.sessions.lifecycle import ENDED, NEXT

PROGRAM = str(Path(__file__).with_name("misbehaving.py"))
PYTHON = os.path.realpath(sys.executable)
PRICE = {"input_usd_per_mtok": "1", "output_usd_per_mtok": "1"}
"""A token costs a thousand nano-USD."""
PATIENCE_S = 60.0
WHO = "acme"


def runners(mark: str, folder: Path) -> list[dict[str, Any]]:
    """`boxed` runs under bubblewrap where that works, `loose` without; the others cannot start."""
    (folder / "not_executable").write_text("#!/bin/sh\n")
    agent = {
        "type": "command",
        "command": [PYTHON, "-IS", PROGRAM],
        "readable": [sys.base_prefix],
        "models": ["small", "large"],
        "tools": ["look"],
        "env": {"FAULT_MARK": mark},
        "output_mb_max": 2,
        "line_kb_max": 64,
        "start_timeout_ms": 60_000,
        "stop_grace_ms": 500,
    }
    return [
        {**agent, "name": "boxed"},
        {**agent, "name": "loose", "isolation": "none"},
        {**agent, "name": "missing", "command": [str(folder / "nowhere")]},
        {**agent, "name": "denied", "command": [str(folder / "not_executable")]},
        {**agent, "name": "mute", "start_timeout_ms": 300},
    ]


class Host:
    """A server with such runners, its database, and the sessions that were made on it."""

    def __init__(self, server: Serving, url: str, folder: Path, mark: str) -> None:
        self.server, self.url, self.folder, self.mark = server, url, folder, mark
        self.made: list[str] = []
        self.workspaces = folder / "workspaces"
        self._base: Counter[str] = Counter()

    # --- what clients do ---------------------------------------------------------------------------------------------

    def create(self, pattern: str = "hybrid", **new: Any) -> dict[str, Any]:
        session = http.created(self.server, pattern, **new)
        self.made.append(session["id"])
        return session

    def agent(self, runner: str = "loose", pattern: str = "hybrid", *, budget: str | None = "1", **new: Any) -> Any:
        """A session of the program, which has a budget."""
        limits = {**new.pop("limits", {}), **({} if budget is None else {"max_budget_usd": budget})}
        return self.create(pattern, runner=runner, price=PRICE, limits=limits, **new)

    def say(self, session: Mapping[str, Any], text: str = "say:hello", **message: Any) -> httpx.Response:
        return http.say(self.server, session, text, **message)

    def turn(self, session: Mapping[str, Any], text: str = "say:hello", **message: Any) -> dict[str, Any]:
        answer = self.say(session, text, **message)
        assert answer.status_code == 200, answer.text
        return answer.json()["turn"]

    def shown(self, session: Mapping[str, Any]) -> dict[str, Any]:
        return http.shown(self.server, session)

    def do(self, session: Mapping[str, Any], verb: str, **body: Any) -> httpx.Response:
        return self.server.request("POST", f"/v1/sessions/{session['id']}/{verb}", json=body)

    def delete(self, session: Mapping[str, Any], *, force: bool = False) -> httpx.Response:
        return self.server.request("DELETE", f"/v1/sessions/{session['id']}?force={str(force).lower()}")

    def balance(self, session: Mapping[str, Any]) -> int:
        """Nano-USD left of its budget."""
        return self.story().balances[f"budget/{WHO}/{session['id']}"]

    def hang_up(self) -> None:
        """On the connections that are kept for further calls."""
        self.server.client.close()
        self.server.client = httpx.Client(base_url=self.server.url, timeout=PATIENCE_S, trust_env=False, verify=False)

    # --- what is left ------------------------------------------------------------------------------------------------

    def settle(self) -> Host:
        """What is open now is what there may be."""
        self.hang_up()
        self._base = steady(self)
        return self

    def at_rest(self) -> Story:
        """Nothing is left over, sooner or later."""
        deadline = time.monotonic() + PATIENCE_S
        while left := self.processes() or self._opened() or self._metered() or self._stored():
            assert time.monotonic() < deadline, left
            time.sleep(0.1)
        return self.story()

    def forget(self) -> None:
        """Delete all sessions, so that the next test's are all that there are."""
        for session_id in self.made:
            assert self.delete({"id": session_id}, force=True).status_code in (204, 404)
        self.at_rest()
        self.made.clear()

    def leftovers(self) -> list[str]:
        """What there is, and no session has, in words."""
        return [*self.processes(), *self._opened(), *self._metered(), *self._stored()]

    def story(self) -> Story:
        with reading(self.url) as reader:
            return story_in(reader)

    def processes(self) -> list[str]:
        """Below the server, or anywhere with the mark of its runners."""
        found: list[str] = []
        parents = dict(_parents())
        for pid, parent in parents.items():
            above = parent
            while above in parents and above != self.server.process.pid:
                above = parents[above]
            if above == self.server.process.pid or self._marked(pid):
                found.append(f"process {pid}: {_read(pid, 'cmdline').replace(chr(0), ' ')[:200]}")
        return found

    def _marked(self, pid: int) -> bool:
        return pid not in (os.getpid(), self.server.process.pid) and any(
            self.mark in _read(pid, name) for name in ("environ", "cmdline")
        )

    def _opened(self) -> list[str]:
        self.hang_up()
        more = descriptors(self.server.process.pid) - self._base
        return [f"{count} more of {kind} open" for kind, count in more.items()]

    def _metered(self) -> list[str]:
        text = self.server.get("/metrics").text
        wanted = ("adjourn_turns_running ", "adjourn_runners_open ")
        return [line for line in text.splitlines() if line.startswith(wanted) and not line.endswith(" 0.0")]

    def _stored(self) -> list[str]:
        with reading(self.url) as reader:
            story = story_in(reader)
            found = orphans(reader)
        found += story.wrong()
        held = [turn.turn_id for turns in story.turns.values() for turn in turns if turn.reservation == "held"]
        found += [f"turn {turn_id} holds money" for turn_id in held]
        found += [f"workspace {path}" for path in _folders(self.workspaces) if (WHO, path.name) not in story.sessions]
        for session_id in self.made:
            found += self._told(story, session_id)
        return found

    def _told(self, story: Story, session_id: str) -> list[str]:
        """What the log says of one, deleted or not: the table is kept, and what has ended has ended once."""
        session = story.sessions.get((WHO, session_id))
        ended = session is None or session.status in ENDED
        moves, completions = story.moves(session_id), story.completions(session_id)
        found = [f"{session_id} went {move}" for move in moves if move[1] not in NEXT[move[0]]]  # type: ignore[index]  # what the log says
        if [before for before, _ in moves] != ["initializing", *(to for _, to in moves)][:-1]:
            found.append(f"{session_id} leapt: {moves}")
        if len(completions) != ended:
            found.append(f"{session_id} has {len(completions)} completions")
        return found


def orphans(reader: Any) -> list[str]:
    """Rows of sessions that are no more, in any table."""
    found: list[str] = []
    for table in metadata.sorted_tables:
        if "session_id" in table.columns:
            column = "session_id"
            sql = f"SELECT {column} FROM {table.name} WHERE {column} NOT IN (SELECT id FROM sessions)"
            found += [f"row of {table.name} for {row[0]}" for row in reader.rows(sql)]
    whose = "SELECT 'budget/' || tenant || '/' || id FROM sessions"
    budgets = "name >= 'budget/' AND name < 'budget0'"
    accounts = reader.rows(f"SELECT name FROM accounts WHERE {budgets} AND name NOT IN ({whose})")
    return [*found, *(f"account {row[0]}" for row in accounts)]


def descriptors(pid: int) -> Counter[str]:
    """What a process has open, by kind; but for SQLite's files, which it opens when it needs them."""
    kinds: Counter[str] = Counter()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(path)
        except OSError:
            continue
        if "/a.db" not in target:
            kinds[target.split(":[")[0]] += 1
    return kinds


def steady(host: Host) -> Counter[str]:
    """Once it has been the same for a while."""
    pid = host.server.process.pid
    deadline, before, same = time.monotonic() + PATIENCE_S, descriptors(pid), 0
    while same < 10:
        assert time.monotonic() < deadline, before
        time.sleep(0.02)
        now = descriptors(pid)
        same, before = (same + 1 if now == before else 0), now
    return before


@contextmanager
def hosting(
    url: str, folder: Path, *, keys: Mapping[str, str] | None = None, mark: str = "", **sections: Any
) -> Generator[Host]:
    mark = mark or f"mark-{uuid.uuid4().hex}"
    given = {"runners": runners(mark, folder), **sections.pop("hosting", {})}
    with serving(url, folder, keys=keys, hosting=given, **sections) as server:
        yield Host(server, url, folder, mark)


def warm(host: Host) -> Host:
    """All that the server opens once and keeps is open."""
    for runner in ("boxed", "loose"):
        session = host.agent(runner)
        host.turn(session)
        assert host.delete(session, force=True).status_code == 204
    with ThreadPoolExecutor(16) as pool:  # the database's connections
        list(pool.map(lambda _: host.server.get("/v1/sessions"), range(64)))
    return host.settle()


def _parents() -> Generator[tuple[int, int]]:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield int(stat.parent.name), int(stat.read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            continue


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _folders(top: Path) -> Sequence[Path]:
    """Workspaces are the leaves."""
    return [path for tenant in top.glob("*") for path in tenant.glob("*")]
