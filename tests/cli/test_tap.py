"""`adjourn tap`: what it shows, of a database and of a server, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from adjourn.cli.tap import _Seen, line_of
from tests import postgres
from tests.cli.conftest import Run
from tests.http.serving import event, serving


def url_of(kind: str, directory: Path) -> str:
    return f"sqlite:///{directory}/a.db" if kind == "sqlite" else postgres.fresh_database()


@contextmanager
def tapping(*arguments: str, key: str = "") -> Generator[subprocess.Popen[str]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ADJOURN_")}
    environ |= {"ADJOURN_KEY": key} if key else {}
    command = [sys.executable, "-m", "adjourn", "tap", *arguments]
    pipes: Mapping[str, int] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, env=environ, text=True, **pipes)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def names(lines: Sequence[str]) -> list[str]:
    return [json.loads(line)["event"]["event_id"] for line in lines]


def read(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline() for _ in range(count)]


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_database_is_followed_beside_its_server(kind: str, tmp_path: Path) -> None:
    """What a server commits is seen by another process, once and in order, all tenants' or one's; Ctrl-C ends it."""
    url = url_of(kind, tmp_path)
    with serving(url, tmp_path) as server:
        server.post(event("first", session_id="s"))
        options = ("--json", "--since", "start", "--set", f"database.url={url}")
        with tapping(*options) as all_of_them, tapping(*options, "--tenant", "other") as others:
            assert names(read(all_of_them, 1)) == ["first"]
            for n in range(5):
                server.post(event(f"more_{n}", session_id="s"))
            server.post(event("theirs"), who="other/writer")
            assert sorted(names(read(all_of_them, 6))) == [*(f"more_{n}" for n in range(5)), "theirs"]
            assert names(read(others, 1)) == ["theirs"]
            all_of_them.send_signal(signal.SIGINT)
            assert all_of_them.wait(60) == 130


def test_a_filter_and_a_count(tmp_path: Path) -> None:
    """Only what the filter is true of, and no more than was asked for; a wrong filter is told with its place."""
    url = url_of("sqlite", tmp_path)
    with serving(url, tmp_path) as server:
        server.post(b"\n".join(event(f"e{n}") for n in range(300)))
        where = ("--json", "--since", "start", "--set", f"database.url={url}")
        with tapping(*where, "--filter", "event_id.endsWith('7')", "--count", "20") as process:
            out, _ = process.communicate(timeout=60)
            assert names(out.splitlines()) == [f"e{n}" for n in range(300) if n % 10 == 7][:20]
            assert process.returncode == 0
        with tapping(*where, "--filter", "nonsense(") as process:
            _, told = process.communicate(timeout=60)
            assert process.returncode == 2
            assert told.startswith("adjourn: the filter, line 1, column")


def test_a_server_is_followed_through_its_restart(tmp_path: Path) -> None:
    """With --url and a key: when the server is killed and comes back at its address, nothing is missed or doubled."""
    url = url_of("sqlite", tmp_path)
    with serving(url, tmp_path) as server:
        port, keys, key = int(server.url.rsplit(":", 1)[1]), server.keys, server.keys["acme/reader"]
        server.post(event("one"))
        with tapping("--json", "--since", "start", "--url", server.url, key=key) as process:
            assert names(read(process, 1)) == ["one"]
            server.kill()
            with serving(url, tmp_path, keys=keys, server={"port": port}) as again:
                again.post(b"\n".join(event(f"more_{n}") for n in range(9)))
                assert names(read(process, 9)) == [f"more_{n}" for n in range(9)]


def test_a_server_that_refuses_is_told(tmp_path: Path) -> None:
    """No key, and a key that may not: one line, exit code 2, and it does not try for ever."""
    with serving(url_of("sqlite", tmp_path), tmp_path) as server:
        for key, said in ("", "ADJOURN_KEY"), (server.keys["acme/writer"], "events:read"):
            with tapping("--url", server.url, key=key) as process:
                _, told = process.communicate(timeout=60)
                assert process.returncode == 2
                assert said in told
                assert told.count("\n") == 1


def test_whoever_reads_may_go(tmp_path: Path) -> None:
    """`adjourn tap | head -1` ends, although no event comes that would make it write."""
    url = url_of("sqlite", tmp_path)
    with serving(url, tmp_path) as server:
        server.post(event("one"))
        with tapping("--since", "start", "--set", f"database.url={url}") as process:
            read(process, 1)
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.wait(60) == 0
            assert process.stderr.read() == ""
            process.stdout = None  # it is closed


def test_where_there_is_no_database_it_says_so(run: Run) -> None:
    """It makes none."""
    done = run("tap")
    assert done.code == 2
    assert "there is no database" in done.err


def test_a_line_shows_what_matters() -> None:
    """What is not known is left out, and control characters are shown, not obeyed."""
    full = {
        "session": {"session_id": "s\x1b[2J"},
        "outcome": {"status": "error", "error_code": "abandoned"},
        "usage": {"model": "gpt-4o", "input_tokens": 10, "output_tokens": 2},
    }
    line = line_of(_Seen(full, "acme", "2026-11-21T14:28:23.328Z", "0.00045"))
    assert line == "2026-11-21T14:28:23.328Z  acme  s\\x1b[2J  error  abandoned  gpt-4o  10/2 tokens  $0.00045"
    bare: dict[str, object] = {"session": {"session_id": "s"}, "event_type": "session.amended", "usage": None}
    assert line_of(_Seen(bare, "acme", "T", None)) == "T  acme  s  amended"
    change = {"session": {"session_id": "s"}, "event_type": "session.status_changed", "from": "idle", "to": "active"}
    assert line_of(_Seen({**change, "reason": "message"}, "acme", "T", None)) == "T  acme  s  idle -> active (message)"
    assert line_of(_Seen({**change, "reason": ""}, "acme", "T", None)) == "T  acme  s  idle -> active"
