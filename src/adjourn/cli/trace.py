"""The bundled trace as completion events. What comes from it, and what is assumed, is told in data/README.md."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from importlib import resources

import msgspec

TRACE = "AzureLLMInferenceTrace_conv 2023"
MODEL = "gpt-4-turbo"


class Request(msgspec.Struct, frozen=True):
    """One row. `row` counts from 1."""

    row: int
    when: datetime
    input_tokens: int
    output_tokens: int


def requests() -> list[Request]:
    """All rows, in the order of time."""
    text = resources.files("adjourn.data").joinpath("azure_llm_2023.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return [
        # The trace has seven digits behind the second, a datetime has six.
        Request(
            number,
            datetime.fromisoformat(row["TIMESTAMP"][:26]).replace(tzinfo=UTC),
            int(row["ContextTokens"]),
            int(row["GeneratedTokens"]),
        )
        for number, row in enumerate(csv.DictReader(lines), 1)
    ]


def event_of(request: Request, run: str) -> dict[str, object]:
    """A completion of its own in each run: two runs share no id."""
    when = request.when.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return {
        "event_type": "session.completed",
        "event_id": event_id_of(request, run),
        "timestamp": when,
        "session": {
            "session_id": f"sess_demo_{run}_{request.row:04}",
            "session_type": "chat",
            "start_time": when,
        },
        "usage": {
            "input_tokens": request.input_tokens,
            "output_tokens": request.output_tokens,
            "total_tokens": request.input_tokens + request.output_tokens,
            "model": MODEL,
        },
        "outcome": {"status": "success", "final_message": f"Replayed from row {request.row} of the trace."},
        "metadata": {"custom_tags": {"trace": TRACE, "row": request.row, "run": run}},
    }


def event_id_of(request: Request, run: str) -> str:
    return f"evt_demo_{run}_{request.row:04}"
