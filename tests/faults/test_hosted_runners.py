"""Runners that misbehave, over HTTP and to the end: what the caller is told, where the session is, what it has cost,
and that nothing is left of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator
from decimal import Decimal

import pytest
from tests.databases.rigs import query
from tests.faults.hosting import Host, hosting, warm
from tests.http.conftest import database_url
from tests.http.hosting import told, turning, until
from tests.http.serving import is_problem

NANO = 10**9


on_one = pytest.mark.parametrize("servers", ["sqlite"], indirect=True, scope="module")
on_both = pytest.mark.parametrize("servers", ["sqlite", "postgresql"], indirect=True, scope="module")


@pytest.fixture(scope="module")
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Host]:
    folder = tmp_path_factory.mktemp("hosted")
    with hosting(database_url(request.param, folder), folder) as host:
        yield warm(host)


@pytest.fixture
def host(servers: Host) -> Generator[Host]:
    """Nothing is left after any test."""
    yield servers
    try:
        servers.at_rest()
    finally:
        servers.forget()


BADLY = {
    "crashes": ("spend:0.25 say:so complain:why leave:7", "program_crashed"),
    "is killed": ("spend:0.25 say:so die:SIGSEGV", "program_crashed"),
    "exits without an answer": ("spend:0.25 say:so leave:0", "program_exited"),
    "closes its output": ("spend:0.25 say:so close:stdout hang", "stdout_closed"),
    "closes its output and ignores SIGTERM": ("spend:0.25 say:so ignore close:stdout hang", "stdout_closed"),
    "floods with lines": ("spend:0.25 say:so flood:lines", "output_too_large"),
    "floods with one line": ("spend:0.25 say:so flood:one", "line_too_long"),
    "floods standard error": ("spend:0.25 say:so flood:stderr", "output_too_large"),
    "forks, and crashes": ("spend:0.25 say:so fork daemon leave:7", "program_crashed"),
    "forks, and exits": ("spend:0.25 say:so fork daemon leave:0", "program_exited"),
} | {
    f"garbles: {how}": (f"spend:0.25 say:so garble:{how} hang", "protocol_error")
    for how in ("words", "bytes", "half", "list", "type", "deep", "refund", "nan", "surrogate", "ready")
}


@on_one
@pytest.mark.parametrize(
    ("how", "runner"),
    [(how, runner) for how in BADLY for runner in ("boxed", "loose") if runner == "loose" or "garbles" not in how],
)
def test_a_program_that_fails_its_turn(host: Host, runner: str, how: str) -> None:
    """The turn has failed with a code and words, the session is where its pattern says, what was spent is charged and
    the rest given back; the next turn works."""
    prompt, code = BADLY[how]
    session = host.agent(runner)
    turn = host.turn(session, prompt)
    assert (turn["status"], turn["error"]["code"], turn["text"].rstrip("x")) == ("failed", code, "so")
    assert turn["error"]["message"]
    assert Decimal(turn["cost_usd"]) == Decimal("0.25")
    assert host.shown(session)["status"] == "idle"
    assert host.balance(session) == 3 * NANO // 4
    again = host.turn(session, "spend:0.5 say:well")
    assert (again["status"], again["text"]) == ("done", "well")
    assert host.balance(session) == NANO // 4


# --- programs that do not end -----------------------------------------------------------------------------------------

ENDLESS = {
    "waits": "spend:0.25 wait",
    "hangs": "spend:0.25 hang",
    "ignores SIGTERM": "spend:0.25 ignore hang",
    "ignores SIGTERM, as do those that it forked": "fork daemon ignore spend:0.25 hang",
}


@on_one
@pytest.mark.parametrize("runner", ["boxed", "loose"])
@pytest.mark.parametrize("how", ENDLESS)
def test_a_turn_that_is_interrupted(host: Host, runner: str, how: str) -> None:
    """Politely, then by force: it ends, the session takes the next one, and what was told until then is charged."""
    session = host.agent(runner, "long_running")
    with turning(host.server, session, ENDLESS[how]) as stream:
        stream.next_of("cost")
        assert host.do(session, "interrupt").status_code == 200
        last = told(stream)[-1]
    assert (last["type"], last["data"]["status"], last["data"]["cost_usd"]) == ("turn_ended", "interrupted", "0.25")
    assert host.shown(session)["status"] == "active"
    assert host.turn(session)["status"] == "done"
    assert host.balance(session) == 3 * NANO // 4
    assert host.do(session, "complete").status_code == 200


@on_both
@pytest.mark.parametrize("how", ENDLESS)
@pytest.mark.parametrize("end", ["terminate", "delete", "max_lifetime_ms"])
def test_a_turn_whose_session_is_ended(host: Host, how: str, end: str) -> None:
    """By a caller or a limit, with one completion, and all of the session goes with it."""
    limits = {"max_lifetime_ms": 2_000} if end == "max_lifetime_ms" else {}
    session = host.agent("loose", "long_running", limits=limits)
    with turning(host.server, session, ENDLESS[how]) as stream:
        if not limits:
            stream.next_of("cost")
        if end == "terminate":
            assert host.do(session, "terminate").json()["outcome"] == "user_terminated"
        elif end == "delete":
            assert host.delete(session).status_code == 409
            assert host.delete(session, force=True).status_code == 204
        told(stream)
    if end != "delete":
        ended = until(lambda: (now := host.shown(session))["status"] == "terminated" and now)
        assert ended["outcome"] == ("timeout" if limits else "user_terminated")
        assert host.balance(session) == NANO - int(Decimal(ended["cost_usd"]) * NANO)
        assert host.delete(session).status_code == 204


@on_one
@pytest.mark.parametrize("how", ENDLESS)
def test_a_turn_that_takes_too_long(host: Host, how: str) -> None:
    """It has failed by the limit's name, the session has not, and is charged what was told."""
    session = host.agent("loose", limits={"turn_timeout_ms": 1_000})
    turn = host.turn(session, ENDLESS[how])
    assert (turn["status"], turn["error"]["code"]) == ("failed", "turn_timeout_ms")
    assert host.shown(session)["status"] == "idle"
    assert host.balance(session) == NANO - int(Decimal(turn["cost_usd"]) * NANO)


# --- what outlives its turn -------------------------------------------------------------------------------------------


@on_one
@pytest.mark.parametrize("runner", ["boxed", "loose"])
def test_what_a_program_starts_goes_with_its_session(host: Host, runner: str) -> None:
    """A daemon of a session that stays open may stay as long as that, and no longer."""
    session = host.agent(runner, "long_running")
    assert host.turn(session, "fork daemon")["status"] == "done"
    assert len(host.processes()) >= 3
    assert host.do(session, "complete").status_code == 200
    assert not [each for each in until(lambda: [host.processes()]) if each]


@on_one
@pytest.mark.parametrize("runner", ["boxed", "loose"])
@pytest.mark.parametrize(
    "after", ["twice", "done garble:words", "done leave:7", "done flood:lines", "done fork leave:0"]
)
def test_what_is_said_after_the_end_is_for_nobody(host: Host, runner: str, after: str) -> None:
    """The turn is what it was until its end, and the next one begins clean: in another process, if it has gone."""
    session = host.agent(runner, "long_running")
    first = host.turn(session, f"spend:0.25 say:first {after}")
    until(lambda: not host.processes() or after in ("twice", "done garble:words"))
    second = host.turn(session, "say:second")
    assert [(turn["status"], turn["text"]) for turn in (first, second)] == [("done", "first"), ("done", "second")]
    assert host.balance(session) == 3 * NANO // 4
    assert host.do(session, "complete").status_code == 200


# --- programs that do not begin ---------------------------------------------------------------------------------------

UNBEGUN = {
    "is missing": ("missing", "", "there is no program"),
    "is not executable": ("denied", "", "there is no program"),
    "is never ready": ("mute", "hang", "did not say `ready`"),
    "ends before it is ready": ("loose", "complain:because leave:3", "because"),
    "garbles before it is ready": ("boxed", "garble:words", "no line of the protocol"),
    "forks before it is ready, and hangs": ("mute", "fork daemon ignore hang", "did not say `ready`"),
}


@on_both
@pytest.mark.parametrize("how", UNBEGUN)
def test_a_program_that_does_not_begin(host: Host, how: str) -> None:
    """The turn has failed, and says why; a session that needs its program to begin has ended in error, once; nothing is
    charged."""
    runner, before, why = UNBEGUN[how]
    session = host.agent(runner, config={"system_prompt": before})
    turn = host.turn(session)
    assert (turn["status"], turn["error"]["code"]) == ("failed", "runner_failed")
    assert why in turn["error"]["message"]
    assert (host.shown(session)["status"], host.balance(session)) == ("idle", NANO)
    once = host.agent(runner, "ephemeral", config={"system_prompt": before})
    assert host.turn(once)["status"] == "failed"
    assert (host.shown(once)["status"], host.shown(once)["error_code"]) == ("error", "runner_failed")
    many = {"system_prompt": before, "agents": [{"name": "a"}]}
    new = {"pattern": "single_container", "runner": runner, "config": many}
    refused = host.server.request("POST", "/v1/sessions", json=new)
    assert is_problem(refused, 502, "runner_failed")
    assert why in refused.json()["detail"]
    (ended,) = [each for each in host.story().sessions.values() if each.id in refused.json()["detail"]]
    assert (ended.status, ended.error_code) == ("error", "runner_failed")
    host.made.append(ended.id)


# --- the check itself -------------------------------------------------------------------------------------------------


@on_both
def test_whatever_is_left_over_is_found(host: Host) -> None:
    """Each kind of it, planted: or else all the others prove nothing."""
    assert host.leftovers() == []
    session = host.create()
    host.turn(session)
    folder = host.workspaces / "acme" / "sess_gone"
    folder.mkdir(parents=True)
    row = "INSERT INTO session_tags (tenant, tag, session_id) VALUES ('acme', 'x', 'sess_gone')"
    planted = [row, "INSERT INTO accounts (name, balance) VALUES ('budget/acme/sess_gone', 1)"]
    planted.append(f"UPDATE turns SET reservation = 'held' WHERE session_id = '{session['id']}'")
    for sql in planted:
        query(host.url, sql)
    stray = subprocess.Popen([sys.executable, "-c", "input()", host.mark], stdin=subprocess.PIPE)
    with host.server.socket() as line, turning(host.server, host.create(), options={"hang": True}) as stream:
        stream.next_of("text_delta")
        line.sendall(b"G")
        kinds = ("process ", "socket", "turns_running", "runners_open", "row of session_tags")
        kinds += ("account budget/acme/sess_gone", "holds money", f"workspace {folder}", "0 completions")
        query(host.url, f"DELETE FROM session_events WHERE session_id = '{session['id']}'")
        host.made.append("sess_gone")
        found = host.leftovers()
        assert [kind for kind in kinds if not any(kind in each for each in found)] == []
        assert any(f"{session['id']}: has" in each and "events" in each for each in found)
        host.made.remove("sess_gone")
        host.do({"id": host.made[-1]}, "interrupt")
    assert stray.stdin is not None
    stray.stdin.close()
    stray.wait()
    folder.rmdir()
    query(host.url, "DELETE FROM session_tags WHERE session_id = 'sess_gone'")
    query(host.url, "DELETE FROM accounts WHERE name = 'budget/acme/sess_gone'")
    query(host.url, f"UPDATE turns SET reservation = '' WHERE session_id = '{session['id']}'")
    assert host.delete(session, force=True).status_code == 204
