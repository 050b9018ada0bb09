"""Looking things up in large tables: events by their ids, dead letters by age, tenant and destination."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

DEAD = sa.text("state = 'dead'")
PARKED = sa.text("state = 'parked'")


def upgrade() -> None:
    op.create_table(
        "log_index",
        sa.Column("partition", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("shard", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("first_offset", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("partition", "shard", "first_offset"),
    )
    op.add_column("held_events", sa.Column("attempts_before", sa.Integer, nullable=False, server_default="0"))
    place = ["partition", "event_offset"]
    _index("held_events_dead", ["held_ms", "destination", *place], DEAD)
    _index("held_events_dead_by_tenant", ["tenant", "held_ms", "destination", *place], DEAD)
    _index("held_events_dead_by_destination", ["destination", "held_ms", *place], DEAD)
    op.drop_index("held_events_by_state", "held_events")
    _index("held_events_parked", ["destination", *place], PARKED)
    _index("held_events_parked_by_age", ["destination", "partition", "received_ms"], PARKED)


def _index(name: str, columns: list[str], where: sa.TextClause) -> None:
    op.create_index(name, "held_events", columns, sqlite_where=where, postgresql_where=where)
