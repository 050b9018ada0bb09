"""What the node hands to hosted sessions, once for all of their services."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import quote

import msgspec

from adjourn.clock import Clock
from adjourn.database import Database
from adjourn.log import Leases
from adjourn.prices import PriceTable
from adjourn.runner import Runner
from adjourn.sessions.rows import Compose
from adjourn.sessions.session import Session
from adjourn.sessions.turn_changes import Talk
from adjourn.settings import HostingSettings


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """`new_name`: of a node that has never been. `workspaces`: the folder of all workspaces."""

    database: Database
    leases: Leases
    clock: Clock
    settings: HostingSettings
    runners: Mapping[str, Runner]
    prices: PriceTable
    compose: Compose
    talk: Talk
    workspaces: Path
    new_name: Callable[[], str]

    def workspace(self, tenant: str, session_id: str) -> str:
        # A tenant may be called anything, `..` too.
        return str(self.workspaces / quote(tenant, safe="").replace(".", "%2E") / session_id)

    def workspace_of(self, session: Session) -> str:
        """The folder that is its own."""
        return self.workspace(session.tenant, session.id)
