"""Bringing a database to the version that this code knows: checked on every start, done by Alembic only when needed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from adjourn.database import Dialect, Reader
from adjourn.databases.driver import Driver
from adjourn.databases.upgrade import upgrade
from adjourn.errors import ConfigInvalid, DatabaseTooNew, ExtraMissing, Unavailable
from adjourn.migrations import HEAD, KNOWN

if TYPE_CHECKING:
    from collections.abc import Callable

ADVISORY_LOCK = 0x61646A6F75726E
UPGRADE_TIMEOUT_S = 600


def _remedy(path: Path | None, told: str) -> str:
    if path is None:
        return "check database.url, and that the server is reachable"
    if "not a database" in told:
        return "if it is Adjourn's, it is damaged: restore the last backup; else name another in database.url"
    return f"let this user write to {path.parent} and what is in it, or name another place: data_dir, or database.url"


class Store:
    """The database as a whole, before there are lanes: its version, its secret, the number of its partitions."""

    def __init__(
        self, dialect: Dialect, url: str, connect: Callable[[], Driver], *, path: Path | None, partitions: int
    ) -> None:
        self.dialect: Dialect = dialect
        self._url = url
        self._connect = connect
        self._path = path
        self._partitions = partitions

    def prepare(self) -> int:
        """Create, migrate, check; returns the number of partitions.
        Raises ConfigInvalid, DatabaseTooNew, ExtraMissing, Unavailable."""
        driver = self._connect()
        try:
            if self._path is not None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
            driver.connect()
        except (ConfigInvalid, ExtraMissing):
            raise
        except Exception as error:
            told = " ".join(str(error).split())
            fact = f"the database {self.location} cannot be opened ({told})"
            raise Unavailable(f"{fact}; {_remedy(self._path, told)}") from error
        try:
            with self._alone(driver):
                if self.version(driver) != HEAD:
                    self._upgrade()
                return self._installation(driver)
        finally:
            driver.close()

    @property
    def location(self) -> str:
        return str(self._path) if self._path else self._url.rsplit("@", 1)[-1]

    def version(self, reader: Reader) -> str:
        """The version found in the database; empty for a new one. Raises DatabaseTooNew."""
        if self.dialect == "sqlite":
            exists = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'alembic_version'"
        else:
            exists = "SELECT 1 FROM pg_tables WHERE tablename = 'alembic_version' AND schemaname = current_schema()"
        if not reader.rows(exists):
            return ""
        rows = reader.rows("SELECT version_num FROM alembic_version")
        found = str(rows[0][0]) if rows else ""
        if found and found not in KNOWN:
            raise DatabaseTooNew(
                f"{self.location} is at version {found}; this Adjourn knows up to {HEAD}: upgrade Adjourn, or "
                "restore a backup made before the upgrade"
            )
        return found

    def _upgrade(self) -> None:
        """In a process of its own: Alembic takes 40 MB that this process would keep, for a moment's work."""
        command = [sys.executable, "-m", "adjourn.databases.upgrade"]
        try:
            done = subprocess.run(
                command, input=self._url.encode(), capture_output=True, timeout=UPGRADE_TIMEOUT_S, check=False
            )
        except OSError:  # an embedded interpreter has no executable to start
            upgrade(self._url)
            return
        if done.returncode:
            raise Unavailable(
                f"the database {self.location} could not be migrated; run: adjourn db upgrade "
                f"({done.stderr.decode(errors='replace').strip()[-800:]})"
            )

    def _installation(self, driver: Driver) -> int:
        """Made once: the secret that keys all hashes, and the partitions, which never change afterwards."""
        found = driver.rows("SELECT partitions FROM installation WHERE partitions <= (SELECT count(*) FROM log_heads)")
        if found:  # nothing to write: who opens need not wait for who writes
            return int(found[0][0] or 1)
        driver.run(
            "INSERT INTO installation (id, secret, partitions, created_ms) VALUES (1, ?, ?, ?) "
            "ON CONFLICT (id) DO NOTHING",
            (os.urandom(32), self._partitions, time.time_ns() // 1_000_000),
        )
        partitions = int(driver.rows("SELECT partitions FROM installation")[0][0] or 1)
        for partition in range(partitions):
            driver.run(
                "INSERT INTO log_heads (partition, next_offset, tail_offset) VALUES (?, 0, 0) "
                "ON CONFLICT (partition) DO NOTHING",
                (partition,),
            )
        return partitions

    @contextmanager
    def _alone(self, driver: Driver) -> Generator[None, None, None]:
        """Two processes that start at once must not both migrate."""
        if self._path is None:
            # As long as the other's migration may take: a lane's timeouts would give up on it.
            for timeout in ("lock_timeout", "statement_timeout"):
                driver.run(f"SET {timeout} = {UPGRADE_TIMEOUT_S * 1000}")
            driver.rows("SELECT pg_advisory_lock(?)", (ADVISORY_LOCK,))
            try:
                yield
            finally:
                driver.rows("SELECT pg_advisory_unlock(?)", (ADVISORY_LOCK,))
            return
        lock = os.open(f"{self._path}.migrate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)
