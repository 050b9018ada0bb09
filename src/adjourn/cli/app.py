"""`adjourn`: all commands, and how each of them ends.

0: done. 1: done, and something is wrong with what was looked at. 2: not done, and one line says why and what to do.
130: Ctrl-C.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from adjourn.cli import (
    capture,
    config,
    db,
    dead_letters,
    destinations,
    gateway,
    keys,
    quarantine,
    serve,
    sessions,
    status,
    tap,
    transforms,
)
from adjourn.errors import AdjournError
from adjourn.version import __version__

app = typer.Typer(
    name="adjourn",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain help: it can be pasted, and keeps its lines on a narrow terminal
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("capture")(capture.capture)
app.command("gateway")(gateway.gateway)
app.command("status")(status.status)
app.command("tap")(tap.tap)
app.add_typer(config.app)
app.add_typer(db.app)
app.add_typer(dead_letters.app)
app.add_typer(destinations.app)
app.add_typer(keys.app)
app.add_typer(quarantine.app)
app.add_typer(sessions.app)
app.add_typer(transforms.app)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"adjourn {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and end.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Sessions of AI agents, completed exactly once."""


def main() -> None:
    try:
        sys.exit(app(prog_name="adjourn", standalone_mode=False))
    except typer.TyperException as error:  # of a wrong command line
        print(usage(error), file=sys.stderr)
        sys.exit(2)
    except AdjournError as error:
        for line in error.message.splitlines():  # one for each problem of a settings file, else one
            print(f"adjourn: {line}", file=sys.stderr)
        sys.exit(2)
    finally:
        _finish_output()


def usage(error: typer.TyperException) -> str:
    """What is wrong with the command line and what to do; the help itself where no command was named."""
    context: typer.Context | None = getattr(error, "ctx", None)
    if context and error.message == context.get_help():
        return error.message
    near: list[str] = sorted(getattr(error, "possibilities", None) or ())
    fact = error.message if near else error.format_message()
    fact, _, guess = fact.rstrip(".").partition(". Did you mean ")
    guess = " or ".join(near) + "?" if near else guess
    remedy = f"did you mean {guess}" if guess else f"see: {context.command_path if context else 'adjourn'} --help"
    return f"adjourn: {fact[:1].lower()}{fact[1:]}; {remedy}"


def _finish_output() -> None:
    """Whoever reads may have gone (`adjourn keys list | head -1`): nobody is told, and Python must not try again."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
