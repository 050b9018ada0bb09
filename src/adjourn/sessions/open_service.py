"""The runners that this node holds open, one for each session that needs one now."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from adjourn.errors import RunnerFailed
from adjourn.eventlog import get_logger
from adjourn.runner import Facts, Opening, Runner
from adjourn.sessions import rows
from adjourn.sessions.means import Means
from adjourn.sessions.session import Session, SessionKey

_log = get_logger("adjourn.sessions")

CLOSE_S_MAX = 15.0


class OpenRunners:
    def __init__(self, means: Means) -> None:
        self.held: dict[SessionKey, str] = {}
        """Sessions, and the names of their runners."""
        self._database = means.database
        self._runners = means.runners
        self._workspace_of = means.workspace_of

    def runner_of(self, session: Session) -> Runner:
        """Raises RunnerFailed."""
        runner = self._runners.get(session.runner)
        if runner is None:
            fact = f"this node has no runner {session.runner}"
            raise RunnerFailed(f"{fact}; add it to hosting.runners, or send to a node that has it")
        return runner

    def facts(self, key: SessionKey) -> Facts | None:
        name = self.held.get(key)
        return self._runners[name].facts(key.session_id) if name is not None else None

    async def open(self, session: Session) -> None:
        """Raises RunnerFailed."""
        if session.key in self.held:
            return
        runner = self.runner_of(session)
        self.held[session.key] = session.runner
        await runner.open(
            Opening(
                tenant=session.tenant,
                session_id=session.id,
                config=session.described.config,
                workspace=self._workspace_of(session),
                user_id=session.user_id,
            )
        )

    async def close(self, key: SessionKey, workspace: str = "", runner: str = "") -> None:
        """Release what this node holds of a session; with `workspace`, that too."""
        name = self.held.pop(key, runner)
        if name not in self._runners:
            return
        try:
            async with asyncio.timeout(CLOSE_S_MAX):
                await self._runners[name].close(key.session_id, workspace)
        except Exception:
            _log.exception("runner_not_closed", session=key.session_id, runner=name)

    async def close_all(self) -> None:
        await asyncio.gather(*(self.close(key) for key in list(self.held)))

    async def close_moved(self, node: str, but: Collection[SessionKey]) -> None:
        """Close the runners of sessions that other nodes have taken up, or ended."""
        held = set(self.held) - set(but)
        if not held:
            return
        mine = {key for key, _ in await self._database.read(rows.of_node, node, len(self.held) + 1_000)}
        for key in held - mine - set(but):
            await self.close(key)
