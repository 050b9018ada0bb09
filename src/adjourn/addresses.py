"""What an address in the settings must look like. Pure; no message shows the address, which may hold a password."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from adjourn.setting import Problem

_CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
# Stricter than libpq, which takes a part of an unencoded password for the host, and repeats it in its errors.
_POSTGRES_URL = re.compile(
    r"postgres(?:ql)?://(?=.)(?:[^@/?#]*@)?(?:HOST(?:,HOST)*)?(?:/[^@/?#]*)?(?:\?PAIR(?:&PAIR)*)?".replace(
        "HOST", r"(?:\[[\w:.%]+\]|[^][@:/?#,]*)(?::[0-9]*)?"
    ).replace("PAIR", "[A-Za-z_]+=[^&=#]*")
)
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]+)?")
_NOT_ENCODED = re.compile(r"%(?![0-9A-Fa-f]{2})|%00|\s")


def bad_database_url(path: str, url: str) -> Iterator[Problem]:
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


def bad_web_url(path: str, url: str, *, allow_http: bool = True) -> Iterator[Problem]:
    if not re.fullmatch(r"https?://[^/\s?#]+\S*", url):
        yield Problem(path, f"{path} is not a web address; give https://host/path")
    elif url.startswith("http://") and not allow_http:
        fact = f"{path} is plain http, which anyone on the way can read and change"
        yield Problem(path, f"{fact}; give an https:// one, or set allow_http: true beside it")


def bad_origins(path: str, origins: Iterable[str]) -> Iterator[Problem]:
    """As browsers write them in the header Origin, which is compared letter by letter."""
    for i, origin in enumerate(origins):
        if origin != "*" and not _ORIGIN.fullmatch(origin):
            fact = f"{path}[{i}] is {origin[:100]!r}, which no browser sends as an origin"
            yield Problem(
                f"{path}[{i}]", f"{fact}; give https://host or https://host:port in lower case, or '*' for all"
            )


def bad_network(path: str, network: str) -> Iterator[Problem]:
    import ipaddress  # here, since few settings have one

    try:
        ipaddress.ip_network(network)
    except ValueError:
        yield Problem(path, f"{path} is {network[:60]!r}, which is no network; give one such as 10.0.0.0/8 or fd00::/8")
