"""What the commands of `adjourn sessions` share: the server, what is typed as KEY=VALUE, and how refusals end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from adjourn.cli.output import note
from adjourn.errors import AdjournError, ConfigInvalid, Unauthenticated

if TYPE_CHECKING:
    from adjourn.sdk import Client

RETRIES = 5
"""Less patient than a program: somebody waits. What takes long anyway is as patient as the client is by default."""
REFUSED = frozenset({402, 404, 409, 410, 422, 429})
"""The server looked at it, and does not do it: exit code 1."""

Url = Annotated[
    str,
    typer.Option(envvar="ADJOURN_URL", help="The server, with the key in $ADJOURN_KEY."),
]
SessionId = Annotated[str, typer.Argument(metavar="ID", help="As `sessions list` shows it.")]
SERVER = "http://127.0.0.1:8700"


@contextmanager
def asking(url: str, *, retries: int | None = RETRIES) -> Generator[Client]:
    """A client. What the server refuses ends the command with exit code 1."""
    from adjourn.sdk import Client

    try:
        with Client(url, os.environ.get("ADJOURN_KEY"), retries=retries) as client:
            yield client
    except Unauthenticated as error:
        raise Unauthenticated(f"{error.message} (the key is in $ADJOURN_KEY)") from None
    except AdjournError as error:
        if error.status not in REFUSED or isinstance(error, ConfigInvalid):
            raise
        note(f"adjourn: {error.message}")
        raise typer.Exit(1) from None


def pairs(flag: str, given: Sequence[str] | None, *, exact: bool = False) -> dict[str, object]:
    """KEY=VALUE, each value as JSON, or as text where it is none. `exact`: numbers with a point are decimals."""
    found: dict[str, object] = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigInvalid(f"{flag} {text!r} is no assignment; give it as {flag} KEY=VALUE", path=flag)
        try:
            found[key.strip()] = json.loads(value, parse_float=Decimal if exact else None)
        except (ValueError, RecursionError):
            found[key.strip()] = value
    return found


def texts(flag: str, given: Sequence[str] | None) -> dict[str, str]:
    """KEY=TEXT, or KEY alone."""
    found: dict[str, str] = {}
    for text in given or ():
        key, _, value = text.partition("=")
        if not key.strip():
            raise ConfigInvalid(f"{flag} {text!r} has no name; give it as {flag} NAME=TEXT", path=flag)
        found[key.strip()] = value
    return found


def read_session(file: str) -> dict[str, object]:
    """A session's fields from a file, YAML or JSON. Raises ConfigInvalid."""
    from adjourn import yamltext

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{file} cannot be read ({error}); give a YAML or JSON file", path="--config") from None
    found, _ = yamltext.parse_yaml(text, file)
    if not isinstance(found, dict):
        raise ConfigInvalid(f"{file} holds no fields of a session; write `pattern: hybrid` …", path="--config")
    return cast("dict[str, object]", found)


def prompt_of(text: str) -> str:
    """`-` is standard input, to its end."""
    return sys.stdin.read() if text == "-" else text


def given(**fields: object) -> Mapping[str, object]:
    """Those that were."""
    return {name: value for name, value in fields.items() if value not in (None, "", [], {}, ())}


def over(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """Both, objects within them too; what is `above` counts."""
    found = dict(below)
    for name, value in above.items():
        if isinstance(value, dict):
            inner = found.get(name)
            value = over(
                cast("Mapping[str, object]", inner) if isinstance(inner, dict) else {},
                cast("Mapping[str, object]", value),
            )
            if not value:
                continue
        found[name] = value
    return found
