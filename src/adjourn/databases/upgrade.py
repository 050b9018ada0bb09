"""Run the migrations on the database whose URL comes on standard input: `python -m adjourn.databases.upgrade`."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


def upgrade(url: str, revision: str = "head") -> None:
    """Bring `sqlite:///path` or `postgresql://…` to a version, whole or not at all. The caller holds the lock."""
    engine = engine_for(url)
    try:
        with engine.begin() as connection:
            migrate(connection, revision)
    finally:
        engine.dispose()


def migrate(connection: Connection, revision: str = "head") -> None:
    """The same inside a transaction that the caller began."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def engine_for(url: str) -> Engine:
    """Without a pool. Transactions on SQLite span table changes too, which its driver would commit one by one."""
    import sqlalchemy
    from sqlalchemy import event

    scheme, _, rest = url.partition("://")
    if scheme != "sqlite":
        return sqlalchemy.create_engine(f"postgresql+psycopg://{rest}", poolclass=sqlalchemy.NullPool)
    # Not parsed as a URL: a file's name may hold `?` and `%`.
    file = sqlalchemy.URL.create("sqlite", database=rest.removeprefix("/"))
    engine = sqlalchemy.create_engine(file, poolclass=sqlalchemy.NullPool)

    def leave_transactions_alone(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    event.listen(engine, "connect", leave_transactions_alone)
    event.listen(engine, "begin", begin)
    return engine


if __name__ == "__main__":
    upgrade(sys.stdin.read())
