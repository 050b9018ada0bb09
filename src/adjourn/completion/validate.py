"""From the bytes that senders wrote to records for the log: validated, priced, identified. Pure, and the hot path.

Lenient in what is absent (only `session.session_id` must be there), strict in what is present, and nothing is lost: a
body is kept as it came, unknown fields included, and what is refused comes back whole, with path, fact and remedy.
docs/reference/events.md states the rules. Functions here are few and flat because each call costs 2 % of an event.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn

import msgspec

from adjourn.completion.body import read
from adjourn.completion.dedupe import DedupeBy, derived_id, identity, is_claim
from adjourn.completion.explain import Refused, explain_reserved
from adjourn.completion.hashes import hashers
from adjourn.completion.redact import Redact, Unreadable
from adjourn.completion.status import record_of
from adjourn.events import (
    BEACON_PREFIX,
    Completion,
    Record,
    SessionPart,
    UsagePart,
    decode_completion,
    decode_status_changed,
    is_status_changed,
)
from adjourn.prices import SENT, PriceTable, nanousd_of

COST_USD_MAX = 1_000_000_000

_WHITESPACE: Final = b" \t\r\n"  # JSON's own; str.strip would take more
_EARLIEST: Final = datetime.min.replace(tzinfo=UTC)
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch is judged by: whose it is, when it came, and the settings."""

    tenant: str
    """Of the key that the batch came with. An event's own `organization_id` is data and never decides this."""
    now_ms: int
    secret: bytes
    """The installation's, 16 to 64 bytes: it keys the hashes, so that nobody else can make two events collide."""
    prices: PriceTable
    dedupe_by: DedupeBy = "event"
    timestamp_ahead_ms_max: int = 300_000
    sources: frozenset[str] = frozenset()
    """The values of `metadata.source` that are taken; empty: all."""
    redact: Redact | None = None
    """Takes out of a body what must not be kept, before anything else is made of it."""
    relayed: bool = False
    """From another Adjourn, which hands on what it has written itself, too."""


class Problem(msgspec.Struct, frozen=True):
    """A body that was refused, whole."""

    index: int
    code: str
    path: str
    """The offending field, `usage.input_tokens`; empty when it is the body itself."""
    message: str
    remedy: str
    raw: bytes


class Prepared(msgspec.Struct, frozen=True):
    """Every body of a batch is in `records` or in `problems`, once, in the order of the batch."""

    records: list[Record]
    places: list[int]
    """For each record, the index of its body in the batch."""
    problems: list[Problem]


def prepare(raws: Sequence[bytes], ctx: Context, sequences: Sequence[int] | None = None) -> Prepared:
    """Turn a batch of bodies (one JSON object each) into records. Never raises on what a body contains.

    `sequences`, parallel to `raws`, are the numbers that a known producer gave its events; without them all are 0."""
    tenant, now_ms, prices, sources, redact = ctx.tenant, ctx.now_ms, ctx.prices, ctx.sources, ctx.redact
    by_session = ctx.dedupe_by == "session"
    copy_id_hasher, copy_session_hasher, copy_content_hasher = hashers(ctx.secret, tenant)
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    latest = now + timedelta(milliseconds=ctx.timestamp_ahead_ms_max)
    records: list[Record] = []
    places: list[int] = []
    problems: list[Problem] = []
    for index, raw in enumerate(raws):
        sequence = 0 if sequences is None else sequences[index]
        try:
            if redact is not None:
                raw = _redacted(raw, redact)
            body = raw.strip(_WHITESPACE)
            if ctx.relayed and is_status_changed(body):
                records.append(_status_changed(body, ctx, sequence))
                places.append(index)
                continue
            event = read(body, decode_completion)
            _check(event, latest, sources)
        except Refused as refused:
            problems.append(Problem(index, refused.code, refused.path, refused.fact, refused.remedy, raw))
            continue
        content_hasher = copy_content_hasher()
        content_hasher.update(body)  # as it was sent: a retry of it must hash alike whether or not it had an id
        event_id = event.event_id
        if event_id is None:
            event.event_id = event_id = derived_id(tenant, event)
            body = _with_event_id(body, event_id)
        id_hasher = copy_id_hasher()
        id_hasher.update(event_id.encode())
        dedupe_hash = _session_hash(event, copy_session_hasher()) if by_session else b""
        usage = event.usage
        cost, price_ref = (None, "") if usage is None else _cost(usage, event, prices, now)
        session_id, id_hash, content_hash = event.session.session_id, id_hasher.digest(), content_hasher.digest()
        record = Record(
            tenant, session_id, event_id, body, id_hash, content_hash, now_ms, cost, price_ref, dedupe_hash, sequence
        )
        records.append(record)
        places.append(index)
    return Prepared(records, places, problems)


def _redacted(raw: bytes, redact: Redact) -> bytes:
    try:
        return redact(raw)
    except Unreadable:
        read(raw.strip(_WHITESPACE), decode_completion)  # refuses it for a reason of its own
        raise Refused(
            "redaction_failed",
            "",
            "the event cannot be searched for what is to be redacted",
            "write its names and texts without half surrogate pairs",
        ) from None


def _session_hash(event: Completion, hasher: hashlib.blake2b) -> bytes:
    """What `dedupe.identity` says by session, as a hash; empty where that is the event's id."""
    if event.event_type != "session.completed":
        return b""
    hasher.update(identity(event, "session").encode())
    return hasher.digest()


def _status_changed(body: bytes, ctx: Context, sequence: int) -> Record:
    event = read(body, decode_status_changed)
    session_id, event_id = event.session.session_id, event.event_id
    _check_id("session.session_id", session_id)
    _check_id("event_id", event_id)
    return record_of(ctx.secret, ctx.tenant, session_id, event_id, body, ctx.now_ms, sequence)


def _check(event: Completion, latest: datetime, sources: frozenset[str]) -> None:
    """The rules that hold across fields, and those of ids."""
    session = event.session
    _check_id("session.session_id", session.session_id)
    if event.event_id is not None:
        _check_id("event_id", event.event_id)
        if event.event_id.startswith(BEACON_PREFIX) and not is_claim(event):
            raise explain_reserved()
    user = event.user
    if user is not None:
        if user.user_id is not None:
            _check_id("user.user_id", user.user_id)
        if user.organization_id is not None:
            _check_id("user.organization_id", user.organization_id)
    timestamp = event.timestamp
    if timestamp is not None and not _EARLIEST <= timestamp <= latest:
        _refuse_time("timestamp", timestamp, latest)
    if session.start_time is not None or session.end_time is not None:
        _check_times(session, latest)
    if session.attempt == 0:
        raise Refused("value_invalid", "session.attempt", "session.attempt is 0", "count attempts from 1")
    if event.usage is not None:
        _check_usage(event.usage)
    if event.amends is not None or event.event_type != "session.completed":
        _check_amends(event)
    metadata = event.metadata
    if sources and metadata is not None and metadata.source is not None and metadata.source not in sources:
        raise Refused(
            "source_refused",
            "metadata.source",
            f"the source {metadata.source[:100]!r} is not taken here",
            f"send one of {', '.join(sorted(sources))}, or add it to capture.sources",
        )


def _check_id(path: str, value: str) -> None:
    if value.strip() != value:
        raise Refused("id_invalid", path, f"{path} begins or ends with white space", "trim it")
    if value.isprintable():
        return
    # Not all that is unprintable is harmful (a zero-width joiner is not); control characters and NUL are.
    if any(character < " " or "\x7f" <= character <= "\x9f" for character in value):
        raise Refused("id_invalid", path, f"{path} holds a control character", "use printable characters only")


def _check_times(session: SessionPart, latest: datetime) -> None:
    start_time, end_time = session.start_time, session.end_time
    if start_time is not None and not _EARLIEST <= start_time <= latest:
        _refuse_time("session.start_time", start_time, latest)
    if end_time is None:
        return
    if not _EARLIEST <= end_time <= latest:
        _refuse_time("session.end_time", end_time, latest)
    if start_time is not None and end_time < start_time:
        raise Refused(
            "end_before_start",
            "session.end_time",
            f"session.end_time {end_time.isoformat()} is before session.start_time {start_time.isoformat()}",
            "send the time at which the session ended, with its offset",
        )


def _refuse_time(path: str, value: datetime, latest: datetime) -> NoReturn:
    if value < _EARLIEST:
        raise Refused(
            "time_invalid",
            path,
            f"{path} {value.isoformat()} has no form in UTC, in which times are kept",
            "send the time that was meant, or leave it out",
        )
    raise Refused(
        "time_ahead",
        path,
        f"{path} {value.isoformat()} is later than {latest.isoformat()}, the latest that is taken now",
        "set the sender's clock, or raise the limit on times ahead",
    )


def _check_usage(usage: UsagePart) -> None:
    input_tokens, output_tokens, total = usage.input_tokens, usage.output_tokens, usage.total_tokens
    if total is not None and (input_tokens is not None or output_tokens is not None):
        parts = (input_tokens or 0) + (output_tokens or 0)
        if parts > total or (parts != total and input_tokens is not None and output_tokens is not None):
            raise Refused(
                "total_mismatch",
                "usage.total_tokens",
                f"usage.total_tokens is {total}, but input and output are {parts}",
                "send total_tokens = input_tokens + output_tokens, or leave it out",
            )
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    if cached and input_tokens is not None and cached > input_tokens:
        raise Refused(
            "cached_exceeds_input",
            "usage.input_tokens",
            f"{cached} cached tokens are more than the {input_tokens} input tokens",
            "send input_tokens with the cached ones included",
        )
    reasoning = usage.reasoning_output_tokens
    if reasoning is not None and output_tokens is not None and reasoning > output_tokens:
        raise Refused(
            "reasoning_exceeds_output",
            "usage.reasoning_output_tokens",
            f"{reasoning} reasoning tokens are more than the {output_tokens} output tokens",
            "send output_tokens with the reasoning ones included",
        )
    cost = usage.estimated_cost_usd
    if cost is not None and not (cost.is_finite() and 0 <= cost <= COST_USD_MAX):
        raise Refused(
            "cost_invalid",
            "usage.estimated_cost_usd",
            f"usage.estimated_cost_usd is not an amount from 0 to {COST_USD_MAX}",
            "send decimal USD, or leave it out and it is computed from the model and the tokens",
        )


def _check_amends(event: Completion) -> None:
    path = "amends"
    if event.event_type == "session.completed":
        raise Refused(
            "amends_misplaced", path, "a session.completed amends nothing", 'send it with event_type "session.amended"'
        )
    if event.amends is None:
        raise Refused(
            "field_missing", path, "session.amended does not say what it amends", "send the event's id in amends"
        )
    if event.amends == event.event_id:
        raise Refused("amends_misplaced", path, "the event amends itself", "give the amendment an event_id of its own")
    _check_id(path, event.amends)


def _with_event_id(body: bytes, event_id: str) -> bytes:
    """The same object with an id in it. `body` has none, or null."""
    if b'event_id"' in body or b"\\" in body:
        fields = _decode_fields(body)
        if "event_id" in fields:
            fields["event_id"] = msgspec.Raw(msgspec.json.encode(event_id))
            return msgspec.json.encode(
                fields
            )  # values as they were, byte for byte: only the outermost object is rewritten
    return b'{"event_id":"%b",%b' % (event_id.encode(), body[1:])


def _cost(usage: UsagePart, event: Completion, prices: PriceTable, now: datetime) -> tuple[int | None, str]:
    """What the sender says it cost, else the price of its tokens at the event's date. A browser's claim costs nothing:
    whoever sees a page could run up its bill."""
    if is_claim(event):
        return None, ""
    if usage.estimated_cost_usd is not None:
        return nanousd_of(usage.estimated_cost_usd), SENT
    model = usage.model
    if not model:
        return None, ""
    input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
    if input_tokens is None or output_tokens is None:
        if input_tokens is None and output_tokens is None:
            return None, ""
        total = usage.total_tokens
        if input_tokens is None:
            input_tokens = 0 if total is None else total - (output_tokens or 0)
        else:
            output_tokens = 0 if total is None else total - input_tokens
    return prices.cost(
        model,
        event.timestamp or event.session.end_time or event.session.start_time or now,
        input_tokens,
        output_tokens or 0,
        usage.cache_read_input_tokens or 0,
        usage.cache_creation_input_tokens or 0,
    )
