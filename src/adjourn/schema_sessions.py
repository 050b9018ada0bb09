"""The tables of hosted sessions and their conversations; part of `schema`, whose rules hold here too."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, Table, Text, text

metadata = MetaData()

_CHILD = text("parent_id IS NOT NULL")
_DUE = text("due_ms IS NOT NULL")
_OWNED = text("node IS NOT NULL")
_LIVE = text("ended_ms IS NULL")
_ENDED = text("ended_ms IS NOT NULL")
_UNCOUNTED = text("counted < events + revision")
_NAMED = text("idempotency IS NOT NULL")
_NEXT = text("next_ms IS NOT NULL")

sessions = Table(
    "sessions",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("pattern", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("interface", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("runner", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("parent_id", Text),
    Column("root_id", Text, nullable=False),
    Column("resumed_from", Text),
    Column("idempotency", LargeBinary),
    Column("revision", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("node", Text),
    Column("turn_id", Text),
    Column("stopping", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("active_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
    Column("due_ms", BigInteger),
    Column("outcome", Text, nullable=False),
    Column("error_code", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("amendment_id", Text),
    Column("messages", BigInteger, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("queued", BigInteger, nullable=False),
    Column("turns", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_read_tokens", BigInteger, nullable=False),
    Column("cache_creation_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("tool_calls", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("cost_nanousd", BigInteger, nullable=False),
    Column("unpriced_turns", BigInteger, nullable=False),
    Column("described", LargeBinary, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("counted", BigInteger, nullable=False, server_default=text("-1")),
    Column("counted_as", LargeBinary),
    Index(
        "sessions_by_idempotency",
        "tenant",
        "idempotency",
        unique=True,
        sqlite_where=_NAMED,
        postgresql_where=_NAMED,
    ),
    Index("sessions_by_status", "tenant", "status", "id"),
    Index("sessions_by_pattern", "tenant", "pattern", "id"),
    Index("sessions_by_user", "tenant", "user_id", "id"),
    Index("sessions_by_role", "tenant", "role", "id"),
    Index("sessions_by_kind", "tenant", "kind", "id"),
    Index("sessions_by_interface", "tenant", "interface", "id"),
    Index("sessions_by_model", "tenant", "model", "id"),
    Index("sessions_by_parent", "tenant", "parent_id", "id", sqlite_where=_CHILD, postgresql_where=_CHILD),
    Index("sessions_by_root", "tenant", "root_id", "id", sqlite_where=_CHILD, postgresql_where=_CHILD),
    Index("sessions_by_active", "tenant", "active_ms", "id"),
    Index("sessions_by_ended", "tenant", "ended_ms", "id", sqlite_where=_ENDED, postgresql_where=_ENDED),
    Index("sessions_by_cost", "tenant", "cost_nanousd", "id"),
    Index("sessions_uncounted", "tenant", "active_ms", sqlite_where=_UNCOUNTED, postgresql_where=_UNCOUNTED),
    Index("sessions_by_due", "due_ms", sqlite_where=_DUE, postgresql_where=_DUE),
    Index("sessions_by_node", "node", sqlite_where=_OWNED, postgresql_where=_OWNED),
    Index("sessions_live_by_user", "tenant", "user_id", sqlite_where=_LIVE, postgresql_where=_LIVE),
)

session_tags = Table(
    "session_tags",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("tag", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    sqlite_with_rowid=False,
)

session_events = Table(
    "session_events",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("first_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

turns = Table(
    "turns",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("turn_id", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("idempotency", LargeBinary),
    Column("asked", LargeBinary, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("began_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("first_event", BigInteger, nullable=False),
    Column("reserved_nanousd", BigInteger, nullable=False),
    Column("reservation", Text, nullable=False),
    Column("answer", LargeBinary, nullable=False),
    Column("so_far", LargeBinary, nullable=False),
    Index("turns_by_id", "tenant", "turn_id", unique=True),
    Index(
        "turns_by_idempotency",
        "tenant",
        "idempotency",
        unique=True,
        sqlite_where=_NAMED,
        postgresql_where=_NAMED,
    ),
)

session_triggers = Table(
    "session_triggers",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("spec", LargeBinary, nullable=False),
    Column("seen", Text, nullable=False),
    Column("next_ms", BigInteger),
    Index("session_triggers_by_next", "next_ms", sqlite_where=_NEXT, postgresql_where=_NEXT),
)

session_totals = Table(
    "session_totals",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("dimension", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("sessions", BigInteger, nullable=False),
    Column("live", BigInteger, nullable=False),
    Column("turns", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_read_tokens", BigInteger, nullable=False),
    Column("cache_creation_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("tool_calls", BigInteger, nullable=False),
    Column("errors", BigInteger, nullable=False),
    Column("cost_nanousd", BigInteger, nullable=False),
    Column("unpriced_turns", BigInteger, nullable=False),
    Column("durations", LargeBinary, nullable=False),
)

session_leftovers = Table(
    "session_leftovers",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

budget_totals = Table(
    "budget_totals",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("user_id", Text, primary_key=True),
    Column("total_nanousd", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

messages = Table(
    "messages",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("id", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("agent", Text, nullable=False),
    Column("turn_id", Text),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("tokens", BigInteger),
    Column("token_source", Text, nullable=False),
    Column("codec", SmallInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("messages_by_id", "tenant", "session_id", "id", unique=True),
    sqlite_with_rowid=False,
)

message_sources = Table(
    "message_sources",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("depth", Integer, primary_key=True, autoincrement=False),
    Column("source_id", Text, nullable=False),
    Column("seq_max", BigInteger, nullable=False),
    Index("message_sources_by_source", "tenant", "source_id", "seq_max"),
)

snapshots = Table(
    "snapshots",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("session_id", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("seq_max", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("archive_bytes", BigInteger, nullable=False),
    Index("snapshots_by_session", "tenant", "session_id", "id"),
)

snapshot_parts = Table(
    "snapshot_parts",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("snapshot_id", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)
