"""`GET /v1/sessions`: what its address may ask for."""

from __future__ import annotations

from decimal import Decimal
from urllib.parse import quote

import pytest
from tests.http.hosting import created
from tests.http.serving import Serving, is_problem


def listed(server: Serving, query: str) -> list[str]:
    answer = server.get(f"/v1/sessions?{query}")
    assert answer.status_code == 200, answer.text
    return [session["name"] for session in answer.json()["sessions"]]


def test_filters_and_orders_reach_the_list(any_server: Serving) -> None:
    """Each narrows it down; several of one kind are one of them for `status`, all of them for `tag`."""
    mark = "user_id=lister"
    first = created(any_server, user_id="lister", name="one", tags=["x"], role="director", kind="chat", interface="cli")
    created(any_server, "ephemeral", user_id="lister", name="two", tags=["x", "y"], parent_id=first["id"])
    created(any_server, "long_running", user_id="lister", name="three")
    any_server.request("POST", f"/v1/sessions/{first['id']}/complete")
    assert listed(any_server, mark) == ["three", "two", "one"]
    for query, names in {
        "descending=false": ["one", "two", "three"],
        "pattern=ephemeral": ["two"],
        "status=completed": ["one"],
        "status=completed&status=active": ["three", "two", "one"],
        "live=false": ["one"],
        "tag=x": ["two", "one"],
        "tag=x&tag=y": ["two"],
        "role=director": ["one"],
        "kind=chat": ["one"],
        "interface=cli": ["one"],
        f"parent_id={first['id']}": ["two"],
        f"root_id={first['id']}": ["two", "one"],
        "name_prefix=t": ["three", "two"],
        "order=ended": ["one"],
        f"created_since={quote(first['created_at'])}": ["three", "two", "one"],
        "created_until=2020-01-01T00:00:00%2B02:00": [],
    }.items():
        assert listed(any_server, f"{mark}&{query}") == names, query


def test_pages_go_on_where_the_last_ended(any_server: Serving) -> None:
    """Each session once; the last page has no cursor."""
    for number in range(7):
        created(any_server, user_id="pager", name=str(number))
    names: list[str] = []
    cursor = ""
    while cursor is not None:
        page = any_server.get(f"/v1/sessions?user_id=pager&limit=3&cursor={cursor}").json()
        names += [session["name"] for session in page["sessions"]]
        cursor = page["next_cursor"]
    assert names == list("6543210")


@pytest.mark.parametrize(
    ("query", "path", "said"),
    [
        ("statos=idle", "statos", "did you mean 'status'?"),
        ("status=idel", "status[0]", "did you mean 'idle'?"),
        ("limit=0", "limit", ">= 1"),
        ("limit=501", "limit", "<= 500"),
        ("limit=3&limit=4", "limit", "twice"),
        ("live=maybe", "live", "bool"),
        ("created_since=2020", "created_since", "is no time"),
        ("created_since=2020-01-01T00:00:00", "created_since", "is no time"),
        ("cursor=zzz", "cursor", "begin without one"),
        ("order=size", "order", "created"),
        ("user_id=", "user_id", "length"),
    ],
)
def test_what_it_cannot_ask_for_is_refused(server: Serving, query: str, path: str, said: str) -> None:
    """A filter that nobody knows would otherwise be a list of everything."""
    answer = server.get(f"/v1/sessions?{query}")
    assert is_problem(answer, 400, "body_invalid")
    assert answer.json()["path"] == path
    assert said in answer.json()["detail"]


def test_what_sessions_may_use_is_told(any_server: Serving) -> None:
    """Of the caller's tenant, and of a user if asked; null is what has no bound; others' sessions do not count."""
    session = created(any_server, who="other/admin", user_id="me/you")
    before = any_server.get("/v1/sessions/limits", who="other/reader").json()
    assert before["limits"]["turn_timeout_ms"] == 600_000
    assert before["tenant"]["live_sessions"] >= 1
    assert (before["tenant"]["total_budget_usd"], before["tenant"]["left_usd"], before["user"]) == (None, None, None)
    mine = any_server.get("/v1/sessions/limits?user_id=me%2Fyou", who="other/reader").json()["user"]
    assert mine == {"max_sessions": None, "live_sessions": 1, "total_budget_usd": None, "left_usd": None}
    elsewhere = any_server.get("/v1/sessions/limits?user_id=me%2Fyou").json()["user"]
    assert elsewhere["live_sessions"] == 0
    any_server.request("POST", f"/v1/sessions/{session['id']}/terminate", who="other/admin")
    after = any_server.get("/v1/sessions/limits", who="other/reader").json()
    assert after["tenant"]["live_sessions"] == before["tenant"]["live_sessions"] - 1
    assert is_problem(any_server.get(f"/v1/sessions/limits?user_id={'u' * 257}"), 400, "body_invalid")


def test_the_figures_add_up_to_what_the_sessions_say(any_server: Serving) -> None:
    """Totals are the sums over all sessions of the tenant, and by pattern, status, user and model they add up too;
    another tenant has figures of its own."""
    price = {"input_usd_per_mtok": 3, "output_usd_per_mtok": 15}
    for number in range(4):
        session = created(any_server, who="other/admin", user_id=f"u{number % 2}", tags=["t"], price=price)
        path = f"/v1/sessions/{session['id']}"
        any_server.request("POST", f"{path}/messages", who="other/admin", json={"prompt": "a b c"})
        if number:
            any_server.request("POST", f"{path}/complete", who="other/admin")
    sessions = any_server.get("/v1/sessions", who="other/admin").json()["sessions"]
    figures = any_server.get("/v1/sessions/stats", who="other/reader").json()
    total = figures["total"]
    assert (total["sessions"], total["live"]) == (len(sessions), 1)
    for name in ("turns", "input_tokens", "output_tokens", "total_tokens"):
        assert total["usage"][name] == sum(session["usage"][name] for session in sessions)
    assert Decimal(total["cost_usd"]) == sum(Decimal(session["cost_usd"]) for session in sessions) > 0
    for by in ("by_pattern", "by_status", "by_user", "by_model"):
        assert sum(one["usage"]["input_tokens"] for one in figures[by].values()) == total["usage"]["input_tokens"]
    assert figures["by_user"]["u0"]["sessions"] == 2
    assert figures["by_tag"]["t"]["sessions"] == 4
    assert total["durations"]["p50_ms"] is not None
    assert is_problem(any_server.get("/v1/sessions/stats?shown=0"), 400, "body_invalid")
