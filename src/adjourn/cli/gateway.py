"""`adjourn gateway --upstream URL`: model calls pass through, their sessions are captured."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Annotated

import typer

from adjourn.cli.options import Assignments, ConfigFile, load_settings
from adjourn.secret import mask
from adjourn.version import __version__

if TYPE_CHECKING:
    from adjourn.gateway.recorder import Recorder
    from adjourn.gateway.service import GatewayOptions
    from adjourn.settings import Settings


def gateway(
    upstream: Annotated[
        str, typer.Option(metavar="URL", help="Where calls go: https://api.openai.com, with a path if it has one.")
    ],
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Listen on this address.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Listen on this port; 0 is any free one.")
    ] = 8710,
    idle_gap_s: Annotated[
        float, typer.Option(metavar="SECONDS", help="A session ends when it has been silent for so long.")
    ] = 300.0,
    include_usage: Annotated[
        bool, typer.Option("--include-usage", help="Ask for token counts in streamed chats that do not.")
    ] = False,
    name: Annotated[str, typer.Option(help="Of its journal: each gateway over one data_dir has its own.")] = "default",
    url: Annotated[
        str, typer.Option(envvar="ADJOURN_URL", help="Send completions to this server, with the key $ADJOURN_KEY.")
    ] = "",
    tenant: Annotated[
        str, typer.Option(help="Whose completions they are, without --url. With it, the key says.")
    ] = "default",
    config: ConfigFile = None,
    assignments: Assignments = None,
) -> None:
    """Stand in front of a model API of OpenAI's or Anthropic's style, and capture the sessions of those who call it.

    Calls and answers pass unchanged. Without --url completions go into the database of the settings, and on to its
    destinations. SIGTERM and Ctrl-C finish what was begun; open sessions go on at the next start."""
    settings = load_settings(config, assignments)
    from adjourn.gateway.service import GatewayOptions
    from adjourn.security.keys import check_new

    check_new(tenant, "", "writer")
    options = GatewayOptions(
        upstream=upstream,
        host=host,
        port=port,
        name=name,
        idle_gap_s=idle_gap_s,
        include_usage=include_usage,
        url=url,
        key=os.environ.get("ADJOURN_KEY", "") if url else "",
        tenant=tenant,
    )
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_gateway(settings, options))


async def _gateway(settings: Settings, options: GatewayOptions) -> None:
    from adjourn.gateway.service import serve

    kept: list[Recorder] = []

    async def on_ready(address: str, recorder: Recorder) -> None:
        kept.append(recorder)
        lines = [f"Adjourn {__version__} gateway on {address}", f"  upstream     {options.upstream}"]
        if recorder.sessions.open:
            lines.append(f"  sessions     {len(recorder.sessions.open)} open from before")
        lines.append(f"  completions  {mask(options.url or settings.database_url)}")
        print("\n".join(lines), flush=True)

    await serve(settings, options, on_ready=on_ready)
    sessions = len(kept[0].sessions.open) if kept else 0
    print(f"stopped; {sessions} open sessions go on at the next start" if sessions else "stopped", flush=True)
