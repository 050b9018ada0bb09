"""Sessions that ended elsewhere."""

from __future__ import annotations

import inspect
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import get_type_hints

import pytest

from adjourn import finished
from adjourn.events import Completion, decode_completion
from adjourn.finished import capture_chat_session, capture_realtime_session
from adjourn.runtime import Runtime
from adjourn.testing.account import bodies
from tests.faults.rigs import mapping, settings_of

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def runtime(tmp_path: Path) -> Generator[Runtime]:
    with Runtime(settings_of(mapping(tmp_path))) as made:
        yield made


def completions(runtime: Runtime) -> list[Completion]:
    runtime.drain()
    return [decode_completion(body) for body in runtime.call(bodies)]


def test_a_finished_chat_is_captured_whole(runtime: Runtime) -> None:
    """Every argument is in the event, the duration and the total are computed."""
    receipt = capture_chat_session(
        session_id="sess_1",
        user_id="usr_1",
        organization_id="org_1",
        start_time=START,
        end_time=START + timedelta(seconds=90),
        input_tokens=10,
        output_tokens=5,
        model="gpt-4o",
        outcome="error",
        error_code="refused",
        final_message="sorry",
        tier="pro",
        estimated_cost_usd=Decimal("0.10"),
        custom_tags={"team": "a"},
        runtime=runtime,
    )
    assert receipt.result(20).status == "accepted"
    (event,) = completions(runtime)
    assert event.event_id == receipt.event_id
    assert event.timestamp == event.session.end_time == START + timedelta(seconds=90)
    assert (event.session.duration_ms, event.session.session_type) == (90_000, "chat")
    usage, outcome, user, metadata = event.usage, event.outcome, event.user, event.metadata
    assert usage is not None
    assert (usage.total_tokens, usage.model, usage.estimated_cost_usd) == (15, "gpt-4o", Decimal("0.10"))
    assert outcome is not None
    assert (outcome.status, outcome.error_code, outcome.final_message) == ("error", "refused", "sorry")
    assert user is not None
    assert (user.user_id, user.organization_id, user.tier) == ("usr_1", "org_1", "pro")
    assert metadata is not None
    assert metadata.custom_tags is not None
    assert bytes(metadata.custom_tags["team"]) == b'"a"'


def test_a_finished_realtime_session_says_how_it_was_carried(runtime: Runtime) -> None:
    """Modality and transport are in the event, and the rest as of a chat."""
    capture_realtime_session(
        session_id="sess_2",
        input_modality="audio",
        transport="webrtc",
        start_time="2026-01-02T03:04:05Z",
        outcome="timeout",
        error_code="silence",
        final_message="bye",
        tier="free",
        custom_tags={"team": "b"},
        runtime=runtime,
    )
    (event,) = completions(runtime)
    session = event.session
    assert (session.session_type, session.input_modality, session.transport) == ("realtime", "audio", "webrtc")
    assert (session.start_time, session.duration_ms) == (START, None)
    assert event.outcome is not None
    assert (event.outcome.status, event.outcome.error_code) == ("timeout", "silence")


def test_a_realtime_session_may_be_given_whatever_a_chat_may() -> None:
    """The two functions take the same arguments with the same types, but for what makes one realtime."""
    chat = get_type_hints(capture_chat_session)
    given = get_type_hints(finished._Given)  # pyright: ignore[reportPrivateUsage]  this test compares it
    own = {"session_id", "session_type", "input_modality", "transport", "return"}
    assert given == {name: kind for name, kind in chat.items() if name not in own}
    assert set(inspect.signature(capture_chat_session).parameters) == set(chat) - {"return"}


def test_times_that_cannot_be_compared_are_left_to_validation(runtime: Runtime) -> None:
    """What is no time, or has no zone, raises nothing here: its receipt says that the event is invalid, and where."""
    for number, (start, end) in enumerate([("soon", START), (START.replace(tzinfo=None), START)]):
        receipt = capture_chat_session(session_id=f"s{number}", start_time=start, end_time=end, runtime=runtime)
        settled = receipt.result(20)
        assert settled.status == "invalid"
        assert "session.start_time" in settled.message
    assert completions(runtime) == []
