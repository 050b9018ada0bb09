"""Single-container: several named agents in one process, with one workspace and one budget. Two of them haggle."""

from __future__ import annotations

import re
from pathlib import Path

from examples.local_server import completion, connected

HERE = Path(__file__).parent


def main() -> None:
    with connected(HERE) as adjourn:
        session = adjourn.sessions.create(
            "single_container",
            runner="market",
            name="A chair is sold",
            config={"agents": [{"name": "buyer"}, {"name": "seller"}, {"name": "clerk"}]},
            limits={"max_turns": 30, "max_budget_usd": "0.01"},
            price={"input_usd_per_mtok": "0.15", "output_usd_per_mtok": "0.60"},
        )
        transcript = [said := "The chair is for sale."]
        speaker, other = "buyer", "seller"
        while not said.startswith("Agreed"):
            said = adjourn.sessions.send(session.id, said, agent=speaker).text
            transcript.append(said)
            speaker, other = other, speaker
        transcript.append(adjourn.sessions.send(session.id, "Read us the contract.", agent="clerk").text)
        print(*transcript, sep="\n")

        done = adjourn.sessions.complete(session.id, final_message="sold")
        processes = set(re.findall(r"process (\d+)", "\n".join(transcript)))
        print(f"\n{len(done.by_agent)} agents in {len(processes)} process")
        for name, used in done.by_agent.items():
            print(f"  {name}: {used.usage.turns} turns, {used.usage.total_tokens} tokens, {used.cost_usd} USD")
        print(f"  all: {done.usage.turns} turns, {done.usage.total_tokens} tokens, {done.cost_usd} USD")
        print(completion(adjourn, done))


main()
