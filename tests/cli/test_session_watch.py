"""`adjourn sessions watch`, in a process of its own beside a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from tests.http.hosting import created, say
from tests.http.serving import Serving, serving


@contextmanager
def watching(server: Serving, *arguments: str) -> Generator[subprocess.Popen[str]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ADJOURN_")}
    environ |= {"ADJOURN_URL": server.url, "ADJOURN_KEY": server.keys["acme/reader"]}
    command = [sys.executable, "-m", "adjourn", "sessions", "watch", *arguments]
    process = subprocess.Popen(command, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[str], wanted: str) -> str:
    """The first that holds it."""
    assert process.stdout is not None
    for each in process.stdout:
        if wanted in each:
            return each
    raise EOFError(wanted)


def test_a_session_is_followed_to_its_end(tmp_path: Path) -> None:
    """A line for each event as it comes, through a restart of the server; the command ends with the session."""
    url = f"sqlite:///{tmp_path}/a.db"
    with serving(url, tmp_path) as server:
        session = created(server)
        port = int(server.url.rsplit(":", 1)[1])
        with watching(server, session["id"]) as process:
            line(process, "initializing -> active")
            say(server, session, "one")
            line(process, "#1 done")
            server.kill()
            with serving(url, tmp_path, keys=server.keys, server={"port": port}) as again:
                say(again, session, "two")
                line(process, "#2 done")
                again.request("POST", f"/v1/sessions/{session['id']}/complete", json={})
                assert "success" in line(process, "  completed  ")
                assert process.wait(60) == 0


def test_a_table_that_changes_is_printed_again(tmp_path: Path) -> None:
    """On no terminal, whenever something has changed; as JSON, one object a line; Ctrl-C ends it."""
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path) as server:
        with (
            watching(server, "--interval-s", "0.1") as process,
            watching(server, "--interval-s", "0.1", "--json") as other,
        ):
            line(process, "0 live of 0")
            session = created(server)
            line(process, "1 live of 1")
            assert session["id"] in line(process, "sess_")
            assert json.loads(line(other, session["id"]))["sessions"][0]["id"] == session["id"]
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
