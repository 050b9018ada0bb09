"""Delivery: what a destination did not take yet or will not take, what became of each batch, and what is paused."""

from __future__ import annotations

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    held = op.create_table(
        "held_events",
        sa.Column("destination", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("event_offset", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text, nullable=False),
        sa.Column("event_id", sa.Text, nullable=False),
        sa.Column("received_ms", sa.BigInteger, nullable=False),
        sa.Column("cost_nanousd", sa.BigInteger),
        sa.Column("price_ref", sa.Text, nullable=False),
        sa.Column("code", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("held_ms", sa.BigInteger, nullable=False),
        sa.Column("next_ms", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("destination", "partition", "event_offset"),
    )
    _move_dead_letters(held)
    op.drop_table("dead_letters")
    op.create_index("held_events_by_state", "held_events", ["destination", "state", "partition", "event_offset"])
    op.create_table(
        "delivery_records",
        sa.Column("destination", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("first_offset", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("began_ms", sa.BigInteger, nullable=False),
        sa.Column("settled_ms", sa.BigInteger, nullable=False),
        sa.Column("fates", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("destination", "partition", "first_offset", "next_offset"),
    )
    op.create_index("delivery_records_by_time", "delivery_records", ["destination", "settled_ms"])
    op.create_table(
        "destination_pauses",
        sa.Column("destination", sa.Text, primary_key=True),
        sa.Column("paused_ms", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )


def _move_dead_letters(held: sa.Table) -> None:
    """They knew neither their session, which the body tells, nor when they were received: earlier than they died."""
    letters = op.get_bind().execute(
        sa.text(
            "SELECT destination, partition, event_offset, tenant, event_id, code, reason, attempts, dead_ms, body "
            "FROM dead_letters"
        )
    )
    while rows := letters.mappings().fetchmany(500):
        op.bulk_insert(
            held,
            [
                {
                    "destination": row["destination"],
                    "partition": row["partition"],
                    "event_offset": row["event_offset"],
                    "state": "dead",
                    "tenant": row["tenant"],
                    "session_id": json.loads(row["body"])["session"]["session_id"],
                    "event_id": row["event_id"],
                    "received_ms": row["dead_ms"],
                    "cost_nanousd": None,
                    "price_ref": "",
                    "code": row["code"],
                    "reason": row["reason"],
                    "attempts": row["attempts"],
                    "held_ms": row["dead_ms"],
                    "next_ms": 0,
                    "body": row["body"],
                }
                for row in rows
            ],
        )
