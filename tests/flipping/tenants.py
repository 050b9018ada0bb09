"""What a user sees of the settings of one tenant's sessions: rows of the table in tests/test_settings_matter.py."""

from __future__ import annotations

from tests.flipping import hosting
from tests.flipping.hosting import PRICE, TENANT, made
from tests.flipping.rigs import Flipped, Row, with_node

from adjourn.errors import BudgetReached
from adjourn.node import Node
from adjourn.runner import RunnerConfig
from adjourn.sessions.turn import Message

QUIET: dict[str, object] = {"routing.destinations": [], "log.compact_interval_ms": 600_000}
OURS = {**QUIET, "hosting.tenants": [{"name": TENANT}]}
THREE = ["made"] * 3


def turns_of_two_users(flip: Flipped) -> list[str]:
    """How each of three ends that cost a cent: two of one user, in a session each, and one of another."""

    async def work(node: Node) -> list[str]:
        found: list[str] = []
        for user in ("one", "one", "other"):
            config = RunnerConfig(options={"cost_usd": "0.01"})
            session = await made(node, config=config, price=PRICE, user_id=user)
            try:
                turn = (await node.sessions.send(TENANT, session.id, Message(prompt="hello"))).turn
            except BudgetReached:
                found.append("refused")
                continue
            found.append(turn.status if turn.error is None else turn.error.code)
        return found

    return with_node(flip, work)


ROWS: dict[str, Row] = {
    "hosting.tenants": Row(
        [[], [{"name": hosting.TENANT, "max_turns": 1}]], hosting.ended_after_a_turn, ["", "max_turns"], QUIET
    ),
    "hosting.tenants[].name": Row(
        [hosting.TENANT, "other"],
        hosting.ended_after_a_turn,
        ["max_turns", ""],
        {**QUIET, "hosting.tenants": [{"max_turns": 1}]},
    ),
    "hosting.tenants[].max_sessions": Row(
        [None, 2], hosting.made_of_three, [THREE, ["made", "made", "limit_reached"]], OURS
    ),
    "hosting.tenants[].max_sessions_per_user": Row(
        [None, 1], hosting.made_of_three, [THREE, ["made", "limit_reached", "limit_reached"]], OURS
    ),
    "hosting.tenants[].max_idle_ms": Row([None, 60_000], hosting.ended_after_an_hour, ["", "max_idle_ms"], OURS),
    "hosting.tenants[].max_lifetime_ms": Row(
        [None, 60_000], hosting.ended_after_an_hour, ["", "max_lifetime_ms"], OURS
    ),
    "hosting.tenants[].max_budget_usd": Row([None, 0.005], hosting.ended_after_a_turn, ["", "max_budget_usd"], OURS),
    "hosting.tenants[].max_turns": Row([None, 1], hosting.ended_after_a_turn, ["", "max_turns"], OURS),
    "hosting.tenants[].max_tokens": Row([None, 10], hosting.ended_after_a_turn, ["", "max_tokens"], OURS),
    "hosting.tenants[].turn_timeout_ms": Row([100, 600_000], hosting.turn_of_three_seconds, ["failed", "done"], OURS),
    "hosting.tenants[].total_budget_usd": Row(
        [None, 0.015], turns_of_two_users, [["done"] * 3, ["done", "budget_reached", "refused"]], OURS
    ),
    "hosting.tenants[].total_budget_usd_per_user": Row(
        [None, 0.015], turns_of_two_users, [["done"] * 3, ["done", "budget_reached", "done"]], OURS
    ),
}
