"""The tables, once, for statements built with SQLAlchemy Core and for migrations. Columns: text, integers and bytes.

Hot statements are written as SQL text beside the code that runs them; a test compares both databases with this file.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, SmallInteger, Table, Text, text

from adjourn.schema_sessions import metadata

installation = Table(
    "installation",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("secret", LargeBinary, nullable=False),
    Column("partitions", Integer, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
)

lanes = Table(
    "lanes",
    metadata,
    Column("lane", Text, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("opened_ms", BigInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("name", Text, primary_key=True),
    Column("balance", BigInteger, nullable=False),
)

log_heads = Table(
    "log_heads",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("tail_offset", BigInteger, nullable=False),
)

log_blocks = Table(
    "log_blocks",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("first_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False),
    Column("min_ts", BigInteger, nullable=False),
    Column("max_ts", BigInteger, nullable=False),
    Column("codec", SmallInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("keys", LargeBinary, nullable=False),
    Column("checksum", LargeBinary, nullable=False),
)

log_lost = Table(
    "log_lost",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("first_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("count", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("found_ms", BigInteger, nullable=False),
)

log_index = Table(
    "log_index",
    metadata,
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("first_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("body", LargeBinary, nullable=False),
)

cursors = Table(
    "cursors",
    metadata,
    Column("consumer", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("drop_after_ms", BigInteger),
    Column("live", SmallInteger, nullable=False),
)

counts = Table(
    "consumer_counts",
    metadata,
    Column("consumer", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
)

producers = Table(
    "producers",
    metadata,
    Column("producer", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("code", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("quarantine_by_tenant", "tenant", "received_ms"),
)

_DEAD = text("state = 'dead'")
_PARKED = text("state = 'parked'")

held_events = Table(
    "held_events",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("event_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("session_id", Text, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    Column("cost_nanousd", BigInteger),
    Column("price_ref", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("held_ms", BigInteger, nullable=False),
    Column("next_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("attempts_before", Integer, nullable=False, server_default="0"),
    Index(
        "held_events_dead",
        "held_ms",
        "destination",
        "partition",
        "event_offset",
        sqlite_where=_DEAD,
        postgresql_where=_DEAD,
    ),
    Index(
        "held_events_dead_by_tenant",
        "tenant",
        "held_ms",
        "destination",
        "partition",
        "event_offset",
        sqlite_where=_DEAD,
        postgresql_where=_DEAD,
    ),
    Index(
        "held_events_dead_by_destination",
        "destination",
        "held_ms",
        "partition",
        "event_offset",
        sqlite_where=_DEAD,
        postgresql_where=_DEAD,
    ),
    Index(
        "held_events_parked",
        "destination",
        "partition",
        "event_offset",
        sqlite_where=_PARKED,
        postgresql_where=_PARKED,
    ),
    Index(
        "held_events_parked_by_age",
        "destination",
        "partition",
        "received_ms",
        sqlite_where=_PARKED,
        postgresql_where=_PARKED,
    ),
)

delivery_records = Table(
    "delivery_records",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("first_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("next_offset", BigInteger, primary_key=True, autoincrement=False),
    Column("attempts", Integer, nullable=False),
    Column("began_ms", BigInteger, nullable=False),
    Column("settled_ms", BigInteger, nullable=False),
    Column("fates", LargeBinary, nullable=False),
    Index("delivery_records_by_time", "destination", "settled_ms"),
)

destination_pauses = Table(
    "destination_pauses",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("paused_ms", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
)

destination_outages = Table(
    "destination_outages",
    metadata,
    Column("destination", Text, primary_key=True),
    Column("since_ms", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger),
)

watched_sessions = Table(
    "watched_sessions",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("session_id", Text, primary_key=True),
    Column("attempt", BigInteger, primary_key=True, autoincrement=False),
    Column("state", Text, nullable=False),
    Column("token", LargeBinary, nullable=False),
    Column("lease_ms", BigInteger, nullable=False),
    Column("beat", BigInteger, nullable=False),
    Column("begun", LargeBinary, nullable=False),
    Column("usage", LargeBinary, nullable=False),
    Column("event_id", Text, nullable=False),
    Column("began_ms", BigInteger, nullable=False),
    Column("heard_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
    Column("content", LargeBinary, nullable=False),
    Column("amendment_id", Text),
    Index("watched_sessions_by_end", "ended_ms"),
)

otlp_traces = Table(
    "otlp_traces",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("trace_id", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("due_ms", BigInteger),
    Column("heard_ms", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("otlp_traces_by_due", "due_ms"),
    Index("otlp_traces_by_heard", "heard_ms"),
)
