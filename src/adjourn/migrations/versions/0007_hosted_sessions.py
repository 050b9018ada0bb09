"""Hosted sessions: their turns, events, triggers, totals and snapshots; and the messages of conversations."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("pattern", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("interface", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("runner", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("parent_id", sa.Text, nullable=True),
        sa.Column("root_id", sa.Text, nullable=False),
        sa.Column("resumed_from", sa.Text, nullable=True),
        sa.Column("idempotency", sa.LargeBinary, nullable=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("node", sa.Text, nullable=True),
        sa.Column("turn_id", sa.Text, nullable=True),
        sa.Column("stopping", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("active_ms", sa.BigInteger, nullable=False),
        sa.Column("ended_ms", sa.BigInteger, nullable=True),
        sa.Column("due_ms", sa.BigInteger, nullable=True),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("error_code", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("amendment_id", sa.Text, nullable=True),
        sa.Column("messages", sa.BigInteger, nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("queued", sa.BigInteger, nullable=False),
        sa.Column("turns", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_creation_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("tool_calls", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.BigInteger, nullable=False),
        sa.Column("cost_nanousd", sa.BigInteger, nullable=False),
        sa.Column("unpriced_turns", sa.BigInteger, nullable=False),
        sa.Column("described", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("counted", sa.BigInteger, nullable=False, server_default=sa.text("-1")),
        sa.Column("counted_as", sa.LargeBinary, nullable=True),
        sa.PrimaryKeyConstraint("tenant", "id"),
    )
    op.create_table(
        "session_tags",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("tag", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "tag", "session_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "session_events",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("first_seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("count", sa.Integer, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "session_id", "first_seq"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "turns",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("turn_id", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("idempotency", sa.LargeBinary, nullable=True),
        sa.Column("asked", sa.LargeBinary, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("began_ms", sa.BigInteger, nullable=True),
        sa.Column("ended_ms", sa.BigInteger, nullable=True),
        sa.Column("first_event", sa.BigInteger, nullable=False),
        sa.Column("reserved_nanousd", sa.BigInteger, nullable=False),
        sa.Column("reservation", sa.Text, nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("so_far", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "session_id", "number"),
    )
    op.create_table(
        "session_triggers",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("spec", sa.LargeBinary, nullable=False),
        sa.Column("seen", sa.Text, nullable=False),
        sa.Column("next_ms", sa.BigInteger, nullable=True),
        sa.PrimaryKeyConstraint("tenant", "session_id", "name"),
    )
    op.create_table(
        "session_totals",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("dimension", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("sessions", sa.BigInteger, nullable=False),
        sa.Column("live", sa.BigInteger, nullable=False),
        sa.Column("turns", sa.BigInteger, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_creation_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("tool_calls", sa.BigInteger, nullable=False),
        sa.Column("errors", sa.BigInteger, nullable=False),
        sa.Column("cost_nanousd", sa.BigInteger, nullable=False),
        sa.Column("unpriced_turns", sa.BigInteger, nullable=False),
        sa.Column("durations", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "dimension", "value"),
    )
    op.create_table(
        "session_leftovers",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "session_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "budget_totals",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("total_nanousd", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "user_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "messages",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("agent", sa.Text, nullable=False),
        sa.Column("turn_id", sa.Text, nullable=True),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("expires_ms", sa.BigInteger, nullable=True),
        sa.Column("tokens", sa.BigInteger, nullable=True),
        sa.Column("token_source", sa.Text, nullable=False),
        sa.Column("codec", sa.SmallInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "session_id", "seq"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "message_sources",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("depth", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("source_id", sa.Text, nullable=False),
        sa.Column("seq_max", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "session_id", "depth"),
    )
    op.create_table(
        "snapshots",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("created_ms", sa.BigInteger, nullable=False),
        sa.Column("seq_max", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("archive_bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "id"),
    )
    op.create_table(
        "snapshot_parts",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("snapshot_id", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "snapshot_id", "number"),
    )
    _index("sessions_by_due", "sessions", ["due_ms"], where="due_ms IS NOT NULL")
    _index(
        "sessions_by_idempotency", "sessions", ["tenant", "idempotency"], unique=True, where="idempotency IS NOT NULL"
    )
    _index("sessions_by_interface", "sessions", ["tenant", "interface", "id"])
    _index("sessions_by_kind", "sessions", ["tenant", "kind", "id"])
    _index("sessions_by_node", "sessions", ["node"], where="node IS NOT NULL")
    _index("sessions_by_active", "sessions", ["tenant", "active_ms", "id"])
    _index("sessions_by_cost", "sessions", ["tenant", "cost_nanousd", "id"])
    _index("sessions_by_ended", "sessions", ["tenant", "ended_ms", "id"], where="ended_ms IS NOT NULL")
    _index("sessions_by_model", "sessions", ["tenant", "model", "id"])
    _index("sessions_by_parent", "sessions", ["tenant", "parent_id", "id"], where="parent_id IS NOT NULL")
    _index("sessions_by_root", "sessions", ["tenant", "root_id", "id"], where="parent_id IS NOT NULL")
    _index("sessions_uncounted", "sessions", ["tenant", "active_ms"], where="counted < events + revision")
    _index("sessions_by_pattern", "sessions", ["tenant", "pattern", "id"])
    _index("sessions_by_role", "sessions", ["tenant", "role", "id"])
    _index("sessions_by_status", "sessions", ["tenant", "status", "id"])
    _index("sessions_by_user", "sessions", ["tenant", "user_id", "id"])
    _index("sessions_live_by_user", "sessions", ["tenant", "user_id"], where="ended_ms IS NULL")
    _index("turns_by_id", "turns", ["tenant", "turn_id"], unique=True)
    _index("turns_by_idempotency", "turns", ["tenant", "idempotency"], unique=True, where="idempotency IS NOT NULL")
    _index("session_triggers_by_next", "session_triggers", ["next_ms"], where="next_ms IS NOT NULL")
    _index("messages_by_id", "messages", ["tenant", "session_id", "id"], unique=True)
    _index("message_sources_by_source", "message_sources", ["tenant", "source_id", "seq_max"])
    _index("snapshots_by_session", "snapshots", ["tenant", "session_id", "id"])


def _index(name: str, table: str, columns: list[str], unique: bool = False, where: str = "") -> None:
    condition = sa.text(where) if where else None
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
