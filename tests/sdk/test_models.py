"""What a server answers, as types."""

from __future__ import annotations

import msgspec
import pytest

from adjourn.sdk.models import EventAnswer
from adjourn.testing.exercise_destination import Sample, change_of_status


def answered(body: bytes) -> EventAnswer:
    return EventAnswer(msgspec.Raw(body), "acme", 0, 1, "2025-12-21T10:30:45.123Z", None, "")


def test_an_event_says_what_it_is() -> None:
    """A completion can be read as a type; a change of status is none, and says so before somebody tries."""
    completed, changed = answered(Sample(1).stored().body), answered(change_of_status(2).body)
    assert (completed.event_type, changed.event_type) == ("session.completed", "session.status_changed")
    assert answered(b'{"event_id":"e","session":{"session_id":"s"}}').event_type == "session.completed"
    assert completed.completion().session.session_id == "sess_1"
    with pytest.raises(ValueError, match="event_type"):
        changed.completion()
