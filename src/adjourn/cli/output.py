"""How lists and objects are printed: aligned columns for people, JSON for programs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec
import typer


def note(text: str) -> None:
    """For the person at the terminal: standard output is for what was asked for."""
    print(text, file=sys.stderr)


def print_json(value: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def print_columns(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; control characters in cells are shown, not obeyed."""
    lines = [list(heads), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def reason(path: str, message: str, remedy: str) -> str:
    """Why an event was refused, on one line; messages of the schema name their path themselves."""
    where = f"{path}: " if path and path not in message else ""
    return printable(f"{where}{message}; {remedy}")


def finish(ok: bool) -> None:
    """Exit code 1 where something is wrong with what the command looked at."""
    if not ok:
        raise typer.Exit(1)
