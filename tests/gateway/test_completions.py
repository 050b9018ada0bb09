"""The event that a session becomes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.gateway.test_sessions import call, opened, sessions_of

from adjourn.events import Completion, decode_completion
from adjourn.gateway.completions import completion_of
from adjourn.gateway.sessions import Record
from adjourn.gateway.usage import Usage


def completion(*records: Record) -> Completion:
    return decode_completion(completion_of(sessions_of(opened("a"), *records).open["a"]))


def tag(found: Completion) -> Any:
    assert found.metadata is not None
    assert found.metadata.custom_tags is not None
    return msgspec.json.decode(found.metadata.custom_tags["gateway"])


def cost(found: Completion) -> tuple[str | None, str | None]:
    assert found.usage is not None
    amount = found.usage.estimated_cost_usd
    return found.usage.model, None if amount is None else f"{amount:f}"


def test_sums_times_and_user() -> None:
    """Counts are sums, times those of the first and last sign of life, in milliseconds."""
    found = completion(*call("a", "1"), *call("a", "2", streamed=True, finish_reason="stop"))
    assert found.usage is not None
    assert (found.usage.input_tokens, found.usage.output_tokens, found.usage.total_tokens) == (20, 10, 30)
    assert (found.session.duration_ms, found.session.transport) == (2000, "sse")
    assert found.user is not None
    assert found.user.user_id == "u"
    assert tag(found) == {"calls": 2, "failed_calls": 0, "calls_without_usage": 0, "finish_reason": "stop"}


def test_the_last_call_says_how_it_ended() -> None:
    """A failed call that was tried again successfully is no failure of the session."""
    failed = call("a", "1", status="error", error_code="http_500", usage=Usage(), cost_nanousd=None)
    found = completion(*failed, *call("a", "2"))
    assert found.outcome is not None
    assert (found.outcome.status, found.outcome.error_code, tag(found)["failed_calls"]) == ("success", None, 1)
    found = completion(*call("a", "1"), *call("a", "2", status="timeout", error_code="http_504"))
    assert found.outcome is not None
    assert (found.outcome.status, found.outcome.error_code) == ("timeout", "http_504")


@pytest.mark.parametrize(
    ("calls", "model_and_cost"),
    [
        ([{}], ("m", "0.000000007")),
        ([{}, {"model": "n", "usage": Usage(100, 0), "cost_nanousd": 3}], ("n", "0.000000010")),
        ([{"cost_nanousd": None}], ("m", None)),
        ([{}, {"cost_nanousd": None}], (None, None)),
        ([{}, {"model": "n", "cost_nanousd": None}], (None, None)),
        ([{}, {"usage": Usage(), "cost_nanousd": None}], ("m", "0.000000007")),
        ([{"cost_nanousd": 10**18}], ("m", "1000000000.000000000")),
    ],
)
def test_cost_is_a_sum_or_unknown(calls: list[dict[str, Any]], model_and_cost: Any) -> None:
    """It is priced call by call. Where a call has no price, there is none, and no model by which the sum could be given
    a wrong one; the tag has each model's own."""
    found = completion(*(record for n, more in enumerate(calls) for record in call("a", str(n), **more)))
    assert cost(found) == model_and_cost


def test_nothing_is_invented() -> None:
    """A session whose calls told no tokens has no usage."""
    found = completion(*call("a", "1", usage=Usage(), cost_nanousd=None))
    assert found.usage is None
    assert tag(found)["calls_without_usage"] == 1
