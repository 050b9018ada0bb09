"""What the spool's tests share: draining streams, and running a script in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from adjourn.completion.segments import SpoolReader, Stream
from adjourn.completion.spool import Spool


def drain(stream: Stream, *, ack: bool = True) -> tuple[list[tuple[int, bytes]], list[tuple[bytes, str]]]:
    """Everything that the stream has now: (records, torn)."""
    records: list[tuple[int, bytes]] = []
    torn: list[tuple[bytes, str]] = []
    while True:
        chunk = stream.read(500, 1 << 20)
        if not chunk.records and not chunk.torn:
            return records, torn
        records += chunk.records
        torn += chunk.torn
        if ack:
            stream.ack(chunk.end)


def live(spool: Spool) -> Stream:
    stream = spool.live_stream()
    assert stream is not None
    return stream


def adopt_all(directory: Path) -> tuple[dict[str, list[tuple[int, bytes]]], list[tuple[bytes, str]]]:
    """Records per producer, and torn lines, of every stream whose owner is dead."""
    records: dict[str, list[tuple[int, bytes]]] = {}
    torn: list[tuple[bytes, str]] = []
    for stream in SpoolReader(directory).claim():
        records[stream.producer], more = drain(stream)
        torn += more
    return records, torn


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Run `script` in a fresh interpreter; `sys.argv[1:]` are the arguments."""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())
