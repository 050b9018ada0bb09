"""The four hosting patterns: four rows of data. What differs between them is written here and nowhere else. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from adjourn.sessions.lifecycle import Status

Pattern = Literal["ephemeral", "long_running", "hybrid", "single_container"]


class Hosting(msgspec.Struct, frozen=True, kw_only=True):
    """How sessions of one pattern are hosted."""

    after_turn: Status
    """Where a turn that succeeded leaves the session."""
    after_failed_turn: Status
    """Where one that failed leaves it."""
    after_death: Status
    """Where the death of the node that ran its turn, or held its runner open, leaves it."""
    opens: Literal["create", "turn"]
    """When its runner is opened."""
    stays_open: bool
    """Whether the runner stays open between turns."""
    several_agents: bool
    """Whether it has several named agents, which share the runner and the workspace."""
    starts_turns: bool
    """Whether it may start turns by itself: at intervals, by the clock, when a file changes or a webhook is called."""
    retention: Literal["ephemeral_retention_ms", "retention_days"]
    """Which setting of `hosting` says how long the record of an ended session is kept."""


PATTERNS: Mapping[Pattern, Hosting] = {
    "ephemeral": Hosting(
        after_turn="completed",
        after_failed_turn="error",
        after_death="error",
        opens="turn",
        stays_open=False,
        several_agents=False,
        starts_turns=False,
        retention="ephemeral_retention_ms",
    ),
    "long_running": Hosting(
        after_turn="active",
        after_failed_turn="active",
        after_death="active",
        opens="turn",
        stays_open=True,
        several_agents=False,
        starts_turns=True,
        retention="retention_days",
    ),
    "hybrid": Hosting(
        after_turn="idle",
        after_failed_turn="idle",
        after_death="idle",
        opens="turn",
        stays_open=False,
        several_agents=False,
        starts_turns=False,
        retention="retention_days",
    ),
    "single_container": Hosting(
        after_turn="active",
        after_failed_turn="active",
        after_death="error",
        opens="create",
        stays_open=True,
        several_agents=True,
        starts_turns=False,
        retention="retention_days",
    ),
}
