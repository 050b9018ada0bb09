"""`adjourn db`: care for the database that the settings name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adjourn.cli.options import Assignments, ConfigFile, Json, load_settings
from adjourn.cli.output import finish, note, print_json
from adjourn.secret import mask

if TYPE_CHECKING:
    from adjourn.database import Finding
    from adjourn.databases.backup import Copied

app = typer.Typer(name="db", help="Upgrade, check, back up and restore the database.", no_args_is_help=True)


@app.command("upgrade")
def upgrade(config: ConfigFile = None, assignments: Assignments = None) -> None:
    """Create the database, or bring it to the version that this Adjourn needs; a server does so when it starts."""
    from adjourn.databases.choose import store_for
    from adjourn.migrations import HEAD

    settings = load_settings(config, assignments)
    store_for(settings.database_url, lanes=settings.database.lanes).prepare()
    print(f"{mask(settings.database_url)} is at version {HEAD}")


@app.command("check")
def check(as_json: Json = False, config: ConfigFile = None, assignments: Assignments = None) -> None:
    """Read the whole database and its log; say what is damaged and what can be saved. Exit code 1 if anything is."""
    settings = load_settings(config, assignments)
    findings = find_all(settings.database_url)
    if as_json:
        print_json(findings)
    for finding in findings if not as_json else ():
        print(f"- {finding.what}\n  {finding.saved}")
    note(f"{mask(settings.database_url)}: {_told(len(findings))}")
    finish(not findings)


def find_all(url: str) -> list[Finding]:
    """The database first, then its log, as far as it can be read. Raises NotFound, ConfigInvalid, Unavailable."""
    from adjourn.databases.check import check as check_database
    from adjourn.databases.check import has, reading
    from adjourn.errors import AdjournError
    from adjourn.logs.check import check_log

    findings = check_database(url)
    try:
        with reading(url) as reader:
            # Without its tables there is no log to read; that they are missing is among the findings.
            if has(reader, "log_heads") and has(reader, "log_blocks"):
                findings.extend(check_log(reader))
    except AdjournError:
        if not findings:
            raise
    return findings


def _told(count: int) -> str:
    return "whole" if not count else "1 finding" if count == 1 else f"{count} findings"


@app.command("backup")
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    salvage: Annotated[bool, typer.Option("--salvage", help="Take what can be read of a damaged database.")] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Write a consistent copy while servers go on writing. FILE appears whole or not at all."""
    from adjourn.databases.backup import backup as back_up

    settings = load_settings(config, assignments)
    _report(f"{file} holds", back_up(settings.database_url, file, force=force, salvage=salvage))


@app.command("restore")
def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `adjourn db backup` wrote.")],
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Put a backup into the database of the settings, which must be new or empty."""
    from adjourn.databases.backup import restore as put_back

    settings = load_settings(config, assignments)
    _report(f"{mask(settings.database_url)} holds", put_back(file, settings.database_url))


def _report(beginning: str, copied: Copied) -> None:
    events = f"{copied.events:,} event{'s' * (copied.events != 1)}"
    print(f"{beginning} {events}, {sum(copied.rows.values()):,} rows, version {copied.version}")
    for table, stretches in copied.skipped.items():
        note(f"{table}: {stretches} stretches of rows could not be read and are missing")
    finish(not copied.skipped)
