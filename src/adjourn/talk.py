"""Where hosted sessions meet conversations and completions: functions of the one, as the other asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from adjourn.clock import Clock
from adjourn.completion.service import Ingest
from adjourn.conversation import messages, sharing, transcript
from adjourn.conversation.message import Draft
from adjourn.database import Database, Reader, Tx
from adjourn.events import Record
from adjourn.ids import new_id
from adjourn.log import Leases
from adjourn.prices import PriceTable
from adjourn.runner import Runner, Said, TurnEvent
from adjourn.sessions.means import Means
from adjourn.sessions.session import SessionKey
from adjourn.sessions.turn import Message, parts_of
from adjourn.sessions.watch import Problem
from adjourn.settings import Settings


class Talk:
    """`adjourn.sessions.turn_changes.Talk`, in the table of messages."""

    def ask(self, tx: Tx, key: SessionKey, *, after: int, message: Message, turn_id: str | None, now_ms: int) -> int:
        draft = Draft(
            role=message.role,
            parts=parts_of(message),
            agent=message.agent,
            metadata=message.metadata,
            id=message.message_id or "",
            turn_id=turn_id,
        )
        return messages.append(tx, *key, after_seq=after, drafts=[draft], now_ms=now_ms).placed[0].seq

    def answer(
        self, tx: Tx, key: SessionKey, *, after: int, events: Sequence[TurnEvent], agent: str, turn_id: str, now_ms: int
    ) -> int:
        drafts = [msgspec.structs.replace(draft, turn_id=turn_id) for draft in transcript.messages_of(events, agent)]
        if not drafts:
            return 0
        return messages.append(tx, *key, after_seq=after, drafts=drafts, now_ms=now_ms).last_seq - after

    def history(self, reader: Reader, key: SessionKey, before: int) -> list[Said]:
        return messages.history(reader, *key, before=before)

    def share(self, tx: Tx, key: SessionKey, source_id: str, seq_max: int) -> int:
        return sharing.share(tx, key.tenant, key.session_id, source_id, seq_max)

    def forget(self, tx: Tx, key: SessionKey, limit: int) -> bool:
        return sharing.forget(tx, *key, limit)


class Compose:
    """`adjourn.sessions.rows.Compose`, as events come in by every other door."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    def status(
        self, tenant: str, session_id: str, *, from_status: str, to_status: str, reason: str, revision: int, at_ms: int
    ) -> Record:
        return self._ingest.status_record(
            tenant,
            session_id,
            from_status=from_status,
            to_status=to_status,
            reason=reason,
            revision=revision,
            at_ms=at_ms,
        )

    def event(self, tenant: str, raw: bytes) -> Record | Problem:
        return self._ingest.composed(tenant, raw)


def means_of(
    settings: Settings,
    database: Database,
    leases: Leases,
    clock: Clock,
    prices: PriceTable,
    ingest: Ingest,
    runners: Mapping[str, Runner],
) -> Means:
    """What a node hands to its hosted sessions."""
    return Means(
        database=database,
        leases=leases,
        clock=clock,
        settings=settings.hosting,
        runners=runners,
        prices=prices,
        compose=Compose(ingest),
        talk=Talk(),
        workspaces=Path(settings.workspaces_dir),
        new_name=lambda: new_id("node", clock.wall_ms()),
    )
