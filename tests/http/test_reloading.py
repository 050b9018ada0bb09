from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import msgspec
import pytest
from tests.delivery.scripted import Scripted, delivering

from adjourn.http.reloading import reload_of
from adjourn.settings import Settings


def test_of_two_reloads_the_newer_settings_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read slowly; meanwhile it is changed, and a second reload is asked for: what was read first is not
    obeyed last."""

    async def run() -> None:
        async with delivering(tmp_path, monkeypatch, Scripted()) as node:
            began, go_on = threading.Event(), threading.Event()
            file = 7

            def load() -> Settings:
                read = file
                began.set()
                assert read == 8 or go_on.wait(20)
                (one,) = node.settings.routing.destinations
                changed = (msgspec.structs.replace(one, batch_size=read),)
                routing = msgspec.structs.replace(node.settings.routing, destinations=changed)
                return msgspec.structs.replace(node.settings, routing=routing)

            reload = reload_of(node, load)
            assert reload is not None
            first = asyncio.ensure_future(reload())
            await asyncio.to_thread(began.wait, 20)
            file = 8
            second = asyncio.ensure_future(reload())
            await asyncio.wait({second}, timeout=0.5)
            go_on.set()
            await asyncio.gather(first, second)
            assert node.settings.routing.destinations[0].batch_size == 8

    asyncio.run(run())
