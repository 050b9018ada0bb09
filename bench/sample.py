"""The load: real token counts (Azure LLM inference trace 2023) in events with 80-character final messages."""

from __future__ import annotations

import csv
import json
import random
from datetime import datetime, timedelta
from importlib import resources

TEXT = """
    the of agent plan order refund flight book user asked price total done okay sent email checked status result
    found tool search please your we have been was is for to and with account ticket reset password file code test
    fixed error build deploy summary next step completed customer city date seat upgrade baggage policy confirmed
    cancelled
"""
WORDS = TEXT.split()


def rows() -> list[tuple[datetime, int, int]]:
    """(when, context tokens, generated tokens) of 2,000 requests."""
    text = resources.files("adjourn.data").joinpath("azure_llm_2023.csv").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [
        (datetime.fromisoformat(row["TIMESTAMP"][:26]), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
        for row in csv.DictReader(lines)
    ]


def message(rng: random.Random) -> str:
    words: list[str] = []
    while sum(map(len, words)) + len(words) < 80:
        words.append(rng.choice(WORDS))
    return " ".join(words)[:80]


def events(count: int, *, seed: int = 1, run: str = "") -> list[bytes]:
    """`count` events of about 620 bytes, each with ids of its own; the same seed and run give the same ones."""
    rng = random.Random(f"{seed}/{run}")
    trace = rows()
    out: list[bytes] = []
    for index in range(count):
        when, context, generated = trace[index % len(trace)]
        start = when + timedelta(milliseconds=rng.randrange(3_600_000))
        took = timedelta(milliseconds=generated * 30 + rng.randrange(500))
        event = {
            "event_type": "session.completed",
            "event_id": f"evt_{rng.getrandbits(48):012x}",
            "timestamp": _iso(start + took),
            "session": {
                "session_id": f"sess_{rng.getrandbits(48):012x}",
                "session_type": "chat",
                "start_time": _iso(start),
                "end_time": _iso(start + took),
                "duration_ms": took // timedelta(milliseconds=1),
            },
            "user": {"user_id": f"usr_{rng.randrange(5000):05d}", "organization_id": "org_acme", "tier": "pro"},
            "usage": {
                "input_tokens": context,
                "output_tokens": generated,
                "total_tokens": context + generated,
                "model": "gpt-4o",
            },
            "outcome": {"status": "success", "final_message": message(rng), "error_code": None},
            "metadata": {"client_version": "1.2.3", "custom_tags": {}},
        }
        out.append(json.dumps(event, separators=(",", ":")).encode())
    return out


def _iso(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{when.microsecond // 1000:03d}Z"
