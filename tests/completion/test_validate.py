"""From the bytes that senders wrote to records and problems."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.documented import differences, documented_names

import adjourn.completion
from adjourn import events
from adjourn.completion.body import BODY_BYTES_MAX, DEPTH_MAX
from adjourn.completion.validate import Context, Prepared, Problem, prepare
from adjourn.events import Record, decode_completion
from adjourn.ids import derived_event_id
from adjourn.prices import PriceTable

NOW_MS = 1_766_313_045_123  # 2025-12-21T10:30:45.123Z
PRICES = PriceTable()
PARTS = {
    "": events.Completion,
    "session.": events.SessionPart,
    "user.": events.UserPart,
    "usage.": events.UsagePart,
    "outcome.": events.OutcomePart,
    "metadata.": events.MetadataPart,
}
EXAMPLE: dict[str, Any] = json.loads("""
{"event_type": "session.completed", "event_id": "evt_1a2b3c4d5e6f", "timestamp": "2025-12-21T10:30:45.123Z",
 "session": {"session_id": "sess_abc123", "session_type": "chat", "start_time": "2025-12-21T10:25:00.000Z",
             "end_time": "2025-12-21T10:30:45.123Z", "duration_ms": 345123, "input_modality": "text",
             "transport": "sse", "attempt": 1},
 "user": {"user_id": "usr_xyz789", "organization_id": "org_company123", "tier": "pro"},
 "usage": {"input_tokens": 1250, "output_tokens": 890, "total_tokens": 2140, "model": "gpt-4",
           "estimated_cost_usd": 0.0428, "tool_calls": 2, "cache_read_input_tokens": 100,
           "cache_creation_input_tokens": 10, "reasoning_output_tokens": 90},
 "outcome": {"status": "success", "final_message": "done", "error_code": null, "final_state": {"step": [1, 2]}},
 "metadata": {"client_version": "1.2.3", "source_ip": "192.168.1.100", "source": "api", "custom_tags": {"a": 1}}}
""")


def context(**changes: Any) -> Context:
    return Context(**({"tenant": "acme", "now_ms": NOW_MS, "secret": b"s" * 32, "prices": PRICES} | changes))


def changed(path: str, value: Any) -> bytes:
    """The example with one field set."""
    event = json.loads(json.dumps(EXAMPLE))
    *parents, name = path.split(".")
    part = event
    for parent in parents:
        part = part[parent]
    part[name] = value
    return json.dumps(event).encode()


def accepted(raw: bytes, **changes: Any) -> Record:
    prepared = prepare([raw], context(**changes))
    assert prepared.problems == []
    return prepared.records[0]


def refused(raw: bytes, **changes: Any) -> Problem:
    prepared = prepare([raw], context(**changes))
    assert prepared.records == []
    return prepared.problems[0]


def test_the_example_of_the_schema_is_taken_as_it_stands() -> None:
    """Every field of schema v1.2 is taken; the body is stored byte for byte, without the white space around it."""
    raw = json.dumps(EXAMPLE, indent=2).encode()
    record = accepted(b" \r\n" + raw + b"\n\t")
    assert record.body == raw
    assert (record.tenant, record.session_id, record.event_id) == ("acme", "sess_abc123", "evt_1a2b3c4d5e6f")
    assert (record.cost_nanousd, record.price_ref, record.received_ms) == (42_800_000, "sent", NOW_MS)
    assert (len(record.id_hash), len(record.content_hash), record.sequence) == (8, 8, 0)


def test_only_the_session_id_must_be_there() -> None:
    """A session id alone is an event; every other field may be absent or null."""
    assert accepted(b'{"session":{"session_id":"a"}}').cost_nanousd is None
    for prefix, part in PARTS.items():
        for field in msgspec.structs.fields(part):
            if field.name not in ("session", "session_id", "event_type"):
                accepted(changed(prefix + field.name, None))


@pytest.mark.parametrize(
    ("path", "value", "code"),
    [
        ("session", [], "type_invalid"),
        ("session.session_id", None, "type_invalid"),
        ("session.session_id", 7, "type_invalid"),
        ("session.session_id", "", "value_invalid"),
        ("session.session_id", "x" * 257, "value_invalid"),
        ("session.session_id", "a\0b", "id_invalid"),
        ("session.session_id", "a\x85b", "id_invalid"),
        ("event_id", " evt_1", "id_invalid"),
        ("event_id", "evt_1\u3000", "id_invalid"),
        ("user.user_id", "a\nb", "id_invalid"),
        ("user.organization_id", "\x7f", "id_invalid"),
        ("event_type", "session.started", "value_invalid"),
        ("session.session_type", "mail", "value_invalid"),
        ("outcome.status", "ok", "value_invalid"),
        ("outcome.final_message", {}, "type_invalid"),
        ("metadata.custom_tags", [], "type_invalid"),
        ("session.duration_ms", -1, "value_invalid"),
        ("session.duration_ms", 1.5, "type_invalid"),
        ("session.attempt", 0, "value_invalid"),
        ("usage.input_tokens", "7", "type_invalid"),
        ("usage.input_tokens", -7, "value_invalid"),
        ("usage.input_tokens", 2**53 + 1, "value_invalid"),
        ("usage.tool_calls", True, "type_invalid"),
        ("usage.model", "m" * 1025, "value_invalid"),
        ("usage.total_tokens", 2141, "total_mismatch"),
        ("usage.input_tokens", 109, "total_mismatch"),
        ("usage.reasoning_output_tokens", 891, "reasoning_exceeds_output"),
        ("usage.estimated_cost_usd", -0.01, "cost_invalid"),
        ("usage.estimated_cost_usd", "NaN", "cost_invalid"),
        ("usage.estimated_cost_usd", "Infinity", "cost_invalid"),
        ("usage.estimated_cost_usd", 1_000_000_000.01, "cost_invalid"),
        ("usage.estimated_cost_usd", "1 USD", "value_invalid"),
        ("timestamp", "2025-12-21T10:35:45.124Z", "time_ahead"),
        ("timestamp", "0001-01-01T00:00:00+14:00", "time_invalid"),
        ("session.end_time", "0001-01-01T00:00:00+00:01", "time_invalid"),
        ("timestamp", "2025-12-21T10:30:45", "value_invalid"),
        ("timestamp", "yesterday", "value_invalid"),
        ("timestamp", 1766313045, "type_invalid"),
        ("session.start_time", "9999-12-31T23:59:59-23:59", "time_ahead"),
        ("session.end_time", "2026-12-21T10:30:45Z", "time_ahead"),
        ("session.end_time", "2025-12-21T12:24:59+02:00", "end_before_start"),
        ("amends", "evt_0", "amends_misplaced"),
    ],
)
def test_what_is_present_is_checked(path: str, value: Any, code: str) -> None:
    """A field that breaks its rule is refused with code, path, fact and remedy, and the raw body comes back whole."""
    raw = changed(path, value)
    problem = refused(raw)
    assert problem.code == code
    assert problem.path == ("usage.total_tokens" if code == "total_mismatch" else path)
    assert problem.message
    assert problem.remedy
    assert problem.raw == raw


def test_more_cached_tokens_than_input_are_refused() -> None:
    """Cached tokens are part of the input, so they cannot exceed it; without an input count they are taken."""
    usage = b'{"session":{"session_id":"a"},"usage":{%b"cache_read_input_tokens":6,"cache_creation_input_tokens":5}}'
    assert refused(usage % b'"input_tokens":10,').code == "cached_exceeds_input"
    assert accepted(usage % b'"input_tokens":11,')
    assert accepted(usage % b"")


@pytest.mark.parametrize("usage", [{"total_tokens": 5}, {"total_tokens": 5, "output_tokens": 5}, {"input_tokens": 5}])
def test_counts_that_cannot_contradict_each_other_are_taken(usage: dict[str, int]) -> None:
    """A total is compared with its parts only as far as they are there."""
    assert accepted(json.dumps({"session": {"session_id": "a"}, "usage": usage}).encode())
    assert (
        refused(b'{"session":{"session_id":"a"},"usage":{"total_tokens":5,"input_tokens":6}}').code == "total_mismatch"
    )


def test_an_amendment_says_what_it_amends() -> None:
    """session.amended needs `amends`, of another event; the id that it is given is not that of the completion."""
    amendment = '{"event_type":"session.amended","session":{"session_id":"a"}%s}'
    assert refused((amendment % "").encode()).code == "field_missing"
    assert refused((amendment % ',"amends":"e","event_id":"e"').encode()).code == "amends_misplaced"
    assert refused((amendment % ',"amends":"e\\u0000"').encode()).code == "id_invalid"
    one, two = (accepted((amendment % f',"amends":"{name}"').encode()).event_id for name in "ef")
    assert len({one, two, accepted(b'{"session":{"session_id":"a"}}').event_id}) == 3


def test_only_listed_sources_are_taken_where_a_list_is_set() -> None:
    """An empty list takes every source; a list takes its members, and events that name none."""
    raw = changed("metadata.source", "beacon")
    assert accepted(raw)
    assert accepted(raw, sources=frozenset({"beacon"}))
    assert refused(raw, sources=frozenset({"api"})).code == "source_refused"
    assert accepted(changed("metadata.source", None), sources=frozenset({"api"}))


def test_how_far_ahead_a_time_may_be_is_a_setting() -> None:
    """The same time is refused or taken by `timestamp_ahead_ms_max`, to the millisecond."""
    raw = changed("timestamp", "2025-12-21T10:30:46.123Z")
    assert accepted(raw, timestamp_ahead_ms_max=1000)
    assert refused(raw, timestamp_ahead_ms_max=999).code == "time_ahead"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "json_malformed"),
        (b"{", "json_malformed"),
        (b"[]", "type_invalid"),
        (b"null", "type_invalid"),
        (b"{}", "field_missing"),
        (b'\xef\xbb\xbf{"session":{"session_id":"a"}}', "encoding_invalid"),
        (b'{"session":{"session_id":"a"}} {}', "json_malformed"),
        (b'{"session":{"session_id":"a"},"x":"\xff"}', "encoding_invalid"),
        (b'{"session":{"session_id":"a"},"\xff":1}', "encoding_invalid"),
        (b'{"session":{"session_id":"a"},"outcome":{"final_state":"\xed\xa0\x80"}}', "encoding_invalid"),
        (b'{"session":{"session_id":"\\ud800"}}', "encoding_invalid"),
        (b'{"session":{"session_id":"a"},"x":NaN}', "json_malformed"),
        (b'{"session":{"session_id":"a"},"event_id":"x","event_id":"x"}', "event_id_repeated"),
        (b'{"session":{"session_id":"a"},"event_id":"x","\\u0065vent_id":"y"}', "event_id_repeated"),
        (b'{"session":{"session_id":"a"},"event_id":null,"event_id":"y"}', "event_id_repeated"),
        (b'{"session":{"session_id":"a"},"x":"' + b"a" * BODY_BYTES_MAX + b'"}', "body_too_large"),
        (b'{"session":{"session_id":"a"},"x":' + b"[" * 64 + b"]" * 64 + b"}", "body_too_deep"),
        (b'{"session":{"session_id":"a"},"x":' + b'{"y":' * 64 + b"1" + b"}" * 65, "body_too_deep"),
        (b'{"session":{"session_id":"a"},"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "body_too_deep"),
        (b"[" * 200_000, "type_invalid"),
    ],
)
def test_hostile_bodies_are_refused_and_nothing_raises(raw: bytes, code: str) -> None:
    """Bad syntax, encodings, repeated ids, size and depth are refused by name."""
    problem = refused(raw)
    assert problem.code == code
    assert problem.raw == raw


@pytest.mark.parametrize(
    "raw",
    [
        b'{"session":{"session_id":"a"},"x":' + b"[" * (DEPTH_MAX - 1) + b"]" * (DEPTH_MAX - 1) + b"}",
        b'{"session":{"session_id":"a"},"x":"' + b'[{\\"' * 100 + b'"}',
        b'{"session":{"session_id":"a"},"x":[{"event_id":1,"event_id":2}],"event_id":"e"}',
        b'{"session":{"session_id":"a"},"x":' + b"9" * 10_000 + b',"y":1e999999}',
        b'{"session":{"session_id":"a"},"outcome":{"final_message":"a\\u0000b\\u0001"}}',
        '{"session":{"session_id":"\u200dé漢😀"}}'.encode(),
        b'{"session":{"session_id":"a"},"timestamp":"0001-01-01T00:00:00Z","usage":{"model":"o3","input_tokens":9}}',
    ],
)
def test_strange_but_harmless_bodies_are_taken(raw: bytes) -> None:
    """Depth at the limit, brackets in texts, repeated keys inside, huge numbers and NUL in texts are all kept."""
    assert raw[1:] in accepted(raw).body


@pytest.mark.parametrize(
    "raw",
    [
        b'{"session":{"session_id":"a","attempt":%d},"x":1.10,"y":1e400}',
        b'{"session":{"session_id":"a","attempt":%d},"event_id" : null,"x":1.10,"y":1e400}',
        b'{"session":{"session_id":"a","attempt":%d},"x":1.10,"y":1e400,"z":{"event_id":"inner"}}',
        b'{"session":{"session_id":"a","attempt":%d},"\\u0065vent_id":null,"x":1.10,"y":1e400}',
    ],
)
def test_an_event_without_an_id_gets_the_same_one_each_time(raw: bytes) -> None:
    """The id follows from tenant, session and attempt; it is put into the body, whose values stay byte for byte."""
    record = accepted(raw % 3)
    assert record.event_id == derived_event_id("acme", "a", 3) == decode_completion(record.body).event_id
    assert b'"x":1.10,"y":1e400' in record.body
    assert list(json.loads(record.body)).count("event_id") == 1
    assert accepted(raw % 3).content_hash == record.content_hash
    assert accepted(raw % 4).event_id != record.event_id
    assert accepted(raw % 3, tenant="other").event_id != record.event_id


def test_hashes_are_keyed_by_secret_and_tenant() -> None:
    """The same event hashes alike for one tenant of one installation, and differently for any other."""
    raw = changed("event_id", "evt_1")
    contexts: list[dict[str, Any]] = [{}, {"tenant": "other"}, {"secret": b"t" * 32}]
    hashes = [(r.id_hash, r.content_hash) for r in (accepted(raw, **changes) for changes in contexts)]
    assert len({h for pair in hashes for h in pair}) == 6
    assert (accepted(raw).id_hash, accepted(raw).content_hash) == hashes[0]


def test_by_session_completions_of_a_session_share_a_hash() -> None:
    """`dedupe_by: session` adds a hash of the session, equal for its completions; by event there is none."""
    one, two = changed("event_id", "evt_1"), changed("event_id", "evt_2")
    assert accepted(one).dedupe_hash == accepted(two).dedupe_hash == b""
    by_session = [accepted(raw, dedupe_by="session") for raw in (one, two)]
    assert by_session[0].dedupe_hash == by_session[1].dedupe_hash
    assert len(by_session[0].dedupe_hash) == 8
    assert by_session[0].id_hash != by_session[1].id_hash
    assert accepted(changed("session.session_id", "b"), dedupe_by="session").dedupe_hash != by_session[0].dedupe_hash


@pytest.mark.parametrize(
    ("usage", "cost_nanousd"),
    [
        ({"input_tokens": 1000, "output_tokens": 100}, 3_500_000),
        ({"input_tokens": 1000, "total_tokens": 1100}, 3_500_000),
        ({"output_tokens": 100, "total_tokens": 1100}, 3_500_000),
        ({"input_tokens": 1000}, 2_500_000),
        ({"input_tokens": 1000, "output_tokens": 100, "cache_read_input_tokens": 400}, 3_000_000),
        ({"input_tokens": 1000, "output_tokens": 100, "estimated_cost_usd": 1}, 1_000_000_000),
        ({"total_tokens": 1100}, None),
        ({"input_tokens": 1000, "model": "no-such-model"}, None),
        ({"input_tokens": 1000, "model": None}, None),
    ],
)
def test_a_missing_cost_is_priced(usage: dict[str, Any], cost_nanousd: int | None) -> None:
    """gpt-4o at 2.50 and 10 USD a million (1.25 cached) gives the cost; what is sent wins; unknown is null, never 0."""
    record = accepted(json.dumps({"session": {"session_id": "a"}, "usage": {"model": "gpt-4o", **usage}}).encode())
    assert record.cost_nanousd == cost_nanousd
    sent = "sent" if "estimated_cost_usd" in usage else f"genai-prices/{PRICES.version}:openai/gpt-4o"
    assert record.price_ref == ("" if cost_nanousd is None else sent)


def test_an_event_is_priced_at_its_own_date() -> None:
    """o3 became cheaper on 2025-06-10: an event of the day before costs the old price, whenever it comes."""

    def cost(timestamp: str) -> int | None:
        raw = '{"session":{"session_id":"a"},"timestamp":"%s","usage":{"model":"o3","input_tokens":1000}}'
        return accepted((raw % timestamp).encode()).cost_nanousd

    assert (cost("2025-06-09T23:59:59Z"), cost("2025-06-10T00:00:00Z")) == (10_000_000, 2_000_000)
    assert cost("2025-06-10T01:00:00+02:00") == 10_000_000


def test_a_batch_keeps_its_order_and_loses_nothing() -> None:
    """Records and problems carry the index of their body, and a producer's sequence numbers stay with their events."""
    raws = [changed("event_id", "evt_0"), b"{", changed("event_id", "evt_2"), b"[]"]
    prepared = prepare(raws, context(), [11, 12, 13, 14])
    assert prepared.places == [0, 2]
    assert [(r.event_id, r.sequence) for r in prepared.records] == [("evt_0", 11), ("evt_2", 13)]
    assert [(p.index, p.raw) for p in prepared.problems] == [(1, b"{"), (3, b"[]")]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
known_paths = sorted(prefix + f.name for prefix, part in PARTS.items() for f in msgspec.structs.fields(part))
mutated = st.builds(changed, st.sampled_from(known_paths), json_values | st.integers(-3, 3) | st.text(max_size=3))


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """The example with some bytes cut out and others put in."""
    raw = json.dumps(EXAMPLE).encode()
    start = draw(st.integers(0, len(raw)))
    end = draw(st.integers(start, min(len(raw), start + 40)))
    return raw[:start] + draw(st.binary(max_size=8)) + raw[end:]


hostile = st.binary(max_size=300) | json_values.map(lambda v: json.dumps(v).encode()) | mutated | broken()


def partition(raws: list[bytes], prepared: Prepared) -> None:
    """Every body is in exactly one list, in order, and each record's body is its event with its id."""
    assert sorted(prepared.places + [p.index for p in prepared.problems]) == list(range(len(raws)))
    assert prepared.places == sorted(prepared.places)
    for place, record in zip(prepared.places, prepared.records, strict=True):
        sent, kept = json.loads(raws[place]), json.loads(record.body)
        assert kept.pop("event_id") == record.event_id
        assert sent.pop("event_id", None) in (record.event_id, None)
        assert json.dumps(kept) == json.dumps(sent)
        assert record.cost_nanousd is None or record.cost_nanousd >= 0
    for problem in prepared.problems:
        assert problem.raw == raws[problem.index]
        assert problem.code in documented_codes
        assert problem.message
        assert problem.remedy
        assert (problem.path + problem.message + problem.remedy).isprintable()


documented_codes = documented_names("events.md", section="Refusals")


@settings(max_examples=1000)
@given(st.lists(hostile, min_size=10, max_size=10))
def test_ten_thousand_hostile_bodies_are_split_and_never_raise(raws: list[bytes]) -> None:
    """Arbitrary bytes, JSON and mutilated events end as a record or a problem each; ids and unknown fields hold."""
    prepared = prepare(raws, context())
    partition(raws, prepared)
    assert prepare(raws, context()) == prepared


@settings(max_examples=300)
@given(
    st.dictionaries(st.text().filter(lambda name: name not in EXAMPLE and name != "amends"), json_values, max_size=5),
    st.sampled_from(["absent", "null", "sent"]),
)
def test_unknown_fields_survive(extra: dict[str, Any], event_id: str) -> None:
    """Fields that the schema does not know are in the stored body, whichever way the event got its id."""
    head = {"absent": {}, "null": {"event_id": None}, "sent": {"event_id": "evt_1"}}[event_id]
    raw = json.dumps({**head, "session": {"session_id": "a", "extra": extra}, **extra}, allow_nan=True).encode()
    prepared = prepare([raw], context())
    partition([raw], prepared)
    assert len(prepared.records) + len(prepared.problems) == 1


def test_every_field_and_code_is_documented() -> None:
    """docs/reference/events.md names exactly the fields of the schema and the codes of refusals."""
    fields = {prefix + f.name for prefix, part in PARTS.items() for f in msgspec.structs.fields(part)}
    fields -= {prefix.rstrip(".") for prefix in PARTS}
    assert differences(fields, documented_names("events.md", section="Fields"), page="events.md") == []
    folder = Path(adjourn.completion.__file__).parent
    sources = [(folder / f"{name}.py").read_text() for name in ("validate", "explain", "body")]
    codes = set(re.findall(r'Refused\(\s*"(\w+)"', "".join(sources))) | {"type_invalid", "value_invalid"}
    assert differences(codes, documented_codes, page="events.md") == []
