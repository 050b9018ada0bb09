"""OTLP's two encodings of spans: both say the same, and nothing that is sent does more than be refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from adjourn.completion.otlp import TEXT_LENGTH_MAX, Span
from adjourn.errors import BodyInvalid
from adjourn.http.otlp_bodies import JSON, PROTOBUF, answer, spans_of

TRACE, PARENT, CHILD = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", "00f067aa0ba902b7"


def request() -> ExportTraceServiceRequest:
    """With everything that is read, and much that is not."""
    whole = ExportTraceServiceRequest()
    resource_spans = whole.resource_spans.add(schema_url="https://opentelemetry.io/schemas/1.37.0")
    resource_spans.resource.attributes.add(key="service.name").value.string_value = "bot"
    resource_spans.resource.attributes.add(key="process.pid").value.int_value = 7
    scope_spans = resource_spans.scope_spans.add()
    scope_spans.scope.name, scope_spans.scope.version = "agents", "1.2"
    span = scope_spans.spans.add(
        trace_id=bytes.fromhex(TRACE),
        span_id=bytes.fromhex(CHILD),
        parent_span_id=bytes.fromhex(PARENT),
        trace_state="a=b",
        name="chat",
        kind=3,
        start_time_unix_nano=1_760_000_000_000_000_001,
        end_time_unix_nano=1_760_000_001_000_000_002,
        flags=0x301,
        dropped_attributes_count=1,
    )
    span.status.code, span.status.message = 2, "too much"
    values: dict[str, Any] = {
        "gen_ai.operation.name": AnyValue(string_value="chat"),
        "gen_ai.usage.input_tokens": AnyValue(int_value=300),
        "gen_ai.usage.output_tokens": AnyValue(int_value=-1),
        "operation.cost": AnyValue(double_value=0.25),
        "error.type": AnyValue(string_value="Zoë" * 1000),
        "gen_ai.agent.name": AnyValue(bool_value=True),
        "gen_ai.prompt": AnyValue(string_value="p" * 100_000),
        "gen_ai.system": AnyValue(),
    }
    for name, value in values.items():
        span.attributes.add(key=name).value.CopyFrom(value)
    span.attributes.add(key="gen_ai.conversation.id").value.array_value.values.add(string_value="no text")
    span.events.add(name="exception", time_unix_nano=5).attributes.add(key="session.id").value.string_value = "no"
    exception = span.events.add(name="exception", time_unix_nano=6)
    exception.attributes.add(key="exception.stacktrace").value.string_value = "much"
    exception.attributes.add(key="exception.type").value.string_value = "RateLimitError"
    span.links.add(trace_id=b"x" * 16, span_id=b"y" * 8)
    return whole


def in_json(whole: ExportTraceServiceRequest) -> bytes:
    """As exporters in JavaScript write it: ids in hex."""
    document = json.loads(json_format.MessageToJson(whole))
    for resource_spans in document["resourceSpans"]:
        for scope_spans in resource_spans["scopeSpans"]:
            spans = next(it for it in whole.resource_spans).scope_spans[0].spans
            for span, it in zip(scope_spans["spans"], spans, strict=True):
                span["traceId"], span["spanId"] = it.trace_id.hex().upper(), it.span_id.hex()
                span["parentSpanId"], span["status"]["code"] = it.parent_span_id.hex(), 2
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("kind", "body"), [(PROTOBUF, request().SerializeToString()), (JSON, in_json(request()))], ids=["protobuf", "json"]
)
def test_both_encodings_say_the_same(kind: str, body: bytes) -> None:
    """What the reference library writes is read whole: ids, times, flags, status, and the attributes that matter."""
    assert list(spans_of(body, kind)) == [
        Span(
            trace_id=TRACE,
            span_id=CHILD,
            parent_id=PARENT,
            remote_parent=True,
            start_ns=1_760_000_000_000_000_001,
            end_ns=1_760_000_001_000_000_002,
            error=True,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.usage.input_tokens": 300 if kind == PROTOBUF else "300",
                "gen_ai.usage.output_tokens": -1 if kind == PROTOBUF else "-1",
                "operation.cost": 0.25,
                "error.type": ("Zoë" * 1000)[:TEXT_LENGTH_MAX],
                "gen_ai.agent.name": True,
                "exception.type": "RateLimitError",
            },
            resource={"service.name": "bot"},
            scope="agents/1.2",
        )
    ]


@pytest.mark.parametrize("kind", [PROTOBUF, JSON])
@pytest.mark.parametrize(("rejected", "message"), [(0, ""), (0, "a warning"), (300, "Zoë " * 100), (1, "")])
def test_answers_are_read_by_the_reference_library(kind: str, rejected: int, message: str) -> None:
    """Partial success, or none."""
    body = answer(kind, rejected, message)
    if kind == PROTOBUF:
        read = ExportTraceServiceResponse.FromString(body)
    else:
        read = json_format.Parse(body, ExportTraceServiceResponse())
    assert (read.partial_success.rejected_spans, read.partial_success.error_message) == (rejected, message)
    assert read.HasField("partial_success") == bool(rejected or message)


def _with(**changed: Any) -> bytes:
    whole = request()
    span = whole.resource_spans[0].scope_spans[0].spans[0]
    for name, value in changed.items():
        setattr(span, name, value)
    return whole.SerializeToString()


@pytest.mark.parametrize(
    ("changed", "fact"),
    [
        ({"trace_id": b""}, "trace id"),
        ({"trace_id": b"\0" * 16}, "trace id"),
        ({"trace_id": b"x" * 15}, "trace id"),
        ({"span_id": b"x" * 9}, "has the id"),
        ({"span_id": b"\0" * 8}, "has the id"),
        ({"parent_span_id": b"x" * 7}, "has the parent"),
        ({"start_time_unix_nano": 2**64 - 1}, "a time"),
        ({"end_time_unix_nano": 2**63}, "a time"),
    ],
)
def test_a_span_that_is_none_is_refused_by_itself(changed: dict[str, Any], fact: str) -> None:
    """With what is wrong with it, and what to send."""
    (found,) = spans_of(_with(**changed), PROTOBUF)
    assert isinstance(found, str)
    assert fact in found
    assert "; send" in found


def test_a_parent_of_zeros_is_none() -> None:
    """Some exporters write it so."""
    (found,) = spans_of(_with(parent_span_id=b"\0" * 8), PROTOBUF)
    assert isinstance(found, Span)
    assert found.parent_id == ""


@pytest.mark.parametrize(
    "span",
    [
        '{"traceId": 3}',
        '{"startTimeUnixNano": "NaN"}',
        '{"startTimeUnixNano": "1e9"}',
        '{"startTimeUnixNano": 1.5}',
        f'{{"endTimeUnixNano": "{"9" * 5000}"}}',
        '{"endTimeUnixNano": -1}',
        '{"traceId": "CvdlGRbNQ92ESOshHIAxnA==", "spanId": "t61rcWkgMzE="}',
        '{"attributes": [{"key": "user.id", "value": {"stringValue": 3}}]}',
        '{"attributes": [{"key": "user.id", "value": []}]}',
        '{"status": []}',
        "[]",
        "7",
    ],
)
def test_a_json_span_that_is_none_is_refused_by_itself(span: str) -> None:
    """Wrong types, times that are none, ids in base64 as protobuf's own JSON has them; the others are taken."""
    good = json.dumps({"traceId": TRACE, "spanId": CHILD})
    body = f'{{"resourceSpans": [{{"scopeSpans": [{{"spans": [{span}, {good}]}}]}}]}}'.encode()
    refused, taken = spans_of(body, JSON)
    assert isinstance(refused, str)
    assert isinstance(taken, Span)


@pytest.mark.parametrize(
    "body", [b"{}", b'{"resourceSpans": null}', b'{"resourceSpans": [{"scopeSpans": [{}]}], "x": 1}']
)
def test_an_empty_request_is_one(body: bytes) -> None:
    """Exporters may send none."""
    assert list(spans_of(body, JSON)) == []
    assert list(spans_of(b"", PROTOBUF)) == []


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, b""),
        (JSON, b"not json"),
        (JSON, b'{"resourceSpans": {}}'),
        (JSON, b'{"resourceSpans": [{"resource": {"attributes": [{"key": "service.name", "value": 3}]}}]}'),
        (JSON, b'{"resourceSpans": ' + b"[" * 100_000),
        (JSON, b'{"a": ' * 100_000),
        (PROTOBUF, b"{}"),
        (PROTOBUF, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f"),
        (PROTOBUF, b"\x80" * 20),
        (PROTOBUF, b"\x0b"),
        (PROTOBUF, b"\x0a\x05\x12"),
    ],
)
def test_a_body_that_is_none_is_refused(kind: str, body: bytes) -> None:
    """Whatever its shape, as one error."""
    with pytest.raises(BodyInvalid):
        list(spans_of(body, kind))


def _field(number: int, content: bytes) -> bytes:
    """A field with a length, which has as many bytes as it needs."""
    length, value = b"", len(content)
    while value > 127:
        length += bytes([value & 127 | 128])
        value >>= 7
    return bytes([number << 3 | 2]) + length + bytes([value]) + content


def test_what_nests_deep_is_passed_over() -> None:
    """In an attribute that would be wanted: nothing follows it down."""
    deep = b""
    for _ in range(5000):
        deep = _field(5, _field(1, deep))  # an array with one value
    span = request().resource_spans[0].scope_spans[0].spans[0].SerializeToString()
    span += _field(9, _field(1, b"session.id") + _field(2, deep))
    (found,) = spans_of(_field(1, _field(2, _field(2, span))), PROTOBUF)
    assert isinstance(found, Span)
    assert found.span_id == CHILD
    assert "session.id" not in found.attributes


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    """No other error, in either encoding."""
    for kind in (PROTOBUF, JSON):
        try:
            list(spans_of(body, kind))
        except BodyInvalid:
            continue


def test_a_body_that_is_cut_or_changed_is_read_or_refused() -> None:
    """At every byte."""
    whole = request()
    del whole.resource_spans[0].scope_spans[0].spans[0].attributes[6]  # the long one
    body = whole.SerializeToString()
    for cut in range(len(body)):
        for broken in (body[:cut], body[:cut] + b"\xff" + body[cut + 1 :], body[:cut] + b"\x00" + body[cut + 1 :]):
            try:
                list(spans_of(broken, PROTOBUF))
            except BodyInvalid:
                continue
