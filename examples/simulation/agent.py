"""Three agents in one process: a buyer and a seller who haggle, and a clerk who reads what they agreed on.

A few rules take the place of the model. The numbers of processes are those that the sandbox shows."""

from __future__ import annotations

import os
import re
from pathlib import Path

from adjourn.integrations.agent_program import Turn, serve

CONTRACT = Path(os.environ["ADJOURN_WORKSPACE"], "contract.txt")
price = {"buyer": 50, "seller": 100}
"""What each would agree to. It is in memory: the process lives as long as the session."""
STEP = {"buyer": +10, "seller": -8}


def answer(turn: Turn) -> str:
    me = turn.agent
    turn.usage(input_tokens=20 + len(turn.text.split()), output_tokens=12)
    if me == "clerk":
        return f"{CONTRACT.read_text()} [process {os.getpid()}]"
    offered = re.search(r"(\d+) euros", turn.text)
    if offered and (int(offered[1]) <= price[me] if me == "buyer" else int(offered[1]) >= price[me]):
        CONTRACT.write_text(f"Sold for {offered[1]} euros, to which the {me} agreed.")
        return f"Agreed: {offered[1]} euros! [process {os.getpid()}]"
    said = f"The {me} says {price[me]} euros. [process {os.getpid()}]"
    price[me] += STEP[me]
    return said


serve(answer)
