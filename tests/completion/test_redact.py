"""Redaction of whole events."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.faults.rigs import settings_of

from adjourn.completion.redact import Redact, Unreadable, redactor_of
from adjourn.completion.results import Result
from adjourn.completion.validate import Context, prepare
from adjourn.node import Node
from adjourn.prices import PriceTable
from adjourn.redaction_rules import parse_rule

SECRET = bytes(range(32))
ALL = ("email", "phone", "card", "secret_key")


def redact(*rules: str, secret: bytes = SECRET, tenant: str = "default") -> Redact:
    made = redactor_of([parse_rule(rule) for rule in rules], secret)
    assert made is not None
    return made(tenant)


def event(**sections: Any) -> bytes:
    return json.dumps({"event_id": "evt_1", "session": {"session_id": "s"}, **sections}).encode()


def after(body: bytes, *rules: str) -> dict[str, Any]:
    return json.loads(redact(*rules)(body))


def test_without_rules_there_is_nothing_to_run() -> None:
    """No rule, no function: nothing is paid for."""
    assert redactor_of([], SECRET) is None


def test_fields_are_dropped_masked_and_hashed() -> None:
    """Each action does what it says, to the field alone; null stays null, and what is absent stays absent."""
    body = event(
        user={"user_id": "ann", "organization_id": None}, metadata={"source_ip": "10.0.0.1", "client_version": "1"}
    )
    seen = after(
        body, "hash user.user_id", "mask user.organization_id", "drop metadata.source_ip", "mask outcome.final_message"
    )
    assert seen["user"] == {"user_id": seen["user"]["user_id"], "organization_id": None}
    assert seen["user"]["user_id"].startswith("hash:")
    assert seen["metadata"] == {"client_version": "1"}
    assert "outcome" not in seen
    assert after(body, "drop user") == {key: it for key, it in json.loads(body).items() if key != "user"}


def test_a_star_is_any_name_and_any_item() -> None:
    """Tags of whatever name, and items of lists, are reached."""
    body = event(
        metadata={"custom_tags": {"a": 1, "b": {"c": 2}, "n": None}},
        outcome={"final_state": {"mails": [{"to": "x", "n": 1.50}, {"n": 2}, 7]}},
    )
    seen = after(body, "mask metadata.custom_tags.*", "drop outcome.final_state.mails.*.to")
    assert seen["metadata"]["custom_tags"] == {"a": "***", "b": "***", "n": None}
    assert seen["outcome"]["final_state"] == {"mails": [{"n": 1.5}, {"n": 2}, 7]}


def test_a_hash_is_keyed_and_one_person_stays_one() -> None:
    """The same value has the same hash for one tenant of one installation, and another one everywhere else."""

    def hashed(value: str, **of: Any) -> str:
        return json.loads(redact("hash user.user_id", **of)(event(user={"user_id": value})))["user"]["user_id"]

    assert hashed("ann") == hashed("ann")
    assert len({hashed("ann"), hashed("bob"), hashed("ann", tenant="other"), hashed("ann", secret=SECRET[::-1])}) == 4


def test_patterns_look_into_free_text_alone() -> None:
    """Messages, states, tags and fields that the schema does not know, names within them included; ids, times and
    numbers of the schema are left alone, unless a rule says `in`."""
    body = event(
        timestamp="2025-12-21T10:30:45.123Z",
        user={"user_id": "ann@example.com", "note": "ann@example.com"},
        outcome={"final_message": "to ann@example.com", "final_state": {"a": ["ann@example.com"]}},
        metadata={"custom_tags": {"ann@example.com": "x"}},
        prompt=["ann@example.com"],
    )
    seen = after(body, "mask email")
    assert seen["user"] == {"user_id": "ann@example.com", "note": "[email]"}
    assert seen["outcome"] == {"final_message": "to [email]", "final_state": {"a": ["[email]"]}}
    assert (seen["metadata"]["custom_tags"], seen["prompt"]) == ({"[email]": "x"}, ["[email]"])
    within = after(body, "drop email in user.user_id")
    assert within["user"] == {"user_id": "", "note": "ann@example.com"}
    assert within["prompt"] == ["ann@example.com"]


@pytest.mark.parametrize(
    "body",
    [
        rb'{"session":{"session_id":"s"},"outcome":{"final_message":"ann\u0040example.com"}}',
        rb'{"session":{"session_id":"s"},"outcome":{"final_mess\u0061ge":"ann@example.com"}}',
        rb'{"session":{"session_id":"s"},"out\u0063ome":{"final_message":"ann@example.com"}}',
        b'{"outcome":{"final_message":"ann@example.com"},"session":{"session_id":"s"},"outcome":{"status":"error"}}',
        b'{"session":{"session_id":"s"},"outcome":{"final_message":"ann@example.com","final_message":"x"}}',
        b'{"session":{"session_id":"s"},"outcome":{"final_message":"\\"ann@example.com\\\\"}}',
        b'\n {"session":{"session_id":"s"},\n"outcome":\n{"final_message" : "ann@example.com"}} ',
        b'{"session":{"session_id":"s"},"x":[[[{"a\\"":"ann@example.com"}]]]}',
        b'{"specversion":"1.0","data":{"session":{"session_id":"s"},"outcome":{"final_message":"ann@example.com"}}}',
    ],
)
def test_no_spelling_of_json_hides_anything(body: bytes) -> None:
    """Escapes, keys that stand twice, white space, and refused envelopes are seen through."""
    for rules in (("mask email",), ("mask outcome.final_message", "mask email")):
        left = redact(*rules)(body)
        assert b"ann" not in left
        assert b"example" not in left


def test_what_is_not_touched_keeps_its_digits() -> None:
    """Numbers beyond any float, and the order of fields, are as they were sent."""
    body = (
        b'{"z":1,"session":{"session_id":"s"},"usage":{"estimated_cost_usd":0.04280},'
        b'"x":{"n":123456789012345678901.50,"m":"a@b.cc"}}'
    )
    left = redact("mask email")(body)
    assert left == body.replace(b"a@b.cc", b"[email]")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b'{"a":"\xff\xff\xff\xff\xff"}', b'"x"', b'{"outcome":{"\\ud800":1}}']
)
def test_what_is_not_an_event_is_left_to_its_judge(body: bytes) -> None:
    """A body that cannot be searched is refused for what is wrong with it; none passes unsearched."""
    with pytest.raises(Unreadable):
        redact("mask email", "drop user")(body)
    context = Context(tenant="t", now_ms=0, secret=SECRET, prices=PriceTable(), redact=redact("mask email"))
    prepared = prepare([body], context)
    assert (len(prepared.records), len(prepared.problems)) == (0, 1)
    assert prepared.problems[0].raw == body


_texts = st.text(max_size=60) | st.sampled_from(
    ["ann@example.com", "+49 30 1234567", "4111 1111 1111 1111", "sk-" + "a" * 20, "hash:" + "a" * 24, "***"]
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64) | _texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_texts, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_texts, _values, max_size=4), _values, st.sampled_from(["mask", "hash"]))
def test_redacting_twice_changes_nothing_more(tags: dict[str, Any], state: Any, action: str) -> None:
    """Whatever was redacted once comes out of a second pass as it is: a retry out of quarantine finds its own event."""
    body = event(metadata={"custom_tags": tags}, outcome={"final_state": state}, user={"user_id": "x"})
    redaction = redact(*(f"{action} {name}" for name in ALL), "hash user.user_id", "hash metadata.custom_tags.secret")
    once = redaction(body)
    assert redaction(once) == once
    assert redaction(body) == once
    msgspec.json.decode(once)


def run(tmp_path: Path, bodies: list[bytes]) -> tuple[list[Result], list[bytes], list[bytes]]:
    """(results, bodies in the log, bodies in quarantine) of a node with rules."""

    async def main() -> tuple[list[Result], list[bytes], list[bytes]]:
        validation = {"redact": ["mask email", "hash user.user_id"]}
        async with Node(settings_of({"data_dir": str(tmp_path), "validation": validation})) as node:
            results = [(await node.ingest.take("default", [body], source="test"))[0] for body in bodies]
            for result in results:
                if result.quarantine_id:
                    await node.ingest.retry("default", result.quarantine_id)
            kept = await node.database.read(lambda reader: reader.rows("SELECT body FROM quarantine"))
            found = await node.log.read(0, 0, count=100)
            return results, [e.body for e in found.events], [bytes(row[0]) for row in kept if isinstance(row[0], bytes)]

    return asyncio.run(main())


def test_nothing_is_written_that_must_not_be(tmp_path: Path) -> None:
    """Neither log nor quarantine nor the database's files hold what was redacted; repetitions are still duplicates,
    and conflicts conflicts."""
    mine = event(user={"user_id": "ann-4711"}, outcome={"final_message": "to ann@example.com"})
    other = event(user={"user_id": "bob-4711"}, outcome={"final_message": "to ann@example.com"})
    wrong = event(user={"user_id": "ann-4711"}, outcome={"status": "odd", "final_message": "to ann@example.com"})
    results, logged, kept = run(tmp_path, [mine, mine, other, wrong])
    assert [result.status for result in results] == ["accepted", "duplicate", "conflict", "invalid"]
    assert (len(logged), len(kept)) == (1, 2)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for hidden in (b"ann-4711", b"bob-4711", b"ann@example"):
        assert hidden not in b"".join(logged + kept)
        assert hidden not in written


@pytest.mark.parametrize(
    "refused",
    [
        {"specversion": "1.0", "data": "ask ann@example.com"},
        {"specversion": "1.0", "subject": "ann@example.com", "data": {}},
        {
            "specversion": "1.0",
            "data": [{"user": {"user_id": "ann-4711"}, "outcome": {"final_message": "ann@example.com"}}],
        },
        {"specversion": "1.0", "user": {"user_id": "ann-4711"}, "outcome": {"final_message": "ann@example.com"}},
        {"event_id": "e", "session": [{"session_id": "s"}], "user": [{"user_id": "ann-4711"}, "x", None]},
    ],
)
def test_what_is_refused_for_its_shape_is_redacted_too(refused: dict[str, Any]) -> None:
    """Quarantine keeps it: envelopes without an event in them, and lists where the schema has an object."""
    left = redact("hash user.user_id", "mask email")(json.dumps(refused).encode())
    assert b"ann" not in left
    assert json.loads(left).keys() == refused.keys()


def test_an_open_session_holds_nothing_either(tmp_path: Path) -> None:
    """What a watched session was begun with is redacted before it waits in the database for its completion."""
    from adjourn.sessions.watch import Begin

    async def main() -> bytes:
        validation = {"redact": ["hash user.user_id"]}
        async with Node(settings_of({"data_dir": str(tmp_path), "validation": validation})) as node:
            begin = msgspec.json.decode(b'{"session_id": "s", "user": {"user_id": "ann-4711"}}', type=Begin)
            await node.watched.begin("default", begin)
            rows = await node.database.read(lambda reader: reader.rows("SELECT begun FROM watched_sessions"))
            return b"".join(row[0] for row in rows if isinstance(row[0], bytes))

    begun = asyncio.run(main())
    assert b"ann-4711" not in begun
    assert b"hash:" in begun
