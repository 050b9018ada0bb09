"""`adjourn sessions`: hosted sessions of a server, made, talked to, watched and ended."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import msgspec
import typer

from adjourn.cli.options import Json
from adjourn.cli.output import finish, note, print_json, printable
from adjourn.cli.session_options import (
    SERVER,
    SessionId,
    Url,
    asking,
    given,
    over,
    pairs,
    prompt_of,
    read_session,
    texts,
)
from adjourn.cli.session_watch import watch
from adjourn.errors import ConfigInvalid

if TYPE_CHECKING:
    from adjourn.sdk import Pattern, SessionAnswer, Turn, TurnAnswer

app = typer.Typer(
    name="sessions", help="Host sessions: make them, talk to them, watch and end them.", no_args_is_help=True
)
app.command("watch")(watch)

Outcome = Literal["success", "error", "timeout", "user_terminated"]
Order = Literal["created", "active", "ended", "cost"]
BY = ("pattern", "status", "user", "model", "tag")
Pairs = list[str] | None


def _pairs(help_text: str) -> Any:
    return typer.Option(metavar="KEY=VALUE", help=f"{help_text} May be repeated.")


Fields = Annotated[
    str,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The session's fields, as YAML or JSON; `-` is standard input. What is given besides comes over it.",
    ),
]
Named = Annotated[str, typer.Option(metavar="NAME", help="For the runner.")]
Several = Annotated[Pairs, typer.Option(metavar="NAME=PROMPT", help="One of several agents. May be repeated.")]
Tools = Annotated[Pairs, typer.Option(metavar="NAME", help="A tool that the runner may use. May be repeated.")]
Options = Annotated[Pairs, _pairs("Of the runner; the value is JSON, or text.")]
Values = Annotated[Pairs, _pairs("The value is JSON, or text.")]


@app.command("create")
def create(
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN", help="ephemeral, long_running, hybrid or single_container; --config may have it."
        ),
    ] = "",
    config: Fields = "",
    runner: Annotated[str, typer.Option(metavar="NAME", help="One of the server's runners.")] = "",
    model: Named = "",
    system_prompt: Annotated[str, typer.Option(metavar="TEXT", help="For the runner.")] = "",
    tool: Tools = None,
    agent: Several = None,
    option: Options = None,
    limit: Annotated[Pairs, _pairs("As in --limit max_turns=10.")] = None,
    price: Annotated[Pairs, _pairs("As in --price input_usd_per_mtok=3.")] = None,
    tag: Annotated[Pairs, typer.Option(metavar="TAG", help="May be repeated.")] = None,
    name: Annotated[str, typer.Option(help="What people call it.")] = "",
    user: Annotated[str, typer.Option(metavar="ID", help="Whose it is.")] = "",
    metadata: Values = None,
    state: Values = None,
    parent: Annotated[str, typer.Option(metavar="ID", help="The session that it is a part of.")] = "",
    resumed_from: Annotated[str, typer.Option(metavar="ID", help="An ended session that this one goes on with.")] = "",
    snapshot: Annotated[str, typer.Option(metavar="ID", help="A snapshot to begin from.")] = "",
    as_json: Json = False,
    url: Url = SERVER,
) -> None:
    """Begin a session; its id is printed, alone."""
    agents = [{"name": each, "system_prompt": said} for each, said in texts("--agent", agent).items()]
    inner = given(model=model, system_prompt=system_prompt, allowed_tools=tool, agents=agents)
    money = {"limits": pairs("--limit", limit, exact=True), "price": pairs("--price", price, exact=True)}
    kept = {"metadata": pairs("--metadata", metadata), "state": pairs("--state", state)}
    plain = given(pattern=pattern, runner=runner, name=name, user_id=user, tags=tag, parent_id=parent)
    plain = {**plain, **given(resumed_from=resumed_from, snapshot_id=snapshot)}
    options = {"config": {**inner, **given(options=pairs("--option", option))}}
    fields = over(read_session(config) if config else {}, {**plain, **money, **kept, **options})
    wanted = fields.pop("pattern", None)
    if not isinstance(wanted, str):
        fact = "PATTERN is missing; give ephemeral, long_running, hybrid or single_container"
        raise ConfigInvalid(fact, path="pattern")
    with asking(url) as client:
        made = client.sessions.create(cast("Pattern", wanted), **cast("Any", fields))
    print_json(made) if as_json else print(made.id)


@app.command("send")
def send(
    session_id: SessionId,
    prompt: Annotated[str, typer.Argument(metavar="PROMPT|-", help="What is said; `-` is standard input.")],
    stream: Annotated[
        bool, typer.Option("--stream", help="Print the answer as it comes; with --json each event, one a line.")
    ] = False,
    agent: Annotated[str, typer.Option(metavar="NAME", help="Which of several agents is spoken to.")] = "",
    queue: Annotated[bool, typer.Option("--queue", help="Wait for the turn that runs, if one does.")] = False,
    option: Annotated[
        Pairs, typer.Option(metavar="KEY=VALUE", help="Of the runner, for this turn. May be repeated.")
    ] = None,
    as_json: Json = False,
    url: Url = SERVER,
) -> None:
    """Run a turn, and print its answer. Exit code 1 where the turn failed, or was interrupted."""
    how = given(agent=agent, queue=queue or None, options=pairs("--option", option))
    said = prompt_of(prompt)
    with asking(url, retries=15) as client:
        if not stream:
            sent = client.sessions.send(session_id, said, **cast("Any", how))
            if as_json:
                print_json(sent)
            else:
                print(sent.text)
            turn: TurnAnswer | None = sent.turn
        else:
            with client.sessions.stream(session_id, said, **cast("Any", how)) as told:
                turn = _as_it_comes(told, as_json)
    _finish_turn(turn)


def _as_it_comes(told: Turn, as_json: bool) -> TurnAnswer | None:
    ends_line = True
    for event in told:
        if as_json:
            print(msgspec.json.encode(event).decode(), flush=True)
        elif event.text:
            sys.stdout.write(event.text)
            sys.stdout.flush()
            ends_line = event.text.endswith("\n")
    if not ends_line:
        print()
    return told.turn


def _finish_turn(turn: TurnAnswer | None) -> None:
    if turn is not None and turn.status != "done":
        why = f": {turn.error.message}" if turn.error else ""
        note(printable(f"adjourn: turn {turn.number} is {turn.status}{why}"))
    finish(turn is not None and turn.status == "done")


@app.command("list")
def list_sessions(
    pattern: Annotated[str, typer.Option(metavar="PATTERN", help="Only of this pattern.")] = "",
    status: Annotated[Pairs, typer.Option(metavar="STATUS", help="Only in this status. May be repeated.")] = None,
    live: Annotated[
        bool | None, typer.Option("--live/--ended", help="Only those that have not ended, or those that have.")
    ] = None,
    user: Annotated[str, typer.Option(metavar="ID", help="Only of this user.")] = "",
    tag: Annotated[
        Pairs, typer.Option(metavar="TAG", help="Only with this tag. May be repeated: with all of them.")
    ] = None,
    model: Annotated[str, typer.Option(metavar="NAME", help="Only of this model.")] = "",
    runner: Annotated[str, typer.Option(metavar="NAME", help="Only of this runner.")] = "",
    parent: Annotated[str, typer.Option(metavar="ID", help="Only parts of this session.")] = "",
    name_prefix: Annotated[str, typer.Option(metavar="TEXT", help="Only those whose name begins so.")] = "",
    since: Annotated[str, typer.Option(metavar="TIME", help="Only created at this RFC 3339 time or later.")] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Only created before this RFC 3339 time.")] = "",
    order: Annotated[Order, typer.Option(help="By what.")] = "active",
    ascending: Annotated[bool, typer.Option("--ascending", help="The least first.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=500, help="How many.")] = 50,
    cursor: Annotated[str, typer.Option(metavar="CURSOR", help="Go on where the page before said.")] = "",
    as_json: Json = False,
    url: Url = SERVER,
) -> None:
    """List sessions, those that were active last first."""
    wanted = given(pattern=pattern, status=status, live=live, user_id=user, tags=tag, model=model, runner=runner)
    wanted = {**wanted, **given(parent_id=parent, name_prefix=name_prefix, created_since=since, created_until=until)}
    from adjourn.cli.session_tables import print_sessions

    with asking(url) as client:
        page = client.sessions.list(
            limit=limit, cursor=cursor, order=order, descending=not ascending, **cast("Any", wanted)
        )
    if as_json:
        print_json(page)
        return
    print_sessions(page.sessions)
    if page.next_cursor:
        note(f"there may be more, by the same options and: --cursor {page.next_cursor}")


@app.command("show")
def show(session_id: SessionId, as_json: Json = False, url: Url = SERVER) -> None:
    """Show one session."""
    from adjourn.cli.session_tables import print_session

    with asking(url) as client:
        found = client.sessions.get(session_id)
    print_json(found) if as_json else print_session(found)


@app.command("events")
def events(
    session_id: SessionId,
    after: Annotated[int, typer.Option(min=0, metavar="N", help="Only those behind the event of this number.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="How many; without it, all.")] = None,
    as_json: Json = False,
    url: Url = SERVER,
) -> None:
    """Print what happened in a session so far, a line each; with --json one JSON object a line."""
    from adjourn.cli.session_tables import line_of

    left = limit
    with asking(url) as client:
        while left is None or left > 0:
            page = client.sessions.events(session_id, after=after, limit=min(left or 500, 500))
            for event in page.events:
                print(msgspec.json.encode(event).decode() if as_json else line_of(event))
            if not page.events:
                return
            after, left = page.next_after, None if left is None else left - len(page.events)


@app.command("complete")
def complete(
    session_id: SessionId,
    outcome: Annotated[Outcome, typer.Option(help="How it ended.")] = "success",
    error_code: Annotated[str, typer.Option(metavar="CODE", help="Why, where it did not end well.")] = "",
    final_message: Annotated[str, typer.Option(metavar="TEXT", help="Its last word.")] = "",
    as_json: Json = False,
    url: Url = SERVER,
) -> None:
    """End a session. Its completion says how."""
    with asking(url) as client:
        ended = client.sessions.complete(
            session_id, outcome=outcome, error_code=error_code, final_message=final_message
        )
    _print(ended, as_json)


@app.command("terminate")
def terminate(
    session_id: SessionId,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Told with the change of status.")] = "",
    as_json: Json = False,
    url: Url = SERVER,
) -> None:
    """End a session now, its turn too, as terminated by its user."""
    with asking(url) as client:
        ended = client.sessions.terminate(session_id, reason=reason)
    _print(ended, as_json)


@app.command("interrupt")
def interrupt(session_id: SessionId, as_json: Json = False, url: Url = SERVER) -> None:
    """Ask the turn that runs to end soon."""
    with asking(url) as client:
        found = client.sessions.interrupt(session_id)
    _print(found, as_json)


@app.command("resume")
def resume(session_id: SessionId, as_json: Json = False, url: Url = SERVER) -> None:
    """Make an idle session active; go on with one that has ended in a new one."""
    with asking(url) as client:
        found = client.sessions.resume(session_id)
    _print(found, as_json)


@app.command("delete")
def delete(
    session_id: SessionId,
    force: Annotated[bool, typer.Option("--force", help="Terminate it first, if it has not ended.")] = False,
    url: Url = SERVER,
) -> None:
    """Delete a session that has ended, with its conversation."""
    with asking(url) as client:
        client.sessions.delete(session_id, force=force)


@app.command("snapshot")
def snapshot(session_id: SessionId, as_json: Json = False, url: Url = SERVER) -> None:
    """Keep state, conversation and workspace as they are; the snapshot's id is printed, alone."""
    with asking(url) as client:
        taken = client.sessions.snapshot(session_id)
    print_json(taken) if as_json else print(taken.id)


@app.command("stats")
def stats(
    by: Annotated[
        Pairs, typer.Option(metavar="WHAT", help="Told apart by pattern, status, user, model or tag. May be repeated.")
    ] = None,
    as_json: Json = False,
    url: Url = SERVER,
) -> None:
    """What all sessions add up to, deleted ones too."""
    from adjourn.cli.session_tables import print_stats

    for each in by or ():
        if each not in BY:
            raise ConfigInvalid(f"--by {each!r} is none of {', '.join(BY)}; give one of them", path="--by")
    with asking(url) as client:
        found = client.sessions.stats()
    print_json(found) if as_json else print_stats(found, by or ["pattern", "status"])


def _print(session: SessionAnswer, as_json: bool) -> None:
    if as_json:
        print_json(session)
        return
    outcome = f" ({session.outcome})" if session.outcome else ""
    print(printable(f"{session.id} is {session.status}{outcome}"))
