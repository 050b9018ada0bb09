"""Looking up, quarantine, keys and destinations, over real HTTP."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest
from tests.http.serving import Serving, event, is_problem, serving


def test_an_event_comes_back_as_it_was_sent(any_server: Serving) -> None:
    """Unknown fields are kept, numbers byte for byte, and the cost is exact."""
    sent = (
        b'{"event_id":"exact","session":{"session_id":"s","own":[1.10,1e400,12345678901234567890123456789.0]},'
        b'"usage":{"estimated_cost_usd":0.0428000010,"model":"m"},"x-own":{"a":-0.0,"b":"\\u00e9"}}'
    )
    assert any_server.post(sent).json()["accepted"] == 1
    answer = any_server.get("/v1/events/exact")
    assert sent in answer.content
    assert answer.json()["cost_usd"] == "0.042800001"
    assert answer.json()["tenant"] == "acme"


@pytest.mark.parametrize("event_id", ["a/b", "https://x.example//y/#1?z=%2F", "..", ".", "%2e", "ä ö", "/", "a/"])
def test_any_id_can_be_looked_up(any_server: Serving, event_id: str) -> None:
    """Ids with slashes, dots and percent signs, quoted in the address, find their event."""
    assert any_server.post(event(event_id)).json()["accepted"] == 1
    answer = any_server.get(f"/v1/events/{quote(event_id, safe='').replace('.', '%2E')}")
    assert answer.json()["event"]["event_id"] == event_id
    assert is_problem(any_server.get("/v1/events/absent"), 404, "not_found")


def test_a_look_up_that_would_take_too_long_says_so(any_database: str, tmp_path: Path) -> None:
    """Where the index of ids is not complete and no time is left to search the rest: 503, when to come back, and not a
    word of whether the event is there."""
    with serving(any_database, tmp_path, patches={"adjourn.logs.sql.FIND_S": -1}) as server:
        server.post(event("there"))
        for event_id in ("there", "absent"):
            answer = server.get(f"/v1/events/{event_id}")
            assert is_problem(answer, 503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert "still being built" in answer.json()["detail"]


def test_a_tenant_never_sees_another_s(any_server: Serving) -> None:
    """Same event ids in two tenants: each sees its own event, quarantine and keys, and nothing else."""
    for tenant in ("acme", "other"):
        body = event("shared", session_id=f"of_{tenant}")
        answer = any_server.post(body + b"\nbad from " + tenant.encode(), who=f"{tenant}/admin").json()
        assert [r["status"] for r in answer["results"]] == ["accepted", "invalid"]
        found = any_server.get("/v1/events/shared", who=f"{tenant}/admin").json()
        assert (found["tenant"], found["event"]["session"]["session_id"]) == (tenant, f"of_{tenant}")
    any_server.post(event("only_acme"))
    assert is_problem(any_server.get("/v1/events/only_acme", who="other/admin"), 404, "not_found")
    mine = any_server.get("/v1/quarantine?limit=500").json()["entries"]
    for entry in mine:
        path = f"/v1/quarantine/{entry['id']}"
        assert "from other" not in (entry["body"] or "")
        assert is_problem(any_server.get(path, who="other/admin"), 404, "not_found")
        assert is_problem(any_server.request("POST", f"{path}/retry", who="other/admin"), 404, "not_found")
    keys = any_server.get("/v1/keys").json()
    assert {key["tenant"] for key in keys} == {"acme"}
    answer = any_server.request("DELETE", f"/v1/keys/{keys[-1]['id']}", who="other/admin")
    assert is_problem(answer, 404, "not_found")


def test_quarantine_is_paged_newest_first(any_server: Serving) -> None:
    """Each entry comes once, through the cursor; a retry of what is still wrong says what is wrong."""
    for n in range(7):
        any_server.post(f"paged {n}".encode(), who="other/writer")
    seen: list[str] = []
    cursor = ""
    while True:
        page = any_server.get(f"/v1/quarantine?limit=3&cursor={cursor}", who="other/auditor").json()
        seen += [entry["id"] for entry in page["entries"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) >= 7
    times = [any_server.get(f"/v1/quarantine/{i}", who="other/auditor").json()["received_at"] for i in seen]
    assert times == sorted(times, reverse=True)
    retried = any_server.request("POST", f"/v1/quarantine/{seen[0]}/retry", who="other/operator").json()
    assert retried["status"] == "invalid"
    for bad in ("limit=0", "limit=501", "limit=x", "state=none", "cursor=" + "x" * 65):
        answer = any_server.get(f"/v1/quarantine?{bad}")
        assert is_problem(answer, 400, "body_invalid")
        assert answer.json()["path"] == bad.partition("=")[0]


def test_bytes_that_are_no_text_come_back_whole(any_server: Serving) -> None:
    """What is not UTF-8, or holds NUL, is in quarantine byte for byte."""
    for raw in (b"\xff\xfe\x00bad", b'{"session":{"session_id":"a\\u0000b"}}', b"a\x00b"):
        result = any_server.post(raw, "application/json").json()["results"][0]
        entry = any_server.get(f"/v1/quarantine/{result['quarantine_id']}").json()
        assert entry["size_bytes"] == len(raw)
        assert (entry["body"] is None) == (raw[0] == 0xFF)


def test_keys_are_made_listed_and_revoked(any_server: Serving) -> None:
    """The secret is shown once; a role or field that does not exist is refused with its path."""
    made = any_server.request("POST", "/v1/keys", json={"role": "reader", "name": "board"})
    assert made.status_code == 201
    key, secret = made.json()["key"], made.json()["secret"]
    assert secret.startswith("adj_")
    listing = any_server.get("/v1/keys")
    assert secret not in listing.text
    assert key in listing.json()
    assert any_server.request("DELETE", f"/v1/keys/{key['id']}").status_code == 204
    revoked = next(k for k in any_server.get("/v1/keys").json() if k["id"] == key["id"])
    assert revoked["revoked_at"]
    assert is_problem(any_server.request("DELETE", "/v1/keys/key_none"), 404, "not_found")
    assert is_problem(any_server.request("POST", "/v1/keys", json={"role": "king"}), 400, "config_invalid")
    for body in (b"", b"[]", b"{", b'{"role":1}', b'{"role":"admin","tenant":"other"}', b"\xff", b"[" * 100_000):
        assert is_problem(any_server.request("POST", "/v1/keys", content=body), 400, "body_invalid"), body[:40]


def test_destinations_and_probes_answer(server: Serving) -> None:
    """The small routes have the shapes that the document gives them."""
    assert server.get("/v1/destinations").json() == []
    assert server.client.get("/healthz").json()["status"] == "ok"
    assert server.client.get("/readyz").json()["status"] == "ok"
