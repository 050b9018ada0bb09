"""An agent that keeps a plan: in a file of its workspace, which outlives it. Rules take the place of the model."""

from __future__ import annotations

import json
import os
from pathlib import Path

from adjourn.integrations.agent_program import Turn, serve

PLAN = Path(os.environ["ADJOURN_WORKSPACE"], "plan.json")


def answer(turn: Turn) -> str:
    before = [message["parts"][0]["text"] for message in turn.history() if message["role"] == "user"]
    turn.usage(input_tokens=300 + 40 * len(before), output_tokens=30)
    plan: list[str] = json.loads(PLAN.read_text()) if PLAN.exists() else []
    what, _, task = turn.text.partition(": ")
    if what == "add":
        plan.append(task)
    elif what == "done":
        plan.remove(task)
    PLAN.write_text(json.dumps(plan))
    return f"Sprint {turn.state['sprint']}: {', '.join(plan) or 'nothing is left'} (messages before: {len(before)})"


serve(answer)
