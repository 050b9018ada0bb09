"""`adjourn serve`: a server in the foreground, until SIGTERM or Ctrl-C; `--demo` feeds it real traffic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from adjourn.cli.options import Assignments, ConfigFile, load_settings
from adjourn.secret import mask
from adjourn.version import __version__

if TYPE_CHECKING:
    from adjourn.cli.demo import Demo
    from adjourn.node import Node
    from adjourn.settings import Settings


def serve(
    demo: Annotated[
        bool, typer.Option("--demo", help="Replay 2,000 sessions of a real trace, then keep serving.")
    ] = False,
    config: ConfigFile = None,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Listen on this address.")] = None,
    port: Annotated[str | None, typer.Option(metavar="PORT", help="Listen on this port; 0 is any free one.")] = None,
    assignments: Assignments = None,
) -> None:
    """Serve the HTTP API and deliver to the destinations. SIGTERM and Ctrl-C finish what was begun, then end."""
    given = {"server__host": host, "server__port": port}

    def load() -> Settings:
        settings = load_settings(config, assignments, **given)
        if not demo or settings.routing.destinations:
            return settings
        from adjourn.cli.demo import destinations

        made = destinations(settings.data_dir)
        return load_settings(config, assignments, routing__destinations=made, **given)

    settings = load()
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, demo, load))


async def _serve(settings: Settings, with_demo: bool, load: Callable[[], Settings]) -> None:
    from adjourn.http.server import serve as serve_http
    from adjourn.node import Node

    if settings.tracing.enabled:
        from adjourn import tracing

        tracing.export()
    demo: Demo | None = None
    if with_demo:
        from adjourn.cli.demo import Demo

        demo = Demo(settings)
    node = Node(settings, on_delivered=demo.on_delivered if demo else None)

    async def on_ready(url: str) -> None:
        try:
            _say_where(node, url)
            if demo is not None:
                await demo.run(node, url)
            elif not await _has_key(node):
                print("no key yet: make one with  adjourn keys create --role writer", flush=True)
            await asyncio.Event().wait()
        finally:
            print("stopping: what was begun is finished", flush=True)

    await serve_http(node, on_ready=on_ready, load=load)
    print("stopped", flush=True)


def _say_where(node: Node, url: str) -> None:
    running = [f"{d.name} ({d.type})" for d in node.settings.routing.destinations if d.enabled]
    print(
        f"Adjourn {__version__} on {url}\n"
        f"  database      {mask(node.settings.database_url)}\n"
        f"  destinations  {', '.join(running) or 'none: events wait in the log; add one under routing.destinations'}",
        flush=True,
    )


async def _has_key(node: Node) -> bool:
    return not node.settings.validation.require_authentication or any(
        key.revoked_ms is None for key in await node.keys.list()
    )
