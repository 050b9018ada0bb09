"""What a program says of a session while it is in it: usage adds up, tags are put on, and it ends in some way."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from decimal import Decimal

import msgspec

from adjourn.errors import EventInvalid
from adjourn.events import OutcomePart, OutcomeStatus, UsagePart

_encode = msgspec.json.Encoder(decimal_format="number").encode
_decode = msgspec.json.Decoder(msgspec.Raw).decode
_adding = threading.RLock()
"""Held for one addition. One for all sessions: of many, a fork would leave some held for ever. It may be taken twice,
by a signal's handler in the middle of an addition."""


def _after_fork() -> None:
    global _adding
    _adding = threading.RLock()  # a thread that is not here may have held it


os.register_at_fork(after_in_child=_after_fork)


class Account:
    """What all kinds of sessions share. Several threads may speak of one."""

    def __init__(self, *, model: str | None, custom_tags: Mapping[str, object] | None) -> None:
        self._usage = UsagePart(model=model)
        """Never changed, only replaced: who reads it in another thread does not see half of an addition."""
        self._outcome = OutcomePart()
        self._tags: dict[str, msgspec.Raw] = {}
        self.tag(**(custom_tags or {}))

    def add_usage(
        self,
        *,
        input_tokens: int = 0,
        output_tokens: int = 0,
        cache_read_input_tokens: int = 0,
        cache_creation_input_tokens: int = 0,
        reasoning_output_tokens: int = 0,
        tool_calls: int = 0,
        cost_usd: Decimal | None = None,
        model: str | None = None,
    ) -> None:
        """Add what one call used; calls add up. Input includes cached tokens, output includes reasoning ones."""
        with _adding:
            while True:
                old = self._usage
                new = UsagePart(
                    input_tokens=(old.input_tokens or 0) + input_tokens,
                    output_tokens=(old.output_tokens or 0) + output_tokens,
                    cache_read_input_tokens=_sum(old.cache_read_input_tokens, cache_read_input_tokens),
                    cache_creation_input_tokens=_sum(old.cache_creation_input_tokens, cache_creation_input_tokens),
                    reasoning_output_tokens=_sum(old.reasoning_output_tokens, reasoning_output_tokens),
                    tool_calls=_sum(old.tool_calls, tool_calls),
                    model=old.model if model is None else model,
                    estimated_cost_usd=old.estimated_cost_usd,
                )
                new.total_tokens = (new.input_tokens or 0) + (new.output_tokens or 0)
                if cost_usd is not None:
                    new.estimated_cost_usd = (old.estimated_cost_usd or Decimal(0)) + cost_usd
                if self._usage is old:  # or a signal's handler has added meanwhile
                    self._usage = new
                    return

    def tag(self, /, **tags: object) -> None:
        """Put custom tags on the completion, as they are now. Raises EventInvalid for what JSON cannot express."""
        for name, value in tags.items():
            # Here, not at the end: a tag that cannot be written must not cost the session its completion.
            try:
                tag = _encode(value)
                if b"NaN" in tag or b"Infinity" in tag:  # a decimal may be what no number in JSON is
                    _decode(tag)
                self._tags[name] = msgspec.Raw(tag)
            except (TypeError, ValueError, RecursionError, OverflowError) as error:
                raise EventInvalid(
                    f"the tag {name!r} cannot be written as JSON ({error}); use JSON's types", path=name
                ) from error

    def end_as(self, status: OutcomeStatus, *, error_code: str | None = None, final_message: str | None = None) -> None:
        """Say how it ended, where that is not what leaving the block would say."""
        self._outcome = OutcomePart(status=status, error_code=error_code, final_message=final_message)


def outcome_of(error: BaseException) -> OutcomePart:
    """How a session ended that this left."""
    name = type(error).__name__
    if isinstance(error, TimeoutError):
        return OutcomePart(status="timeout", error_code=name)
    if isinstance(error, asyncio.CancelledError | KeyboardInterrupt | GeneratorExit):
        return OutcomePart(status="user_terminated", error_code=name)
    if isinstance(error, SystemExit) and error.code in (None, 0):
        return OutcomePart(status="success")
    return OutcomePart(status="error", error_code=name)


def _sum(so_far: int | None, more: int) -> int | None:
    return (so_far or 0) + more if more or so_far is not None else None
