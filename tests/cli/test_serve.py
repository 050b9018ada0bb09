"""`adjourn serve`, as a process of its own."""

from __future__ import annotations

import signal
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Run
from tests.cli.serving import serving

pytestmark = pytest.mark.usefixtures("database")


def test_it_says_where_it_is_and_how_to_get_a_key(run: Run, tmp_path: Path) -> None:
    """Address, database and destinations are printed, and without a key how to make one; one made meanwhile works."""
    (tmp_path / "adjourn.yaml").write_text("destinations: [{type: logfile, log_path: out.jsonl}]\n")
    with serving(tmp_path) as server:
        server.read_until("adjourn keys create --role writer")
        assert any("data/adjourn.db" in line for line in server.told)
        assert any("logfile" in line for line in server.told)
        key = run("keys", "create", "--role", "admin").out.strip()
        headers = {"authorization": f"Bearer {key}"}
        sent = httpx.post(
            f"{server.url}/v1/events", content=b'{"session": {"session_id": "s"}}', headers=headers
        ).json()
        assert sent["accepted"] == 1
        code, told = server.stop(signal.SIGTERM)
    assert (code, told.splitlines()[-1]) == (0, "stopped")
    assert (tmp_path / "out.jsonl").read_text().count("\n") == 1


def test_ctrl_c_is_a_clean_end(run: Run, tmp_path: Path) -> None:
    """SIGINT drains as SIGTERM does: exit code 0 and no traceback."""
    run("keys", "create", "--role", "writer")
    with serving(tmp_path) as server:
        server.read_until("destinations")
        code, told = server.stop(signal.SIGINT)
    assert code == 0
    assert "Traceback" not in told
    assert "adjourn keys create" not in told, "there is a key already"


def test_a_taken_port_is_told(run: Run, tmp_path: Path) -> None:
    """A second server on the port ends at once, with one line that says what to do."""
    with serving(tmp_path) as server:
        done = run("serve", "--port", server.url.rsplit(":", 1)[1])
    assert done.code == 2
    assert "cannot listen" in done.err
    assert len(done.err.splitlines()) == 1


SECRETIVE = """
logging: {level: debug, format: json}
destinations:
- {name: away, type: database, connection_string: {file: away}}
- {name: gone, type: database, connection_string: {env: GONE}}
- name: hook
  enabled: false
  url: https://u:hunter2@hooks.example/in?token=hunter2
  headers: {Authorization: Bearer hunter2, X-Team: "${GONE}"}
"""


def test_nothing_that_it_says_shows_a_secret(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With secrets from the environment, a file and the settings themselves, neither the commands, nor the log of a
    server whose destinations are away, nor any route that can be read tells one."""
    monkeypatch.setenv("GONE", "postgresql://u:hunter2@127.0.0.1:1/d?sslpassword=hunter2")
    (tmp_path / "away").write_text("postgresql://u:hunter2@127.0.0.1:2/d\n")
    (tmp_path / "adjourn.yaml").write_text(SECRETIVE)
    key = run("keys", "create", "--role", "admin").out.strip()
    commands = [("config", "show"), ("config", "check", "adjourn.yaml"), ("destinations", "list"), ("keys", "list")]
    said = [text for command in commands for text in run(*command)[1:]]
    with (
        serving(tmp_path) as server,
        httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {key}"}, trust_env=False) as client,
    ):
        client.post("/v1/events", content=b'{"session": {"session_id": "s"}}').raise_for_status()
        while not all(f'"destination": "{name}"' in "".join(server.told) for name in ("away", "gone")):
            server.read_until('"destination_outage"')
        paths: dict[str, dict[str, object]] = client.get("/openapi.json").json()["paths"]
        routes = [
            path for path, methods in paths.items() if "get" in methods and "{" not in path and path != "/v1/stream"
        ]
        assert {"/v1/destinations", "/v1/metrics", "/metrics"} <= set(routes)
        said += [client.get(path).text for path in routes]
        said.append(server.stop(signal.SIGTERM)[1])
    assert "hunter2" not in "".join(said)
    assert "127.0.0.1/d" in said[-1]
    assert "*** (env GONE)" in said[0]
