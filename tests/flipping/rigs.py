"""What observers of settings share: a configuration in which one setting is flipped, and a node that runs with it."""

from __future__ import annotations

import asyncio
import functools
import json
import shutil
import socket
import tempfile
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tests.faults.rigs import mapping, settings_of

from adjourn.clock import ManualClock
from adjourn.completion.results import Result
from adjourn.databases.choose import store_for
from adjourn.node import Node

T = TypeVar("T")


class Flipped(NamedTuple):
    """A configuration with one value of the setting that is looked at, and the directory that is its own."""

    mapped: dict[str, Any]
    value: object
    directory: Path


class Row(NamedTuple):
    """`observe` runs the product with each of `values` and returns what a user sees of it: `seen`, in the same order;
    None where that is the value itself. `beside` are settings that it needs, by dotted name.

    Values may hold `{dir}`, and be functions that make one."""

    values: Sequence[object]
    observe: Callable[[Flipped], object]
    seen: Sequence[object] | None = None
    beside: Mapping[str, object] = {}


def flipped(path: str, value: object, beside: Mapping[str, object], directory: Path) -> Flipped:
    directory.mkdir(parents=True)
    shutil.copy(_new_database(), directory / "adjourn.db")  # making one takes most of a second
    mapped = mapping(directory)
    this = rendered(value, directory)
    for name, it in {**beside, path: this}.items():
        _put(mapped, name, rendered(it, directory))
    return Flipped(mapped, this, directory)


def rendered(value: object, directory: Path) -> object:
    if callable(value):
        return value()
    if isinstance(value, Mapping):
        return {key: rendered(it, directory) for key, it in value.items()}
    if isinstance(value, list):
        return [rendered(it, directory) for it in value]
    return value.replace("{dir}", str(directory)) if isinstance(value, str) else value


def _put(mapped: dict[str, Any], name: str, value: object) -> None:
    if "[]." in name:
        section, listed, key = name.replace("[]", "").split(".")
        mapped[section][listed][0][key] = value
    elif "." in name:
        section, key = name.split(".")
        mapped.setdefault(section, {})[key] = value
    else:
        mapped[name] = value


@functools.cache
def _new_database() -> Path:
    file = Path(tempfile.mkdtemp(prefix="adjourn-flipping-")) / "adjourn.db"
    store_for(f"sqlite:///{file}").prepare()
    return file


def with_node(
    flip: Flipped,
    work: Callable[[Node], Coroutine[object, object, T]],
    clock: ManualClock | None = None,
) -> T:
    async def main() -> T:
        async with Node(settings_of(flip.mapped), clock=clock) as node:
            return await work(node)

    return asyncio.run(main())


async def take(node: Node, *bodies: bytes) -> list[Result]:
    return await node.ingest.take("default", bodies, source="test")


async def statuses(node: Node, *bodies: bytes) -> list[str]:
    """What becomes of events sent one after the other."""
    return [(await take(node, body))[0].status for body in bodies]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def objects(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().splitlines()] if file.exists() else []
