"""OTLP's request and answer for traces, in its two encodings: protobuf and JSON. Pure, and bounded.

Protobuf is read here, by field numbers of opentelemetry-proto 1.x, because so little of it is wanted: attributes that
the mapping does not know, links and most events are passed over unread. Measured with 512
spans of 15 attributes: 18 ms where the C library takes 6 ms, 4 MB more, and pins on protobuf that collide with other
programs'.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterable, Iterator, Mapping

import msgspec

from adjourn.completion.otlp import (
    EXCEPTION,
    RESOURCE_ATTRIBUTES,
    SPAN_ATTRIBUTES,
    TEXT_LENGTH_MAX,
    TIME_NS_MAX,
    Span,
    Value,
)
from adjourn.errors import BodyInvalid

PROTOBUF = "application/x-protobuf"
JSON = "application/json"
REASONS_MAX = 5
"""Told of those that were not taken; of the rest, how many."""

_IS_REMOTE = 0x300
"""Flags of a span: whether its parent's process is known, and is another one."""
_STATUS_ERROR = 2

Bounds = tuple[int, int]


def spans_of(body: bytes, kind: str) -> Iterator[Span | str]:
    """The spans of a request; of one that is none, why. Raises BodyInvalid."""
    return _from_protobuf(body) if kind == PROTOBUF else _from_json(body)


def answer(kind: str, rejected: int, message: str) -> bytes:
    """`ExportTraceServiceResponse`."""
    if not rejected and not message:
        return b"" if kind == PROTOBUF else b"{}"
    if kind == PROTOBUF:
        partial = (b"\x08" + _varint(rejected) if rejected else b"") + _text_field(2, message)
        return b"\x0a" + _varint(len(partial)) + partial
    told = ({"rejectedSpans": str(rejected)} if rejected else {}) | {"errorMessage": message}
    return msgspec.json.encode({"partialSuccess": told})


def status(kind: str, message: str) -> bytes:
    """`google.rpc.Status`, in which OTLP tells errors."""
    return _text_field(2, message) if kind == PROTOBUF else msgspec.json.encode({"message": message})


# --- protobuf ---------------------------------------------------------------------------------------------------------


def _from_protobuf(body: bytes) -> Iterator[Span | str]:
    try:
        for number, start, end in _fields(body, 0, len(body)):
            if number == 1 and end >= 0:
                yield from _resource_spans(body, start, end)
    except (IndexError, ValueError) as error:
        why = "it ends too early" if isinstance(error, IndexError) else str(error)
        raise BodyInvalid(f"the body is no ExportTraceServiceRequest ({why}); check Content-Type") from error


def _fields(body: bytes, position: int, until: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of each field with a length or of a fixed one; of a varint (number, value, -1).
    Raises ValueError, IndexError."""
    while position < until:
        key, position = _read_varint(body, position)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, position = _read_varint(body, position)
            yield number, value, -1
            continue
        if wire == 2:
            length, position = _read_varint(body, position)
        elif wire == 1:
            length = 8
        elif wire == 5:
            length = 4
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        start, position = position, position + length
        if position > until:
            raise ValueError(f"a field at byte {start} is longer than what holds it")
        yield number, start, position
    if position != until:
        raise ValueError(f"a number at byte {until} is cut off")


def _read_varint(body: bytes, position: int) -> tuple[int, int]:
    value = body[position]
    position += 1
    if value < 128:
        return value, position
    value, shift = value & 127, 7
    while True:
        byte = body[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position
        shift += 7
        if shift > 63:
            raise ValueError(f"a number at byte {position} has more than 64 bits")


def _resource_spans(body: bytes, start: int, end: int) -> Iterator[Span | str]:
    resource: dict[str, Value] = {}
    scopes: list[Bounds] = []
    for number, first, last in _fields(body, start, end):
        if last < 0:
            continue
        if number == 1:
            for inner, at, to in _fields(body, first, last):
                if inner == 1 and to >= 0:
                    _attribute(body, at, to, resource, _RESOURCE_KEYS)
        elif number == 2:
            scopes.append((first, last))
    for first, last in scopes:
        yield from _scope_spans(body, first, last, resource)


def _scope_spans(body: bytes, start: int, end: int, resource: Mapping[str, Value]) -> Iterator[Span | str]:
    scope, spans = ["", ""], list[Bounds]()
    for number, first, last in _fields(body, start, end):
        if last < 0:
            continue
        if number == 1:
            for inner, at, to in _fields(body, first, last):
                if inner in (1, 2) and to >= 0:
                    scope[inner - 1] = body[at:to].decode(errors="replace")
        elif number == 2:
            spans.append((first, last))
    named = "/".join(filter(None, scope))
    for first, last in spans:
        yield _span(body, first, last, resource, named)


def _span(body: bytes, start: int, end: int, resource: Mapping[str, Value], scope: str) -> Span | str:
    ids, times, flags, error = ["", "", ""], [0, 0], 0, False
    attributes: dict[str, Value] = {}
    events: list[Bounds] = []
    for number, first, last in _fields(body, start, end):
        if last < 0:
            continue
        if number == 9:
            _attribute(body, first, last, attributes, _SPAN_KEYS)
        elif number in _IDS:
            ids[_IDS[number]] = body[first:last].hex()
        elif number in (7, 8):
            times[number - 7] = int.from_bytes(body[first:last], "little")
        elif number == 11:
            events.append((first, last))
        elif number == 16:
            flags = int.from_bytes(body[first:last], "little")
        elif number == 15:
            error = any(inner == 3 and at == _STATUS_ERROR for inner, at, _ in _fields(body, first, last))
    for first, last in events if error else ():
        for inner, at, to in _fields(body, first, last):
            if inner == 3 and to >= 0:
                _attribute(body, at, to, attributes, _EVENT_KEYS)
    return _checked(ids[0], ids[1], ids[2], times[0], times[1], flags, error, attributes, resource, scope)


_IDS = {1: 0, 2: 1, 4: 2}
_SPAN_KEYS = {name.encode(): name for name in SPAN_ATTRIBUTES}
_EVENT_KEYS = {EXCEPTION.encode(): EXCEPTION}
_RESOURCE_KEYS = {name.encode(): name for name in RESOURCE_ATTRIBUTES}


def _attribute(body: bytes, start: int, end: int, into: dict[str, Value], wanted: Mapping[bytes, str]) -> None:
    name, value = "", (0, -1)
    for number, first, last in _fields(body, start, end):
        if number == 1 and last >= 0:
            found = wanted.get(body[first:last])
            if found is None:
                return
            name = found
        elif number == 2 and last >= 0:
            value = (first, last)
    if not name or value[1] < 0:
        return
    for number, first, last in _fields(body, *value):
        if number == 1 and last >= 0:
            into[name] = body[first:last].decode(errors="replace")[:TEXT_LENGTH_MAX]
        elif number == 2 and last < 0:
            into[name] = bool(first)
        elif number == 3 and last < 0:
            into[name] = first - (1 << 64) if first >> 63 else first
        elif number == 4 and last - first == 8:
            into[name] = struct.unpack_from("<d", body, first)[0]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text_field(number: int, text: str) -> bytes:
    encoded = text.encode()
    return bytes([number << 3 | 2]) + _varint(len(encoded)) + encoded


# --- JSON -------------------------------------------------------------------------------------------------------------


class _Any(msgspec.Struct):
    stringValue: str | None = None
    boolValue: bool | None = None
    intValue: int | float | str | None = None
    doubleValue: int | float | str | None = None


class _KeyValue(msgspec.Struct):
    key: str = ""
    value: msgspec.Raw = msgspec.Raw(b"null")


class _Resource(msgspec.Struct):
    attributes: list[_KeyValue] | None = None


class _Scope(msgspec.Struct):
    name: str | None = None
    version: str | None = None


class _ScopeSpans(msgspec.Struct):
    scope: _Scope | None = None
    spans: list[msgspec.Raw] | None = None


class _ResourceSpans(msgspec.Struct):
    resource: _Resource | None = None
    scopeSpans: list[_ScopeSpans] | None = None


class _Request(msgspec.Struct):
    resourceSpans: list[_ResourceSpans] | None = None


class _Status(msgspec.Struct):
    code: int | str | None = None


class _Event(msgspec.Struct):
    attributes: list[_KeyValue] | None = None


class _Span(msgspec.Struct):
    traceId: str = ""
    spanId: str = ""
    parentSpanId: str | None = None
    startTimeUnixNano: int | str | None = None
    endTimeUnixNano: int | str | None = None
    attributes: list[_KeyValue] | None = None
    events: list[_Event] | None = None
    status: _Status | None = None
    flags: int | None = None


_decode_request = msgspec.json.Decoder(_Request).decode
_decode_span = msgspec.json.Decoder(_Span).decode
_decode_value = msgspec.json.Decoder(_Any | None).decode
_NOTHING = _Any()


def _from_json(body: bytes) -> Iterator[Span | str]:
    try:
        request = _decode_request(body)
    except RecursionError:
        raise BodyInvalid("the body nests too deep; send spans as OTLP has them") from None
    except ValueError as error:
        raise BodyInvalid(f"the body is no ExportTraceServiceRequest ({error}); check Content-Type") from error
    for resource_spans in request.resourceSpans or ():
        found = resource_spans.resource
        try:
            resource = _values((found.attributes if found else None) or (), RESOURCE_ATTRIBUTES)
        except (ValueError, RecursionError) as error:
            raise BodyInvalid(f"an attribute of a resource cannot be read ({error}); send it as OTLP has it") from error
        for scope_spans in resource_spans.scopeSpans or ():
            scope = scope_spans.scope or _Scope()
            named = "/".join(filter(None, (scope.name, scope.version)))
            for raw in scope_spans.spans or ():
                yield _from_json_span(raw, resource, named)


def _from_json_span(raw: msgspec.Raw, resource: Mapping[str, Value], scope: str) -> Span | str:
    try:
        span = _decode_span(raw)
        attributes = _values(span.attributes or (), SPAN_ATTRIBUTES)
        error = span.status is not None and span.status.code in (_STATUS_ERROR, "STATUS_CODE_ERROR")
        for event in (span.events or ()) if error else ():
            attributes |= _values(event.attributes or (), (EXCEPTION,))
        start, end = _time(span.startTimeUnixNano), _time(span.endTimeUnixNano)
    except (ValueError, RecursionError) as why:
        return f"a span cannot be read ({str(why)[:200]}); send it as OTLP has it"
    ids = span.traceId.lower(), span.spanId.lower(), (span.parentSpanId or "").lower()
    return _checked(*ids, start, end, span.flags or 0, error, attributes, resource, scope)


def _values(attributes: Iterable[_KeyValue], wanted: Container[str]) -> dict[str, Value]:
    """Raises ValueError, RecursionError."""
    values: dict[str, Value] = {}
    for attribute in attributes:
        if attribute.key not in wanted:
            continue
        it = _decode_value(attribute.value) or _NOTHING
        if it.stringValue is not None:
            values[attribute.key] = it.stringValue[:TEXT_LENGTH_MAX]
        for value in (it.boolValue, it.intValue, it.doubleValue):
            if value is not None:
                values[attribute.key] = value
    return values


def _time(value: int | str | None) -> int:
    """Raises ValueError."""
    if isinstance(value, str):
        if not (value.isascii() and value.isdigit() and len(value) <= 20):
            raise ValueError(f"{value[:40]!r} is no time in nanoseconds")
        value = int(value)
    return value or 0


# --- both -------------------------------------------------------------------------------------------------------------


def _checked(
    trace_id: str,
    span_id: str,
    parent_id: str,
    start_ns: int,
    end_ns: int,
    flags: int,
    error: bool,
    attributes: Mapping[str, Value],
    resource: Mapping[str, Value],
    scope: str,
) -> Span | str:
    if not _is_id(trace_id, 32):
        return f"a span's trace id is {trace_id[:40]!r}, not 16 bytes other than zero; send it as hex in JSON"
    if not _is_id(span_id, 16):
        return f"a span of trace {trace_id} has the id {span_id[:40]!r}, not 8 bytes other than zero; send it so"
    if not parent_id.strip("0"):
        parent_id = ""
    elif not _is_id(parent_id, 16):
        return f"span {span_id} has the parent {parent_id[:40]!r}, which is not 8 bytes; send its id, or none"
    if not (0 <= start_ns < TIME_NS_MAX and 0 <= end_ns < TIME_NS_MAX):
        return f"span {span_id} has a time that is not in nanoseconds since 1970; send it so"
    return Span(
        trace_id=trace_id,
        span_id=span_id,
        parent_id=parent_id,
        remote_parent=flags & _IS_REMOTE == _IS_REMOTE,
        start_ns=start_ns,
        end_ns=end_ns,
        error=error,
        attributes=attributes,
        resource=resource,
        scope=scope,
    )


def _is_id(text: str, length: int) -> bool:
    return len(text) == length and not text.strip("0123456789abcdef") and bool(text.strip("0"))
