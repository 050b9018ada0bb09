"""CloudEvents 1.0 over HTTP: from envelopes to the completion events in them; what is none is refused by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from urllib.parse import unquote

import msgspec

from adjourn.completion.explain import explain_malformed, explain_type
from adjourn.completion.validate import Problem
from adjourn.errors import BodyInvalid
from adjourn.events import AMENDED, STATUS_CHANGED

VERSION = "1.0"
EVENT_ID_MAX = 256
KEPT_TYPES = frozenset({AMENDED, STATUS_CHANGED})


class _CloudEvent(msgspec.Struct):
    """The JSON format: what Adjourn reads of it. The payload is the completion event."""

    specversion: str
    id: str
    source: str
    type: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: bytes | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_CloudEvent).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def from_structured(item: bytes, index: int) -> bytes | Problem:
    """The data of a CloudEvent, identified by the CloudEvent if it names no event_id itself."""
    try:
        event = _decode(item)
    except (ValueError, RecursionError) as error:
        return _malformed(item, index, error)
    if event.specversion != VERSION:
        return _refused(item, index, "value_invalid", "specversion", f"version {event.specversion[:20]!r}")
    if not event.id or not event.source:
        return _refused(item, index, "value_invalid", "source" if event.id else "id", "id and source must not be empty")
    if event.data is not msgspec.UNSET:
        return _identified(bytes(event.data), event.type, event.source, event.id)
    if event.data_base64 is not msgspec.UNSET:
        return _identified(event.data_base64, event.type, event.source, event.id)
    return _refused(item, index, "field_missing", "data", "it has no data")


def from_binary(body: bytes, headers: Mapping[str, str]) -> bytes | Problem:
    """The body, identified by its headers. Raises BodyInvalid: without them the request is no CloudEvent at all."""
    for name in ("ce-id", "ce-source", "ce-type"):
        if not headers.get(name):
            raise BodyInvalid(f"a binary CloudEvent needs the header {name}; send it", path=name)
    if headers["ce-specversion"] != VERSION:
        version = headers["ce-specversion"][:20]
        raise BodyInvalid(f"CloudEvents {version!r} is not read here; send {VERSION}", path="ce-specversion")
    if not body:
        raise BodyInvalid("the body is empty; send the completion event in it")
    # The HTTP binding percent-encodes what a header cannot hold.
    return _identified(body, unquote(headers["ce-type"]), unquote(headers["ce-source"]), unquote(headers["ce-id"]))


def _refused(item: bytes, index: int, code: str, path: str, fact: str) -> Problem:
    remedy = "send specversion 1.0, id, source and type, and the completion event in data"
    return Problem(index, code, path, f"this is not a CloudEvent: {fact}", remedy, item)


def _malformed(item: bytes, index: int, error: Exception) -> Problem:
    if isinstance(error, RecursionError):
        return _refused(item, index, "body_too_deep", "", "it nests too deep")
    refused = explain_type(str(error)) if isinstance(error, msgspec.ValidationError) else explain_malformed(item, error)
    return _refused(item, index, refused.code, refused.path, refused.fact)


def _identified(data: bytes, cloud_type: str, source: str, cloud_id: str) -> bytes:
    """source + id is unique in CloudEvents: where the data names no event_id, a resend must find its own again.
    And what is no completion, as its envelope alone says, must not be taken for one."""
    try:
        fields = _decode_fields(data)
    except (ValueError, RecursionError):
        return data  # refused as the event that it is not
    given: dict[str, str] = {}
    if cloud_type in KEPT_TYPES and _absent(fields, "event_type"):
        given["event_type"] = cloud_type
    if _absent(fields, "event_id"):
        given["event_id"] = _event_id(source, cloud_id)
    if not given:
        return data
    return msgspec.json.encode(fields | {name: msgspec.Raw(msgspec.json.encode(text)) for name, text in given.items()})


def _absent(fields: Mapping[str, msgspec.Raw], name: str) -> bool:
    return bytes(fields.get(name, b"null")) == b"null"


def _event_id(source: str, cloud_id: str) -> str:
    event_id = f"{source}#{cloud_id}"
    if len(event_id) <= EVENT_ID_MAX:
        return event_id
    # Not cut off: two long ids that differ only at their end would be one event.
    return "ce_" + hashlib.blake2b(event_id.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
