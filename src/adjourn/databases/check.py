"""Is a database whole, and if not, what can be saved: file, version, tables. Its log is for `adjourn.logs.check`.

Nothing here writes to the database that it looks at.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from adjourn.database import Finding, Reader
from adjourn.databases.choose import sqlite_path, store_for
from adjourn.databases.files import FileReader, beside
from adjourn.databases.transfer import PostgresReader
from adjourn.databases.wal import cut_off
from adjourn.errors import DatabaseCorrupt, DatabaseTooNew
from adjourn.migrations import HEAD

MAGIC = b"SQLite format 3\0"
PROBLEMS_MAX = 20
WRITE_VERSION_AT = 18
WRITE_VERSION_MAX = 2
"""1 is a rollback journal, 2 the write-ahead log."""

SAVE = (
    "restore the last backup (adjourn db restore FILE), or save what is readable: adjourn db backup --salvage FILE "
    "writes it into a new file, which adjourn db restore takes"
)
SAVE_WITHOUT_HEADER = (
    "restore the last backup (adjourn db restore FILE); without one, sqlite3's own rescue may find the pages again: "
    "sqlite3 DAMAGED .recover | sqlite3 NEW"
)


def check(url: str) -> list[Finding]:
    """What is wrong with the database itself, worst first; empty when it is whole. Follow with `check_log`.
    Raises NotFound, ConfigInvalid, Unavailable."""
    path = sqlite_path(url)
    if path is None:
        with reading(url) as reader:
            return [*_check_version(url, reader), *check_tables(reader)]
    unused = not beside(path, "wal").exists()
    findings = check_file(path)
    if findings and unused and beside(path, "wal").exists():
        findings = check_file(path)  # opened by someone meanwhile: what looked like damage may have been their writing
    return findings


def check_file(path: Path) -> list[Finding]:
    """The same for a SQLite file, such as a backup."""
    with closing(FileReader(path)) as reader:
        damage = check_pages(reader)
        found = [damage] if damage else [*_check_version(f"sqlite:///{path}", reader), *check_tables(reader)]
    return [*_check_wal(path), *found]


def check_pages(reader: FileReader) -> Finding | None:
    """What SQLite's own check of a file finds, and which tables can be read in spite of it."""
    header = _check_header(reader.path)
    if header is not None:
        return header
    problems = _problems(reader)
    if not problems and (refused := reader.refused()):
        problems = [refused]
    if not problems:
        return None
    return Finding(f"{reader.path} is damaged: {'; '.join(problems)}", f"{_survey(reader)}; {SAVE}")


@contextmanager
def reading(url: str) -> Generator[Reader, None, None]:
    """A `Reader` at one instant of a database that may be damaged; it raises DatabaseCorrupt where it cannot be read,
    and has no time limits. Raises NotFound, ConfigInvalid, Unavailable."""
    path = sqlite_path(url)
    if path is not None:
        reader = FileReader(path)
        try:
            yield reader
        finally:
            reader.close()
        return
    store_for(url)  # refuses what is no URL of a database
    session = PostgresReader(url)
    try:
        yield session
    finally:
        session.close()


def _check_header(path: Path) -> Finding | None:
    """The first page says what the file is. See https://sqlite.org/fileformat2.html#the_database_header"""
    with path.open("rb") as file:
        header = file.read(100)
    size = path.stat().st_size
    if not header.startswith(MAGIC) or len(header) < 100:
        if not size and beside(path, "wal").exists():
            return None  # new, and everything is still in the write-ahead log
        said = "it is empty" if not size else "its first page is overwritten, or it never was a SQLite database"
        return Finding(f"{path} is no SQLite database: {said}", SAVE_WITHOUT_HEADER)
    if header[WRITE_VERSION_AT] > WRITE_VERSION_MAX:
        return Finding(
            f"{path} is damaged: its header says write version {header[WRITE_VERSION_AT]}, which SQLite only reads",
            f"nothing is lost, but nothing can be written: {SAVE}",
        )
    return None


def _check_wal(path: Path) -> list[Finding]:
    """SQLite itself never tells: it takes the log to end where it is damaged."""
    wal = beside(path, "wal")
    found = cut_off(wal)
    if found is None:
        return []
    return [
        Finding(
            f"{wal} is damaged in frame {found.frame} of {found.frames}: SQLite ends it there, and does not read "
            f"the {found.commits} transactions that were committed behind it",
            "if a server still runs on it, stop that cleanly: it copies what it has read into the database; else copy "
            "the files away before anything opens them, and capture the last events again from their senders",
        )
    ]


def _problems(reader: FileReader) -> list[str]:
    problems: list[str] = []
    missing = _missing_bytes(reader.path)
    if missing:
        problems.append(f"the last {missing} bytes are missing")
    try:
        rows = reader.rows(f"PRAGMA integrity_check({PROBLEMS_MAX})")
    except DatabaseCorrupt as error:
        return [*problems, str(error.__cause__)]
    said = [line for row in rows for line in str(row[0]).splitlines() if line not in ("ok", "*** in database main ***")]
    return problems + said[:PROBLEMS_MAX]


def _missing_bytes(path: Path) -> int:
    """By the header. With a write-ahead log beside it, a checkpoint may still have to write the rest."""
    wal = beside(path, "wal")
    if wal.exists() and wal.stat().st_size:
        return 0
    with path.open("rb") as file:
        header = file.read(100)
    (page_bytes,) = struct.unpack_from(">H", header, 16)
    changed, pages = struct.unpack_from(">II", header, 24)
    (valid_for,) = struct.unpack_from(">I", header, 92)
    if changed != valid_for:
        return 0
    return max(0, pages * (65_536 if page_bytes == 1 else page_bytes) - path.stat().st_size)


def _survey(reader: FileReader) -> str:
    """Which tables can still be read, by reading them."""
    try:
        tables = reader.tables()
    except DatabaseCorrupt:
        return "not even the list of tables can be read"
    whole: list[str] = []
    parts: list[str] = []
    for table, columns in tables.items():
        rows = holes = 0
        for row in reader.readable(table, columns):
            rows, holes = (rows + 1, holes) if row is not None else (rows, holes + 1)
        if holes:
            parts.append(f"{table} ({rows} rows)")
        else:
            whole.append(table)
    readable = f"whole tables: {', '.join(whole) or 'none'}"
    return f"{readable}; readable in part: {', '.join(parts)}" if parts else f"every table can be read ({readable})"


def _check_version(url: str, reader: Reader) -> list[Finding]:
    try:
        version = store_for(url).version(reader)
    except DatabaseTooNew as error:
        return [Finding(error.message, "nothing is lost: the database is whole as far as this version can tell")]
    except DatabaseCorrupt as error:
        return [Finding(f"the version cannot be read: {error.message}", SAVE)]
    if not version:
        return [Finding("it holds no Adjourn database", "check the URL; a server creates what is missing on start")]
    if version != HEAD:
        return [Finding(f"it is at version {version}, not {HEAD}", "nothing is lost; run: adjourn db upgrade")]
    return []


def check_tables(reader: Reader) -> list[Finding]:
    """Every table of this version is there with its columns, and PostgreSQL can read it to the last value."""
    from adjourn.schema import metadata

    findings: list[Finding] = []
    if not has(reader, "alembic_version") or reader.rows("SELECT version_num FROM alembic_version") != [(HEAD,)]:
        return findings
    for name, table in metadata.tables.items():
        if not has(reader, name):
            findings.append(Finding(f"the table {name} is missing", SAVE))
            continue
        missing = sorted({column.name for column in table.columns} - _columns(reader, name))
        if missing:
            findings.append(Finding(f"the table {name} has no column {', '.join(missing)}", SAVE))
        elif reader.dialect == "postgresql" and name != "log_blocks":
            findings += _read_through(reader, name)
    return findings


def has(reader: Reader, table: str) -> bool:
    return bool(_columns(reader, table))


def _columns(reader: Reader, table: str) -> set[str]:
    if reader.dialect == "sqlite":
        rows = reader.rows(f"SELECT name FROM pragma_table_info('{table}')")
    else:
        rows = reader.rows(
            "SELECT column_name FROM information_schema.columns "
            "WHERE table_name = ? AND table_schema = current_schema()",
            (table,),
        )
    return {str(name) for (name,) in rows}


def _read_through(reader: Reader, table: str) -> list[Finding]:
    try:
        reader.rows(f'SELECT count(md5(t::text)) FROM "{table}" t')
    except DatabaseCorrupt as error:
        return [Finding(f"the table {table} cannot be read whole: {error.__cause__}", SAVE)]
    return []
