"""The settings of routing: where events go, and the rules that hold for each kind of destination."""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from adjourn.addresses import bad_database_url, bad_network, bad_web_url
from adjourn.events import COMPLETION_TYPES, EVENT_TYPES
from adjourn.secret import reveal
from adjourn.setting import Count, Days, Headers, Line, Problem, Rate, Secrets, SecretText, Section, given, named, short

DestinationType = Literal["database", "logfile", "webhook", "analytics", "upstream"]


class DestinationSettings(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where events are routed. Without a `name`, its type is its name."""

    name: str = ""
    type: DestinationType
    enabled: bool = True
    events: tuple[str, ...] = COMPLETION_TYPES
    sampling_rate: Rate = 1.0
    retention_days: Days | None = None
    batch_size: Count | None = None
    retry_attempts: Count | None = None
    retry_delay_ms: Count | None = None
    drop_after_ms: Count | None = None
    filter: str = ""
    transform: str = ""
    format: Literal["segment", "posthog", "otlp"] = "segment"
    url: SecretText = ""
    key: SecretText = ""
    headers: Headers = msgspec.field(default_factory=dict[str, SecretText])
    signing_secrets: Secrets = ()
    concurrency: Count = 8
    timeout_ms: Count | None = None
    compression: Literal["none", "gzip"] = "none"
    payload_bytes_max: Count = 20_000
    allow_http: bool = False
    allow_networks: tuple[str, ...] = ()
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

    def batch_size_of(self, destination: DestinationSettings) -> int:
        default = {"webhook": 1, "analytics": 250}.get(destination.type, 2000)
        return default if destination.batch_size is None else destination.batch_size

    def timeout_ms_of(self, destination: DestinationSettings) -> int:
        default = 60_000 if destination.type in ("database", "upstream") else 15_000
        return default if destination.timeout_ms is None else destination.timeout_ms


def find_problems(routing: RoutingSettings) -> Iterator[Problem]:
    for rule in _RULES:
        yield from rule(routing)


# --- the rules between settings ---------------------------------------------------------------------------------------

# PostgreSQL cuts names at 63 characters, and the longest suffix of an index takes seven.
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,55}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_ROTATED = re.compile(r"(.+)\.([1-9][0-9]{0,9})")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OWN_HEADERS = frozenset(
    {"connection", "content-encoding", "content-length", "host", "transfer-encoding", "webhook-id"}
    | {"webhook-signature", "webhook-timestamp", "adjourn-producer"}
)
_URL_FIELDS = ("url", "headers", "timeout_ms", "allow_http", "allow_networks")
_HTTP_FIELDS = (*_URL_FIELDS, "concurrency", "compression", "payload_bytes_max")
_FIELDS_OF_TYPE = {
    "database": ("connection_string", "table", "timeout_ms"),
    "logfile": ("log_path", "log_level", "rotate_mb", "rotate_keep"),
    "webhook": (*_HTTP_FIELDS, "signing_secrets"),
    "analytics": (*_HTTP_FIELDS, "format", "key"),
    "upstream": (*_URL_FIELDS, "key"),
}
_TYPED_FIELDS = tuple(dict.fromkeys(field for fields in _FIELDS_OF_TYPE.values() for field in fields))


def _delays(routing: RoutingSettings) -> Iterator[Problem]:
    longest = routing.retry_delay_ms_max
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


def _names(routing: RoutingSettings) -> Iterator[Problem]:
    names: dict[str, int] = {}
    for i, destination in enumerate(routing.destinations):
        path, name = f"routing.destinations[{i}].name", destination.name
        if not _NAME.fullmatch(name):
            yield Problem(path, f"{path} is {name[:70]!r}; give at most 64 letters, digits, '_', '-' and '.'")
        elif name in names:
            fact = f"{path} is {name!r}, as is that of routing.destinations[{names[name]}]"
            yield Problem(path, f"{fact}; give each its own name (without one, the type is the name)")
        names.setdefault(name, i)


def _log_files(routing: RoutingSettings) -> Iterator[Problem]:
    destinations = routing.destinations
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


def _destinations(routing: RoutingSettings) -> Iterator[Problem]:
    for i, destination in enumerate(routing.destinations):
        path, kind = f"routing.destinations[{i}].", destination.type
        for field in _TYPED_FIELDS:
            if field not in _FIELDS_OF_TYPE[kind] and given(destination, field):
                owner = next(owner for owner, fields in _FIELDS_OF_TYPE.items() if field in fields)
                fact = f"{path}{field} has no effect on a destination of type {kind!r}"
                yield Problem(path + field, f"{fact}; remove it, or make the type {owner!r}")
        yield from _DESTINATION_RULES[kind](path, destination)


def _events(routing: RoutingSettings) -> Iterator[Problem]:
    known = (*EVENT_TYPES, "*")
    for i, destination in enumerate(routing.destinations):
        path = f"routing.destinations[{i}].events"
        if not destination.events:
            fact = f"{path} is empty, so that nothing would go there"
            yield Problem(path, f"{fact}; name what is to go there, or set enabled: false")
        for j, name in enumerate(destination.events):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                remedy = f"did you mean {near[0]!r}?" if near else f"give some of {', '.join(map(repr, known))}"
                yield Problem(f"{path}[{j}]", f"{path}[{j}] is {short(name)}, which is no type of event; {remedy}")


def _database_destination(path: str, destination: DestinationSettings) -> Iterator[Problem]:
    url = reveal(destination.connection_string)
    if not url:
        example = "give sqlite:///path/to/file.db or postgresql://user@host/name"
        fact = f"{path}connection_string is missing, and a database destination needs one"
        yield Problem(f"{path}connection_string", f"{fact}; {example}")
    else:
        yield from bad_database_url(f"{path}connection_string", url)
    if not _TABLE.fullmatch(destination.table):
        fact = f"{path}table is {destination.table[:70]!r}"
        yield Problem(f"{path}table", f"{fact}; give a plain name: at most 56 letters, digits and '_', no digit first")


def _logfile_destination(path: str, destination: DestinationSettings) -> Iterator[Problem]:
    if not destination.log_path and not destination.log_level:
        fact = f"{path}log_path is missing, and a logfile destination needs it or log_level"
        yield Problem(f"{path}log_path", f"{fact}; give the file to write, or the level to log with")
    if not destination.log_path:
        for field in ("rotate_mb", "rotate_keep"):
            if given(destination, field):
                yield Problem(
                    path + field, f"{path}{field} has no effect without log_path; give log_path, or remove it"
                )


def _http_destination(path: str, destination: DestinationSettings) -> Iterator[Problem]:
    url = reveal(destination.url)
    if not url:
        fact = f"{path}url is missing, and a destination of type {destination.type!r} needs one"
        yield Problem(f"{path}url", f"{fact}; give https://host/path")
    else:
        yield from bad_web_url(f"{path}url", url, allow_http=destination.allow_http)
    for i, network in enumerate(destination.allow_networks):
        yield from bad_network(f"{path}allow_networks[{i}]", network)
    for i, secret in enumerate(destination.signing_secrets):
        yield from _signing_secret(f"{path}signing_secrets[{i}]", reveal(secret))
    for name, value in destination.headers.items():
        where = f"{path}headers.{named(name)}"
        if not _HEADER.fullmatch(name):
            yield Problem(
                where, f"{path}headers has {named(name)!r}, which is no header's name; use letters, digits and '-'"
            )
        elif name.lower() in _OWN_HEADERS:
            yield Problem(where, f"{path}headers has {named(name)!r}, which Adjourn itself sets; take it out")
        elif not re.fullmatch(r"[^\x00-\x08\x0a-\x1f\x7f]*", reveal(value)):
            yield Problem(where, f"{where} holds a line break or control character; give it on one line")


def _keyed_destination(path: str, destination: DestinationSettings) -> Iterator[Problem]:
    yield from _http_destination(path, destination)
    key = reveal(destination.key)
    if key and not re.fullmatch(r"[\x21-\x7e]+", key):
        yield Problem(
            f"{path}key", f"{path}key holds a space, a line break or a character beyond ASCII; give it as it is"
        )
    if destination.type == "analytics" and destination.format == "posthog" and not key:
        yield Problem(f"{path}key", f"{path}key is missing, and PostHog needs one; give the project's API key, phc_…")
    if destination.type == "analytics" and destination.format == "otlp" and key:
        fact = f"{path}key has no effect on format 'otlp'"
        yield Problem(f"{path}key", f"{fact}; remove it, and give what its receiver asks for in headers")
    if key and destination.format != "posthog" and any(name.lower() == "authorization" for name in destination.headers):
        fact = f"{path}key and {path}headers both say what Authorization is to be"
        yield Problem(f"{path}key", f"{fact}; remove one of them")


def _signing_secret(path: str, secret: str) -> Iterator[Problem]:
    import binascii  # here, since few settings have one

    prefix, _, encoded = secret.partition("_")
    lengths = {"whsec": range(24, 65), "whsk": (32, 64)}.get(prefix, ())
    try:
        known = len(binascii.a2b_base64(encoded.encode(), strict_mode=True)) in lengths
    except ValueError:
        known = False
    if not known:
        fact = f"{path} is not a signing secret"
        yield Problem(
            path, f"{fact}; give whsec_ and the base64 of 24 to 64 bytes, or whsk_ and that of an ed25519 key"
        )


_RULES = (_delays, _names, _log_files, _events, _destinations)
_DESTINATION_RULES: dict[str, Callable[[str, DestinationSettings], Iterator[Problem]]] = {
    "database": _database_destination,
    "logfile": _logfile_destination,
    "webhook": _http_destination,
    "analytics": _keyed_destination,
    "upstream": _keyed_destination,
}
