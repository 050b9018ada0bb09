"""The gateway as a process: kills, restarts, servers that are away, and what it refuses at the start."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import signal
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from tests.cli.serving import serving
from tests.gateway.gatewaying import Gateway, completions, gateway, until
from tests.gateway.model_server import ModelServer, model_server

from adjourn.errors import ConfigInvalid
from adjourn.gateway.service import GatewayOptions, check

MESSAGES: Any = [{"role": "user", "content": "Hello!"}]
LONG = ("--idle-gap-s", "600")


@pytest.fixture
def model() -> Generator[ModelServer]:
    with model_server() as running:
        yield running


def call(url: str, session_id: str, **more: Any) -> dict[str, Any]:
    headers = {"authorization": "k", "x-adjourn-session": session_id, **more.pop("headers", {})}
    body = {"model": "gpt-4o", "messages": MESSAGES, **more}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json() if answer.headers["content-type"] == "application/json" else {}


def end(running: Gateway, session_id: str) -> None:
    headers = {"authorization": "k"}
    assert httpx.delete(f"{running.url}/adjourn/sessions/{session_id}", headers=headers).status_code == 204


def test_silence_ends_a_session(model: ModelServer, tmp_path: Path) -> None:
    """Calls that name nothing are one session by key, program and address, until they have been silent for the gap;
    then the next one begins another."""
    with gateway(tmp_path, model.url, "--idle-gap-s", "4") as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="k")
        for _ in range(3):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        first = until(running.completions, "the first completion")
        client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        both = until(lambda: len(found := running.completions()) == 2 and found, "the second")
    assert [c["usage"]["input_tokens"] for c in both] == [57, 19]
    assert both[0] == first[0]
    assert len({c["session"]["session_id"] for c in both}) == 2


def test_a_long_call_is_no_silence(model: ModelServer, tmp_path: Path) -> None:
    """A stream that lasts longer than the gap keeps its session open."""
    with gateway(tmp_path, model.url, "--idle-gap-s", "0.3") as running:
        url = f"{running.url}/v1/chat/completions"
        with httpx.stream("POST", url, json={"model": "stall", "stream": True}, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            threading.Event().wait(1.5)  # several gaps
            assert running.completions() == []
            model.go_on.set()
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        assert until(running.completions, "a completion")[0]["outcome"]["status"] == "success"


def test_the_wish_for_usage(model: ModelServer, tmp_path: Path) -> None:
    """--include-usage adds it to streamed chats that lack it, and to nothing else."""
    with gateway(tmp_path, model.url, "--include-usage") as running:
        call(running.url, "s", stream=True, temperature=0.1)
        call(running.url, "s", stream=True, stream_options={"include_usage": False})
        call(running.url, "s")
        end(running, "s")
        found = until(running.completions, "a completion")[0]
    bodies = [json.loads(asked.body) for asked in model.asked]
    assert bodies[0] == {
        "model": "gpt-4o", "messages": MESSAGES, "stream": True, "temperature": 0.1,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert bodies[1]["stream_options"] == {"include_usage": False}
    assert "stream_options" not in bodies[2]
    assert found["usage"]["input_tokens"] == 38
    assert found["metadata"]["custom_tags"]["gateway"]["calls_without_usage"] == 1


def test_kill_9_between_calls_loses_nothing(model: ModelServer, tmp_path: Path) -> None:
    """A session goes on through three kills, and is completed once, with all of its calls."""
    for _ in range(3):
        with gateway(tmp_path, model.url, *LONG) as running:
            call(running.url, "s")
            running.kill()
    with gateway(tmp_path, model.url, *LONG) as running:
        call(running.url, "s")
        end(running, "s")
        until(running.completions, "a completion")
        assert running.stop()[0] == 0
    with gateway(tmp_path, model.url, *LONG) as running:
        call(running.url, "other", headers={"x-adjourn-session-end": "1"})
        until(lambda: len(running.completions()) == 2, "the other completion")
    first, other = completions(tmp_path)
    assert (first["session"]["session_id"], other["session"]["session_id"]) == ("s", "other")
    assert (first["usage"]["input_tokens"], first["usage"]["output_tokens"]) == (76, 40)
    assert first["metadata"]["custom_tags"]["gateway"]["calls"] == 4


def test_kill_9_in_a_stream_keeps_what_it_told(model: ModelServer, tmp_path: Path) -> None:
    """The input tokens that a stream told before the kill are in the completion, whose outcome says what happened; a
    session that has been silent for the gap meanwhile ends at the start, at the time of its last sign of life."""
    with gateway(tmp_path, model.url, "--idle-gap-s", "1") as running:
        headers = {"authorization": "k", "x-adjourn-session": "s"}
        body = {"model": "claude-stall", "stream": True}
        with httpx.stream("POST", f"{running.url}/v1/messages", json=body, headers=headers, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert model.stalled.wait(60)
            running.kill()
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
    threading.Event().wait(1.2)
    with gateway(tmp_path, model.url, "--idle-gap-s", "1") as running:
        found = until(running.completions, "a completion")[0]
    assert found["outcome"] == {"status": "error", "error_code": "gateway_interrupted"}
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == (1125, 1)


def test_what_was_answered_is_never_lost(model: ModelServer, tmp_path: Path, rng: random.Random) -> None:
    """Under calls of every kind, with kills at random moments, each answer that a client had whole is counted, and each
    session has one completion."""
    answered: dict[str, int] = {}
    numbers = itertools.count()
    for life in range(1, 7):
        with gateway(tmp_path, model.url, *LONG) as running:
            stop = threading.Event()
            threads = [threading.Thread(target=_calls, args=(running.url, stop, numbers, answered)) for _ in range(3)]
            for thread in threads:
                thread.start()
            until(lambda: len(answered) >= life * 4, "answers")  # noqa: B023 - it is called in this turn of the loop only
            threading.Event().wait(rng.uniform(0, 0.5))
            running.kill()
            stop.set()
            for thread in threads:
                thread.join()
    with gateway(tmp_path, model.url, "--idle-gap-s", "0.5") as running:
        until(lambda: {*answered} <= {c["session"]["session_id"] for c in completions(tmp_path)}, "all completions")
        assert running.stop()[0] == 0
    found = completions(tmp_path)
    events = {c["event_id"]: c for c in found}
    assert len({c["session"]["session_id"] for c in events.values()}) == len(events), "one completion for each session"
    assert len(answered) > 20
    for completion in events.values():
        session_id = completion["session"]["session_id"]
        tag = completion["metadata"]["custom_tags"]["gateway"]
        assert completion.get("usage", {}).get("input_tokens", 0) >= answered.get(session_id, 0) * 19
        assert tag["calls"] - tag["failed_calls"] >= answered.get(session_id, 0)


def _calls(url: str, stop: threading.Event, numbers: Any, answered: dict[str, int]) -> None:
    while not stop.is_set():
        session_id = f"s{next(numbers)}"
        with contextlib.suppress(httpx.HTTPError):
            for number in range(3):
                more: dict[str, Any] = {"headers": {"x-adjourn-session-end": "1"}} if number == 2 else {}
                if number == 1:
                    more |= {"stream": True, "stream_options": {"include_usage": True}}
                call(url, session_id, **more)
                answered[session_id] = number + 1


def test_a_server_that_is_away_is_waited_for(model: ModelServer, tmp_path: Path) -> None:
    """With --url, calls pass while the server is away; completions reach it when it is back, through a kill of the
    gateway, once."""
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "adjourn.yaml").write_text("routing: {destinations: [{type: logfile, log_path: out.jsonl}]}")
    with serving(tmp_path / "server") as server:
        key = made_key(tmp_path / "server")
        assert server.stop(signal.SIGTERM)[0] == 0
        port = server.url.rsplit(":", 1)[1]
    address = {"ADJOURN_URL": server.url, "ADJOURN_KEY": key}
    with gateway(tmp_path, model.url, *LONG, **address) as running:
        for session_id in ("one", "two"):
            call(running.url, session_id, headers={"x-adjourn-session-end": "1"})
        running.kill()
    with serving(tmp_path / "server", "--port", port), gateway(tmp_path, model.url, *LONG, **address) as running:
        call(running.url, "three", headers={"x-adjourn-session-end": "1"})
        until(lambda: len(completions(tmp_path / "server")) == 3, "three completions at the server")
        assert running.stop()[0] == 0
    found = [c["session"]["session_id"] for c in completions(tmp_path / "server")]
    assert found == ["one", "two", "three"]
    everything = "".join(p.read_text("latin-1") for p in (tmp_path / "data").rglob("*") if p.is_file())
    assert key not in everything


def made_key(directory: Path) -> str:
    import subprocess
    import sys

    command = [sys.executable, "-m", "adjourn", "keys", "create", "--role", "writer"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout.strip()


def test_each_gateway_has_its_own_journal(model: ModelServer, tmp_path: Path) -> None:
    """A second one of the same name is refused with what to do; with a name of its own both run over one data_dir."""
    with gateway(tmp_path, model.url) as one:
        with pytest.raises(EOFError, match="another gateway uses .*--name"), gateway(tmp_path, model.url):
            pass
        with gateway(tmp_path, model.url, "--name", "second") as other:
            for running, session_id in ((one, "a"), (other, "b")):
                call(running.url, session_id, headers={"x-adjourn-session-end": "1"})
            until(lambda: {c["session"]["session_id"] for c in completions(tmp_path)} == {"a", "b"}, "both")


def test_sessions_of_other_credentials_cannot_be_ended(model: ModelServer, tmp_path: Path) -> None:
    """Who does not have the key of a session's calls is told that there is none, and cannot add to it either."""
    with gateway(tmp_path, model.url, *LONG) as running:
        call(running.url, "mine")
        url = f"{running.url}/adjourn/sessions/mine"
        assert httpx.delete(url, headers={"authorization": "another"}).json()["code"] == "not_found"
        assert httpx.get(url).status_code == 405
        call(running.url, "mine", headers={"authorization": "another"})
        end(running, "mine")
        assert until(running.completions, "a completion")[0]["metadata"]["custom_tags"]["gateway"]["calls"] == 1
        assert len(model.asked) == 2, "what is for the gateway does not reach the upstream"


def test_a_stop_lets_streams_end(model: ModelServer, tmp_path: Path) -> None:
    """SIGTERM waits for the stream that is under way; the session stays open, and it says so."""
    with gateway(tmp_path, model.url, *LONG) as running:
        url = f"{running.url}/v1/chat/completions"
        with httpx.stream("POST", url, json={"model": "stall", "stream": True}, timeout=60) as answer:
            lines = answer.iter_lines()
            next(lines)
            running.process.send_signal(signal.SIGTERM)
            threading.Event().wait(0.3)
            model.go_on.set()
            assert list(lines)[-2:] == ["data: [DONE]", ""]
        told, _ = running.process.communicate(timeout=60)
    assert running.process.returncode == 0
    assert "stopped; 1 open sessions go on at the next start" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"upstream": "api.openai.com"}, "is no address"),
        ({"upstream": "https://"}, "is no address"),
        ({"upstream": "http://x:99999"}, "is no address"),
        ({"upstream": "http://x/?key=1"}, "is no address"),
        ({"upstream": "https://u:hunter2@x"}, "holds credentials"),
        ({"upstream": "https://@x"}, "holds credentials"),
        ({"upstream": "https://x/a b"}, "is no address"),
        ({"name": "../x"}, "is no name"),
        ({"idle_gap_s": 0}, "--idle-gap-s"),
        ({"idle_gap_s": float("nan")}, "--idle-gap-s"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], said: str) -> None:
    """With fact and remedy, and without the password."""
    with pytest.raises(ConfigInvalid, match=said) as refused:
        check(GatewayOptions(**{"upstream": "https://api.openai.com", **wrong}))
    assert "hunter2" not in refused.value.message
    check(GatewayOptions(upstream="https://openrouter.ai/api"))
