"""How an event becomes a row."""

from __future__ import annotations

import msgspec
import pytest

from adjourn.destinations.database_rows import COLUMNS, INDEXES, STATUS_COLUMNS, row
from adjourn.events import StoredEvent
from adjourn.testing.exercise_destination import Sample
from tests.documented import differences, documented_names

NAMES = [column.name for column in COLUMNS]


def values(body: bytes) -> dict[str, object]:
    return dict(zip(NAMES, row(StoredEvent(0, 1, "org", body, 1_766_313_045_123, None, "")), strict=True))


@pytest.mark.parametrize(
    ("sent", "written"),
    [
        ("2025-12-21T10:30:45Z", "2025-12-21T10:30:45.000Z"),
        ("2025-12-21T10:30:45.9999Z", "2025-12-21T10:30:45.999Z"),
        ("2025-12-21T10:30:45.5+05:30", "2025-12-21T05:00:45.500Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00.000Z"),
    ],
)
def test_times_sort_as_text(sent: str, written: str) -> None:
    """Every time is written in UTC with milliseconds, in 24 characters."""
    body = b'{"event_id":"e","session":{"session_id":"s"},"timestamp":"%b"}' % sent.encode()
    assert values(body)["occurred_at"] == written


def test_a_time_before_the_first_year_is_refused() -> None:
    """A time that has no year in UTC is an error of that event."""
    body = b'{"event_id":"e","session":{"session_id":"s"},"timestamp":"0001-01-01T00:00:00+14:00"}'
    with pytest.raises(OverflowError):
        values(body)


def test_an_event_without_a_time_occurred_when_it_ended_or_came() -> None:
    """`occurred_at` is the timestamp, else the session's end, else the time of receipt."""
    ended = b'{"event_id":"e","session":{"session_id":"s","end_time":"2025-12-20T00:00:00Z"}}'
    assert values(ended)["occurred_at"] == "2025-12-20T00:00:00.000Z"
    assert values(b'{"event_id":"e","session":{"session_id":"s"}}')["occurred_at"] == "2025-12-21T10:30:45.123Z"


def test_a_row_has_every_field_of_an_event() -> None:
    """A row has as many values as the table has columns, and absent parts are NULL."""
    empty = values(b'{"event_id":"e","session":{"session_id":"s"},"user":null,"usage":null}')
    required = {column.name for column in COLUMNS if column.required}
    assert {name for name, value in empty.items() if value is not None} == required
    full = row(Sample(3).stored())
    assert len(full) == len(COLUMNS)
    assert msgspec.json.decode(str(full[-1]))["x_unknown"] == {"kept": [1, 2.5, None]}


def test_the_table_is_documented() -> None:
    """docs/reference/destinations.md lists every column and index of the table, and no other."""
    page = "destinations.md"
    columns = documented_names(page, section="Columns")
    assert not differences([*NAMES, "cost_usd"], columns, page=page)
    indexes = documented_names(page, section="Indexes")
    assert not differences([f"<table>_{suffix}" for suffix in INDEXES], indexes, page=page)
    changes = documented_names(page, section="Changes of status")
    assert not differences([column.name for column in STATUS_COLUMNS], changes, page=page)
