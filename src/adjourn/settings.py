"""The settings: frozen values, and the rules that hold between them.

A `Settings` that breaks a rule cannot exist: its constructor checks the whole and raises one `ConfigInvalid` that lists
every problem, one a line. Reading files, environment and arguments is `adjourn.configfile`; each setting is described
in docs/reference/settings.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Literal

from msgspec import Meta

from adjourn import hosting_settings, routing_settings
from adjourn.addresses import bad_database_url, bad_origins, bad_web_url
from adjourn.errors import ConfigInvalid
from adjourn.hosting_settings import HostingSettings as HostingSettings  # the one place to import them from
from adjourn.hosting_settings import RunnerSettings as RunnerSettings
from adjourn.hosting_settings import TenantSettings as TenantSettings
from adjourn.redaction_rules import parse_rule
from adjourn.routing_settings import DestinationSettings as DestinationSettings
from adjourn.routing_settings import RoutingSettings as RoutingSettings
from adjourn.secret import reveal
from adjourn.setting import Count, Days, Line, Problem, SecretText, Section, Text, given, misfits

Lanes = Annotated[int, Meta(ge=1, le=4, description="a whole number from 1 to 4")]
LeaseMs = Annotated[int, Meta(ge=1000, le=2_147_483_647, description="a whole number from 1000 to 2147483647")]
PerSecond = Annotated[float, Meta(gt=0, le=1e6, description="a number above 0, at most 1000000")]
Port = Annotated[int, Meta(ge=0, le=65_535, description="a whole number from 0 (any free port) to 65535")]


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
    redact: tuple[str, ...] = ()


class ServerSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: Text = "127.0.0.1"
    port: Port = 8700
    body_mb_max: Count = 16
    drain_ms_max: Count = 10_000
    streams_max: Count = 1_000
    requests_per_key_per_s: PerSecond | None = None
    requests_per_key_burst: Count | None = None
    requests_per_user_per_s: PerSecond | None = None
    requests_per_user_burst: Count | None = None
    public_url: Line = ""
    beacon_origins: tuple[str, ...] = ()


class SessionsSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    lease_ms: LeaseMs = 30_000
    lease_ms_max: LeaseMs = 3_600_000
    open_max: Count = 100_000
    retention_days: Days = 7


class OtlpSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    parent_wait_ms: Count = 600_000
    retention_days: Days = 1


class LoggingSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


class TracingSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    enabled: bool = False


class Draft(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings, not yet checked: see `find_problems`."""

    data_dir: Text = "data"
    database: DatabaseSettings = DatabaseSettings()
    log: LogSettings = LogSettings()
    capture: CaptureSettings = CaptureSettings()
    validation: ValidationSettings = ValidationSettings()
    routing: RoutingSettings = RoutingSettings()
    server: ServerSettings = ServerSettings()
    sessions: SessionsSettings = SessionsSettings()
    hosting: HostingSettings = HostingSettings()
    otlp: OtlpSettings = OtlpSettings()
    logging: LoggingSettings = LoggingSettings()
    tracing: TracingSettings = TracingSettings()


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

    @property
    def workspaces_dir(self) -> str:
        return self.hosting.workspaces or f"{self.data_dir}/workspaces"


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


def _database(draft: Draft) -> Iterator[Problem]:
    database, url = draft.database, reveal(draft.database.url)
    if url:
        yield from bad_database_url("database.url", url)
    if url.startswith("postgres"):
        if database.durability != "full":
            fact = f"database.durability is {database.durability!r}, which only SQLite has"
            yield Problem(
                "database.durability", f"{fact}; leave it out, and set synchronous_commit for the role instead"
            )
    elif given(database, "lanes"):
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
    if capture.fsync != "background" and given(capture, "fsync_interval_ms"):
        fact = f"capture.fsync_interval_ms has no effect while capture.fsync is {capture.fsync!r}"
        yield Problem("capture.fsync_interval_ms", f"{fact}; leave it out, or set capture.fsync to 'background'")


def _redaction(draft: Draft) -> Iterator[Problem]:
    for i, text in enumerate(draft.validation.redact):
        try:
            parse_rule(text)
        except ValueError as error:
            yield Problem(f"validation.redact[{i}]", f"validation.redact[{i}]: {error}")


def _is_loopback(host: str) -> bool:
    import ipaddress  # here, since nearly all settings keep authentication on and need not pay for it

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _server(draft: Draft) -> Iterator[Problem]:
    host = draft.server.host
    yield from bad_origins("server.beacon_origins", draft.server.beacon_origins)
    for by in ("key", "user"):
        path = f"server.requests_per_{by}_burst"
        if given(draft.server, path[7:]) and not given(draft.server, f"requests_per_{by}_per_s"):
            fact = f"{path} has no effect without server.requests_per_{by}_per_s"
            yield Problem(path, f"{fact}; leave it out, or give the rate too")
    if draft.server.public_url:
        yield from bad_web_url("server.public_url", draft.server.public_url)
    if not draft.validation.require_authentication and not _is_loopback(host):
        fact = f"validation.require_authentication is false while server.host is {host!r}: anyone could write and read"
        yield Problem("validation.require_authentication", f"{fact}; set it to true, or server.host to 127.0.0.1")


def _sessions(draft: Draft) -> Iterator[Problem]:
    sessions = draft.sessions
    if sessions.lease_ms > sessions.lease_ms_max:
        fact = f"sessions.lease_ms is {sessions.lease_ms}, above sessions.lease_ms_max ({sessions.lease_ms_max})"
        yield Problem("sessions.lease_ms", f"{fact}; lower it, or raise sessions.lease_ms_max")


def _routing(draft: Draft) -> Iterator[Problem]:
    return routing_settings.find_problems(draft.routing)


def _hosting(draft: Draft) -> Iterator[Problem]:
    return hosting_settings.find_problems(draft.hosting)


def _drops(draft: Draft) -> Iterator[Problem]:
    for i, destination in enumerate(draft.routing.destinations):
        path = f"routing.destinations[{i}].drop_after_ms"
        if destination.drop_after_ms is not None and not (draft.log.retention_days or draft.log.retention_mb):
            fact = f"{path} has no effect while the log keeps everything"
            yield Problem(path, f"{fact}; set log.retention_days or log.retention_mb, or remove it")


_RULES: tuple[Callable[[Draft], Iterator[Problem]], ...] = (
    _database,
    _capture,
    _redaction,
    _server,
    _sessions,
    _hosting,
    _routing,
    _drops,
)
