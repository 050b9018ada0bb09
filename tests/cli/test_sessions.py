"""`adjourn sessions`, against a real server: what it prints, and how it ends."""

from __future__ import annotations

import io
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Done, Run
from tests.http.serving import Serving, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Serving]:
    directory = tmp_path_factory.mktemp("sessions")
    with serving(f"sqlite:///{directory}/adjourn.db", directory) as running:
        yield running


@pytest.fixture
def sessions(run: Run, server: Serving, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`sessions("list")`, with the server's address and a key."""
    monkeypatch.setenv("ADJOURN_URL", server.url)
    monkeypatch.setenv("ADJOURN_KEY", server.keys["acme/admin"])
    return lambda *arguments: run("sessions", *arguments)


def said(done: Done) -> Any:
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_a_session_is_made_from_options(sessions: Run) -> None:
    """Its id stands alone on standard output; each option reached the server."""
    made = sessions(
        *("create", "single_container", "--name", "n", "--tag", "a", "--tag", "b", "--user", "u", "--tool", "look"),
        *("--limit", "max_turns=3", "--limit", "max_budget_usd=0.10", "--price", "input_usd_per_mtok=3"),
        *("--price", "output_usd_per_mtok=1.5", "--agent", "planner=plan well", "--agent", "doer"),
        *("--option", "reply=to {text}", "--option", 'cost_usd="0.01"', "--system-prompt", "be brief"),
        *("--metadata", "n=1", "--state", 'at={"x": 2}'),
    )
    assert (made.code, made.err, made.out.count("\n")) == (0, "", 1)
    found = said(sessions("show", made.out.strip(), "--json"))
    assert (found["name"], found["tags"], found["user_id"]) == ("n", ["a", "b"], "u")
    assert (found["limits"]["max_turns"], float(found["limits"]["max_budget_usd"])) == (3, 0.1)
    assert [(each["name"], each.get("system_prompt", "")) for each in found["config"]["agents"]] == [
        ("planner", "plan well"),
        ("doer", ""),
    ]
    assert found["config"]["options"] == {"reply": "to {text}", "cost_usd": "0.01"}
    assert (found["config"]["system_prompt"], found["config"]["allowed_tools"]) == ("be brief", ["look"])
    assert (found["metadata"], found["state"]) == ({"n": 1}, {"at": {"x": 2}})
    answer = sessions("send", found["id"], "it", "--agent", "doer")
    assert answer == (0, "to it\n", "")
    shown = sessions("show", found["id"]).out
    assert "cost          $0.01" in shown
    assert "agents        doer 1 turns" in shown


def test_a_session_is_made_from_a_file(sessions: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML or JSON, or standard input; options come over it; what is wrong is told with its place."""
    file = tmp_path / "s.yaml"
    file.write_text("pattern: hybrid\nname: one\nlimits: {max_turns: 2}\nconfig: {options: {reply: ok, chunks: 2}}\n")
    made = said(sessions("create", "--config", str(file), "--name", "two", "--option", "chunks=3", "--json"))
    assert (made["pattern"], made["name"], made["limits"]["max_turns"]) == ("hybrid", "two", 2)
    assert made["config"]["options"] == {"reply": "ok", "chunks": 3}
    monkeypatch.setattr("sys.stdin", io.StringIO('{"pattern": "ephemeral"}'))
    assert said(sessions("create", "--config", "-", "--json"))["pattern"] == "ephemeral"
    for text, told in ("- x", "holds no fields"), ("a: [", "not YAML"), ("pattern: hybryd", "did you mean 'hybrid'"):
        file.write_text(text)
        done = sessions("create", "--config", str(file))
        assert (done.code, told in done.err) == (2, True), done.err
    assert "cannot be read" in sessions("create", "--config", str(tmp_path / "none.yaml")).err


def test_answers_as_they_come(sessions: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, in pieces, as JSON, and as events; a prompt of `-` is read from standard input."""
    made = sessions("create", "hybrid", "--option", "chunks=3").out.strip()
    assert sessions("send", made, "one two three").out == "one two three\n"
    assert sessions("send", made, "one two three", "--stream").out == "one two three\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("piped\n"))
    assert sessions("send", made, "-", "--stream").out == "piped\n"
    assert said(sessions("send", made, "x", "--json"))["turn"]["number"] == 4
    lines = [json.loads(line) for line in sessions("send", made, "x", "--json", "--stream").out.splitlines()]
    assert (lines[0]["type"], lines[-1]["type"]) == ("status_changed", "turn_ended")


@pytest.mark.parametrize("how", [[], ["--stream"], ["--json"]])
def test_a_turn_that_failed_is_exit_code_1(sessions: Run, how: list[str]) -> None:
    """What was answered is on standard output, why it failed on standard error."""
    made = sessions("create", "hybrid").out.strip()
    done = sessions("send", made, "x", "--option", 'fail={"code": "c", "message": "it\\u001b broke"}', *how)
    assert (done.code, done.err) == (1, "adjourn: turn 1 is failed: it\\x1b broke\n")


def test_lists_tables_and_events(sessions: Run) -> None:
    """Filters, pages, what happened, and what it all adds up to."""
    ids = [sessions("create", "hybrid", "--tag", "listed", "--name", f"s{n}").out.strip() for n in range(3)]
    sessions("send", ids[0], "one two")
    table = sessions("list", "--tag", "listed", "--order", "cost").out.splitlines()
    assert table[0].split() == ["ID", "NAME", "PATTERN", "STATUS", "TURNS", "TOKENS", "COST", "ACTIVE"]
    assert sorted(line.split()[0] for line in table[1:]) == sorted(ids)
    first = sessions("list", "--tag", "listed", "--limit", "2", "--json")
    cursor = said(first)["next_cursor"]
    rest = said(sessions("list", "--tag", "listed", "--limit", "2", "--cursor", cursor, "--json"))
    assert len(said(first)["sessions"]) + len(rest["sessions"]) == 3
    assert (
        said(sessions("list", "--status", "idle", "--live", "--tag", "listed", "--json"))["sessions"][0]["id"] == ids[0]
    )
    assert sessions("list", "--ended", "--tag", "listed") == (0, "", "nothing\n")
    lines = sessions("events", ids[0]).out.splitlines()
    assert [line.split()[0] for line in lines] == [str(n) for n in range(1, len(lines) + 1)]
    assert lines[0].endswith("initializing -> active (created)")
    assert sessions("events", ids[0], "--after", "1", "--limit", "2").out.splitlines() == lines[1:3]
    assert json.loads(sessions("events", ids[0], "--json").out.splitlines()[0])["seq"] == 1
    assert sessions("complete", ids[0], "--final-message", "bye").out == f"{ids[0]} is completed (success)\n"
    watched = sessions("watch", ids[0], "--after", "1").out.splitlines()
    assert watched[: len(lines) - 1] == lines[1:]
    assert "completed" in watched[-1]
    stats = sessions("stats", "--by", "tag").out
    assert "tag listed" in stats
    assert said(sessions("stats", "--json"))["by_tag"]["listed"]["sessions"] == 3


def test_a_look_at_all(sessions: Run) -> None:
    """Without a terminal: the totals, then the table; with --json one object."""
    made = sessions("create", "hybrid").out.strip()
    done = sessions("watch", "--once")
    assert " live of " in done.out.splitlines()[0]
    assert made in done.out
    assert made in {each["id"] for each in said(sessions("watch", "--once", "--json"))["sessions"]}
    sessions("terminate", made)
    assert made not in sessions("watch", "--once").out
    assert made in sessions("watch", "--once", "--ended").out


def test_a_session_is_ended_resumed_and_deleted(sessions: Run) -> None:
    """Each command says what has become of it; a snapshot's id stands alone, and begins another session."""
    made = sessions("create", "hybrid").out.strip()
    sessions("send", made, "x")
    snapshot = sessions("snapshot", made).out.strip()
    again = said(sessions("create", "hybrid", "--snapshot", snapshot, "--json"))
    assert again["resumed_from"] == made
    assert sessions("resume", made).out == f"{made} is active\n"
    assert sessions("interrupt", made).code in (0, 1)
    refused = sessions("delete", made)
    assert (refused.code, refused.out) == (1, "")
    assert "--" not in refused.err
    assert sessions("terminate", made, "--reason", "enough").out == f"{made} is terminated (user_terminated)\n"
    assert sessions("delete", made) == (0, "", "")
    assert sessions("show", made).code == 1
    assert sessions("delete", again["id"], "--force") == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["show", "none"], 1, "there is no session none"),
        (["send", "none", "x"], 1, "there is no session none"),
        (["create", "hybrid", "--runner", "nobody"], 1, "nobody"),
        (["create"], 2, "PATTERN is missing"),
        (["create", "hybrid", "--limit", "max_turns"], 2, "give it as --limit KEY=VALUE"),
        (["create", "hybrid", "--limit", "maxTurns=1"], 2, "did you mean 'max_turns'?"),
        (["create", "hybrid", "--agent", "=x"], 2, "has no name"),
        (["stats", "--by", "weather"], 2, "none of pattern, status"),
        (["list", "--since", "yesterday"], 2, "is no time"),
        (["list", "--url", "nonsense"], 2, "has no scheme"),
    ],
)
def test_what_is_refused_and_what_is_wrong(sessions: Run, arguments: list[str], code: int, told: str) -> None:
    """1 where the server refuses it, 2 where the command is wrong; one line either way."""
    done = sessions(*arguments)
    assert (done.code, done.out, done.err.count("\n")) == (code, "", 1), done.err
    assert told in done.err


def test_no_key_and_no_server(sessions: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2, and what to do."""
    monkeypatch.setenv("ADJOURN_KEY", "adj_wrong")
    done = sessions("list")
    assert (done.code, "$ADJOURN_KEY" in done.err) == (2, True)
    done = sessions("list", "--url", "http://127.0.0.1:9")
    assert (done.code, "nothing answers" in done.err) == (2, True)
