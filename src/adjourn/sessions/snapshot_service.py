"""Snapshots: state, place in the conversation, the workspace where the runner has one; and new sessions from them."""

from __future__ import annotations

from functools import partial

from adjourn.errors import AdjournError, NotFound, RunnerFailed
from adjourn.ids import new_id
from adjourn.runner import Runner
from adjourn.sessions import snapshot_rows
from adjourn.sessions.means import Means
from adjourn.sessions.session import Session
from adjourn.sessions.snapshot_rows import PART_BYTES, Taken
from adjourn.sessions.turn import Snapshot

MB = 1_000_000


class Snapshots:
    def __init__(self, means: Means) -> None:
        self._database = means.database
        self._clock = means.clock
        self._runners = means.runners
        self._workspace_of = means.workspace_of
        self._archive_bytes_max = means.settings.archive_mb_max * MB

    async def take(self, session: Session) -> Snapshot:
        """Durable on return. Raises StatusRefused while a turn runs, RunnerFailed."""
        now_ms = self._clock.wall_ms()
        snapshot_id = new_id("snap", now_ms)
        begin = partial(snapshot_rows.begin, key=session.key, snapshot_id=snapshot_id, now_ms=now_ms)
        epoch = await self._database.write(begin, key=session.root_id)
        if isinstance(epoch, AdjournError):
            raise epoch
        archive = await self._runner(session).archive(
            session.id, self._workspace_of(session), bytes_max=self._archive_bytes_max
        )
        for number, start in enumerate(range(0, len(archive or b""), PART_BYTES)):
            part = (archive or b"")[start : start + PART_BYTES]
            await self._database.write(
                snapshot_rows.put_part, session.tenant, snapshot_id, number, part, key=session.root_id
            )
        finish = partial(
            snapshot_rows.finish,
            key=session.key,
            snapshot_id=snapshot_id,
            epoch=epoch,
            archive_bytes=len(archive or b""),
        )
        taken = await self._database.write(finish, key=session.root_id)
        if isinstance(taken, AdjournError):
            raise taken
        return taken.snapshot

    async def get(self, tenant: str, snapshot_id: str) -> Taken:
        """Raises NotFound."""
        taken = await self._database.read(snapshot_rows.find, tenant, snapshot_id)
        if taken is None:
            fact = f"there is no snapshot {snapshot_id[:100]} for tenant {tenant}"
            raise NotFound(f"{fact}; it goes with the session that it was taken of", path="snapshot_id")
        return taken

    async def list(self, session: Session) -> list[Snapshot]:
        return await self._database.read(snapshot_rows.select, session.key)

    async def restore(self, session: Session, snapshot_id: str) -> None:
        """Fill the workspace of a new session. Raises RunnerFailed."""
        parts: list[bytes] = []
        while part := await self._database.read(snapshot_rows.part, session.tenant, snapshot_id, len(parts)):
            parts.append(part)
        if parts:
            await self._runner(session).restore(self._workspace_of(session), b"".join(parts))

    def _runner(self, session: Session) -> Runner:
        runner = self._runners.get(session.runner)
        if runner is None:
            raise RunnerFailed(f"this node has no runner {session.runner}; ask one that has, or add it to the settings")
        return runner
