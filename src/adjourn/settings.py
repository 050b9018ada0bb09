"""The settings: frozen values, and the rules that hold between them.

A `Settings` that breaks a rule cannot exist: its constructor checks the whole and raises one `ConfigInvalid` that lists
every problem, one a line. Reading files, environment and arguments is `adjourn.configfile`; each setting is described
in docs/reference/settings.md.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from adjourn.errors import ConfigInvalid
from adjourn.secret import reveal
from adjourn.setting import Count, Days, Headers, Line, Problem, Rate, SecretText, Section, Text, leaves, misfits, named

Lanes = Annotated[int, Meta(ge=1, le=4, description="a whole number from 1 to 4")]
Port = Annotated[int, Meta(ge=0, le=65_535, description="a whole number from 0 (any free port) to 65535")]
DestinationType = Literal["database", "logfile", "webhook", "analytics", "upstream"]


class DatabaseSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    url: SecretText = ""
    durability: Literal["full", "normal"] = "full"
    lanes: Lanes = 2
    readers: Count = 4
    queue_events_max: Count = 50_000
    write_timeout_ms: Count = 30_000


class LogSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    retention_days: Days | None = None
    retention_mb: Count | None = None
    compact_interval_ms: Count = 1000


class CaptureSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    sources: tuple[str, ...] = ()
    buffer_size: Count = 100
    flush_interval_ms: Count = 5000
    spool_dir: Line = ""
    spool_mb_max: Count = 1000
    spool_full: Literal["refuse", "drop_oldest"] = "refuse"
    fsync: Literal["background", "always", "never"] = "background"
    fsync_interval_ms: Count = 50


class ValidationSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema_version: Literal["v1.2"] = "v1.2"
    require_authentication: bool = True
    dedupe_by: Literal["event", "session"] = "event"
    dedupe_window_s: Count = 300
    dedupe_memory_mb: Count = 64
    timestamp_ahead_ms_max: Count = 300_000


class DestinationSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where events are routed. Without a `name`, its type is its name."""

    name: str = ""
    type: DestinationType
    enabled: bool = True
    sampling_rate: Rate = 1.0
    retention_days: Days | None = None
    batch_size: Count = 2000
    retry_attempts: Count | None = None
    retry_delay_ms: Count | None = None
    drop_after_ms: Count | None = None
    transform: str = ""
    url: SecretText = ""
    headers: Headers = msgspec.field(default_factory=dict[str, SecretText])
    connection_string: SecretText = ""
    table: str = "session_completions"
    log_level: Literal["", "debug", "info", "warning", "error"] = ""
    log_path: Line = ""
    rotate_mb: Count = 100
    rotate_keep: Count = 5

    def __post_init__(self) -> None:
        if not self.name:
            msgspec.structs.force_setattr(self, "name", self.type)


class RoutingSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    retry_attempts: Count = 3
    retry_delay_ms: Count = 1000
    retry_delay_ms_max: Count = 60_000
    destinations: tuple[DestinationSettings, ...] = ()

    def attempts_of(self, destination: DestinationSettings) -> int:
        return self.retry_attempts if destination.retry_attempts is None else destination.retry_attempts

    def delay_ms_of(self, destination: DestinationSettings) -> int:
        return self.retry_delay_ms if destination.retry_delay_ms is None else destination.retry_delay_ms


class ServerSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: Text = "127.0.0.1"
    port: Port = 8700
    body_mb_max: Count = 16
    drain_ms_max: Count = 10_000


class LoggingSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class Draft(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings, not yet checked: see `find_problems`."""

    data_dir: Text = "data"
    database: DatabaseSettings = DatabaseSettings()
    log: LogSettings = LogSettings()
    capture: CaptureSettings = CaptureSettings()
    validation: ValidationSettings = ValidationSettings()
    routing: RoutingSettings = RoutingSettings()
    server: ServerSettings = ServerSettings()
    logging: LoggingSettings = LoggingSettings()


class Settings(Draft, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. Raises ConfigInvalid, with every problem on a line of its own."""

    def __post_init__(self) -> None:
        if problems := find_problems(self):
            raise invalid(problems)

    @property
    def database_url(self) -> str:
        """The URL of Adjourn's own database, revealed: `sqlite:///…` or `postgresql://…`."""
        url = reveal(self.database.url) or f"sqlite:///{self.data_dir}/adjourn.db"
        return f"postgresql{url[8:]}" if url.startswith("postgres://") else url

    @property
    def spool_dir(self) -> str:
        return self.capture.spool_dir or f"{self.data_dir}/spool"


def default_settings() -> Settings:
    return Settings()


def invalid(problems: Iterable[Problem]) -> ConfigInvalid:
    """One error for all problems, one a line; its path is the first one's."""
    listed = list(problems)
    return ConfigInvalid("\n".join(problem.text for problem in listed), path=listed[0].path)


def find_problems(draft: Draft) -> list[Problem]:
    """Everything that is wrong. Rules between settings are looked at once each value is of its own type."""
    return list(misfits(draft)) or [problem for rule in _RULES for problem in rule(draft)]


# --- the rules between settings ---------------------------------------------------------------------------------------

# PostgreSQL cuts names at 63 characters, and the longest suffix of an index takes seven.
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,55}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# Stricter than libpq, which takes a part of an unencoded password for the host, and repeats it in its errors.
_POSTGRES_URL = re.compile(
    r"postgres(?:ql)?://(?=.)(?:[^@/?#]*@)?(?:HOST(?:,HOST)*)?(?:/[^@/?#]*)?(?:\?PAIR(?:&PAIR)*)?".replace(
        "HOST", r"(?:\[[\w:.%]+\]|[^][@:/?#,]*)(?::[0-9]*)?"
    ).replace("PAIR", "[A-Za-z_]+=[^&=#]*")
)
_NOT_ENCODED = re.compile(r"%(?![0-9A-Fa-f]{2})|%00|\s")
_ROTATED = re.compile(r"(.+)\.([1-9][0-9]{0,9})")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FIELDS_OF_TYPE = {
    "database": ("connection_string", "table"),
    "logfile": ("log_path", "log_level", "rotate_mb", "rotate_keep"),
    "webhook": ("url", "headers"),
    "analytics": ("url", "headers"),
    "upstream": ("url", "headers"),
}
_TYPED_FIELDS = tuple(dict.fromkeys(field for fields in _FIELDS_OF_TYPE.values() for field in fields))


def _given(section: Section, field: str) -> bool:
    return getattr(section, field) != leaves(type(section))[field].default


def _bad_database_url(path: str, url: str) -> Iterator[Problem]:
    # The text never shows the URL: it may hold a password.
    if _CONTROL.search(url):
        yield Problem(path, f"{path} holds a line break or control character; give it on one line")
    elif url.startswith("sqlite:///"):
        if url.removeprefix("sqlite:///") in ("", ":memory:"):
            yield Problem(
                path, f"{path} names no file; give a file that outlives the process: sqlite:///path/to/file.db"
            )
    elif not re.match(r"postgres(ql)?://.", url):
        yield Problem(
            path, f"{path} is not a database's URL; give sqlite:///path/to/file.db or postgresql://user@host/name"
        )
    elif _NOT_ENCODED.search(url) or not _POSTGRES_URL.fullmatch(url):
        remedy = "give postgresql://user:password@host:port/name, and in names and passwords %25 for %, %40 for @"
        yield Problem(
            path, f"{path} cannot be read as PostgreSQL's URL; {remedy}, %2F for /, %3F for ?, %20 for a space"
        )


def _database(draft: Draft) -> Iterator[Problem]:
    database, url = draft.database, reveal(draft.database.url)
    if url:
        yield from _bad_database_url("database.url", url)
    if url.startswith("postgres"):
        if database.durability != "full":
            fact = f"database.durability is {database.durability!r}, which only SQLite has"
            yield Problem(
                "database.durability", f"{fact}; leave it out, and set synchronous_commit for the role instead"
            )
    elif _given(database, "lanes"):
        fact = f"database.lanes is {database.lanes}, but SQLite has one writer"
        yield Problem("database.lanes", f"{fact}; leave it out, or set database.url to a postgresql:// URL")


def _capture(draft: Draft) -> Iterator[Problem]:
    capture, seen = draft.capture, set[str]()
    for i, source in enumerate(capture.sources):
        path = f"capture.sources[{i}]"
        if not source or source in seen:
            fact = f"{path} is {source!r} for the second time" if source else f"{path} is empty"
            yield Problem(path, f"{fact}; remove it, or give another source's name")
        seen.add(source)
    if capture.fsync != "background" and _given(capture, "fsync_interval_ms"):
        fact = f"capture.fsync_interval_ms has no effect while capture.fsync is {capture.fsync!r}"
        yield Problem("capture.fsync_interval_ms", f"{fact}; leave it out, or set capture.fsync to 'background'")


def _is_loopback(host: str) -> bool:
    import ipaddress  # here, since nearly all settings keep authentication on and need not pay for it

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _server(draft: Draft) -> Iterator[Problem]:
    host = draft.server.host
    if not draft.validation.require_authentication and not _is_loopback(host):
        fact = f"validation.require_authentication is false while server.host is {host!r}: anyone could write and read"
        yield Problem("validation.require_authentication", f"{fact}; set it to true, or server.host to 127.0.0.1")


def _routing(draft: Draft) -> Iterator[Problem]:
    routing, longest = draft.routing, draft.routing.retry_delay_ms_max
    delays = [("routing.retry_delay_ms", routing.retry_delay_ms)]
    delays += [
        (f"routing.destinations[{i}].retry_delay_ms", destination.retry_delay_ms)
        for i, destination in enumerate(routing.destinations)
        if destination.retry_delay_ms is not None
    ]
    for path, delay in delays:
        if delay > longest:
            fact = f"{path} is {delay}, more than routing.retry_delay_ms_max, which is {longest}"
            yield Problem(path, f"{fact}; lower the one or raise the other")


def _names(draft: Draft) -> Iterator[Problem]:
    names: dict[str, int] = {}
    for i, destination in enumerate(draft.routing.destinations):
        path, name = f"routing.destinations[{i}].name", destination.name
        if not _NAME.fullmatch(name):
            yield Problem(path, f"{path} is {name[:70]!r}; give at most 64 letters, digits, '_', '-' and '.'")
        elif name in names:
            fact = f"{path} is {name!r}, as is that of routing.destinations[{names[name]}]"
            yield Problem(path, f"{fact}; give each its own name (without one, the type is the name)")
        names.setdefault(name, i)


def _log_files(draft: Draft) -> Iterator[Problem]:
    destinations = draft.routing.destinations
    writers: dict[str, int] = {}
    remedy = "two writers would tear each other's lines: give each its own file"
    for i, destination in enumerate(destinations):
        if destination.log_path:
            path, file = f"routing.destinations[{i}].log_path", posixpath.normpath(destination.log_path)
            if file in writers:
                fact = f"{path} is {destination.log_path!r}, as is that of routing.destinations[{writers[file]}]"
                yield Problem(path, f"{fact}; {remedy}")
            writers.setdefault(file, i)
    for file, i in writers.items():
        older = _ROTATED.fullmatch(file)
        first = writers.get(older[1]) if older else None
        if older and first is not None and int(older[2]) <= destinations[first].rotate_keep:
            path = f"routing.destinations[{i}].log_path"
            fact = f"{path} is {file!r}, a file to which routing.destinations[{first}] rotates its own"
            yield Problem(path, f"{fact}; {remedy}")


def _destinations(draft: Draft) -> Iterator[Problem]:
    for i, destination in enumerate(draft.routing.destinations):
        path, kind = f"routing.destinations[{i}].", destination.type
        for field in _TYPED_FIELDS:
            if field not in _FIELDS_OF_TYPE[kind] and _given(destination, field):
                owner = next(owner for owner, fields in _FIELDS_OF_TYPE.items() if field in fields)
                fact = f"{path}{field} has no effect on a destination of type {kind!r}"
                yield Problem(path + field, f"{fact}; remove it, or make the type {owner!r}")
        if destination.drop_after_ms is not None and not (draft.log.retention_days or draft.log.retention_mb):
            fact = f"{path}drop_after_ms has no effect while the log keeps everything"
            yield Problem(f"{path}drop_after_ms", f"{fact}; set log.retention_days or log.retention_mb, or remove it")
        yield from _DESTINATION_RULES[kind](path, destination)


def _database_destination(path: str, destination: DestinationSettings) -> Iterator[Problem]:
    url = reveal(destination.connection_string)
    if not url:
        example = "give sqlite:///path/to/file.db or postgresql://user@host/name"
        fact = f"{path}connection_string is missing, and a database destination needs one"
        yield Problem(f"{path}connection_string", f"{fact}; {example}")
    else:
        yield from _bad_database_url(f"{path}connection_string", url)
    if not _TABLE.fullmatch(destination.table):
        fact = f"{path}table is {destination.table[:70]!r}"
        yield Problem(f"{path}table", f"{fact}; give a plain name: at most 56 letters, digits and '_', no digit first")


def _logfile_destination(path: str, destination: DestinationSettings) -> Iterator[Problem]:
    if not destination.log_path and not destination.log_level:
        fact = f"{path}log_path is missing, and a logfile destination needs it or log_level"
        yield Problem(f"{path}log_path", f"{fact}; give the file to write, or the level to log with")
    if not destination.log_path:
        for field in ("rotate_mb", "rotate_keep"):
            if _given(destination, field):
                yield Problem(
                    path + field, f"{path}{field} has no effect without log_path; give log_path, or remove it"
                )


def _http_destination(path: str, destination: DestinationSettings) -> Iterator[Problem]:
    url = reveal(destination.url)
    if not url:
        fact = f"{path}url is missing, and a destination of type {destination.type!r} needs one"
        yield Problem(f"{path}url", f"{fact}; give https://host/path")
    elif not re.fullmatch(r"https?://[^/\s?#]+\S*", url):
        yield Problem(f"{path}url", f"{path}url is not a web address; give https://host/path")
    for name, value in destination.headers.items():
        where = f"{path}headers.{named(name)}"
        if not _HEADER.fullmatch(name):
            yield Problem(
                where, f"{path}headers has {named(name)!r}, which is no header's name; use letters, digits and '-'"
            )
        elif not re.fullmatch(r"[^\x00-\x08\x0a-\x1f\x7f]*", reveal(value)):
            yield Problem(where, f"{where} holds a line break or control character; give it on one line")


_RULES: tuple[Callable[[Draft], Iterator[Problem]], ...] = (
    _database,
    _capture,
    _server,
    _routing,
    _names,
    _log_files,
    _destinations,
)
_DESTINATION_RULES: dict[str, Callable[[str, DestinationSettings], Iterator[Problem]]] = {
    "database": _database_destination,
    "logfile": _logfile_destination,
    "webhook": _http_destination,
    "analytics": _http_destination,
    "upstream": _http_destination,
}
