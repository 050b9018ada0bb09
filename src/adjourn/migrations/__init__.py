"""Alembic migrations, shipped inside the package. `KNOWN` lists every version in order; `HEAD` is the newest."""

KNOWN = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")
HEAD = KNOWN[-1]
