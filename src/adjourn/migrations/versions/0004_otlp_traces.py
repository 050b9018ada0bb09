"""Traces whose spans came in by OTLP: what an agent's children used, until it ends."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "otlp_traces",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("trace_id", sa.Text, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("due_ms", sa.BigInteger),
        sa.Column("heard_ms", sa.BigInteger, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "trace_id"),
    )
    op.create_index("otlp_traces_by_due", "otlp_traces", ["due_ms"])
    op.create_index("otlp_traces_by_heard", "otlp_traces", ["heard_ms"])
