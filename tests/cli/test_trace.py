"""The bundled trace."""

from __future__ import annotations

from importlib import resources

import msgspec

from adjourn.cli.trace import event_of, requests
from adjourn.events import decode_completion


def test_the_trace_is_whole_and_attributed() -> None:
    """2,000 rows, with source and licence in the file itself and beside it."""
    data = resources.files("adjourn.data")
    assert len(requests()) == 2000
    assert data.joinpath("azure_llm_2023.csv").read_text().startswith("# Azure/AzurePublicDataset")
    assert "CC-BY-4.0" in data.joinpath("azure_llm_2023.csv").read_text()[:300]
    assert "CC-BY-4.0" in data.joinpath("README.md").read_text()


def test_events_hold_what_the_trace_holds() -> None:
    """Time and tokens are the row's; nothing says how long the session took, since the trace does not."""
    event = decode_completion(msgspec.json.encode(event_of(requests()[0], "r")))
    assert event.session.start_time is not None
    assert event.session.start_time.isoformat() == "2023-11-16T18:15:46.680590+00:00"
    assert event.usage is not None
    assert (event.usage.input_tokens, event.usage.output_tokens) == (374, 44)
    assert (event.session.end_time, event.session.duration_ms) == (None, None)


def test_runs_share_no_ids() -> None:
    """Two runs of the demo capture different events of different sessions."""
    ids = {event_of(request, run)["event_id"] for request in requests() for run in ("a", "b")}
    assert len(ids) == 4000
