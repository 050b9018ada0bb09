"""The logfile destination: lines that keep the sender's bytes, rotation, crashes and full disks."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from adjourn.destination import Batch
from adjourn.destinations.logfile import LOGGER_NAME, LogfileDestination, line
from adjourn.errors import ConfigInvalid, DestinationOutage
from adjourn.events import Completion, SessionPart, StoredEvent, decode_event
from adjourn.testing.exercise_destination import Arrived, Sample, exercise_destination
from tests.destinations.conftest import TinyDisk
from tests.destinations.rigs import batch, message_of


def logfile(path: Path, *, level: str | None = None, rotate_bytes: int = 0, keep: int = 3) -> LogfileDestination:
    return LogfileDestination(name="file", path=str(path), level=level, rotate_bytes=rotate_bytes, rotate_keep=keep)


def read(text: bytes) -> list[Arrived]:
    assert text.endswith(b"\n") or not text
    return [arrived(one) for one in text.split(b"\n")[:-1]]


def arrived(text: bytes) -> Arrived:
    facts = json.loads(text)["adjourn"]
    event = decode_event(text)
    assert event.event_id is not None
    completion = event if isinstance(event, Completion) else Completion(session=SessionPart(session_id=""))
    cost = facts["cost_usd"]
    return Arrived(
        tenant=facts["tenant"],
        session_id=event.session.session_id,
        event_id=event.event_id,
        event_type=event.event_type,
        user_id=completion.user.user_id if completion.user else None,
        final_message=message_of(completion),
        cost_nanousd=None if cost is None else int(cost.replace(".", "")),
    )


class FileRig:
    repeats = True
    poison: StoredEvent | None = msgspec.structs.replace(Sample(7).stored(), body=b"[no object]")

    def __init__(self, path: Path, *, rotate_bytes: int) -> None:
        self.path = path
        path.unlink(missing_ok=True)
        for old in path.parent.glob(path.name + ".*"):
            old.unlink()
        self.destination = logfile(path, rotate_bytes=rotate_bytes, keep=1000)

    async def arrived(self) -> Sequence[Arrived]:
        old = sorted(self.path.parent.glob(self.path.name + ".*"), key=lambda p: -int(p.suffix[1:]))
        return [one for file in [*old, self.path] for one in read(file.read_bytes())]

    async def close(self) -> None: ...


class LoggingRig:
    repeats = True
    poison = FileRig.poison

    def __init__(self) -> None:
        self.text = io.StringIO()
        self.handler = logging.StreamHandler(self.text)
        logging.getLogger(LOGGER_NAME).addHandler(self.handler)
        self.destination = LogfileDestination(name="log", path=None, level="info", rotate_bytes=0, rotate_keep=0)

    async def arrived(self) -> Sequence[Arrived]:
        return read(self.text.getvalue().encode())

    async def close(self) -> None:
        logging.getLogger(LOGGER_NAME).removeHandler(self.handler)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger(LOGGER_NAME)
    level, propagate = found.level, found.propagate
    yield found
    found.setLevel(level)
    found.propagate = propagate


@pytest.mark.parametrize("rotate_bytes", [0, 2000, 100_000])
def test_a_file_passes_the_suite(tmp_path: Path, rotate_bytes: int) -> None:
    """A file passes the suite that every destination passes, rotated or not."""
    asyncio.run(exercise_destination(lambda: FileRig(tmp_path / "sessions.jsonl", rotate_bytes=rotate_bytes)))


def test_logging_passes_the_suite(logger: logging.Logger) -> None:
    """Python's logging passes the suite, one record an event."""
    logger.propagate = False
    asyncio.run(exercise_destination(LoggingRig))


def test_a_line_is_the_body_and_the_facts() -> None:
    """The body's bytes stand in the line as they were sent, followed by the object `adjourn`."""
    event = StoredEvent(2, 5, "org", b' {"event_id":"e", "x":1.50e2}\r\n', 1_766_313_045_123, 42_800_000, "sent")
    expected = (
        b'{"event_id":"e","x":1.50e2,"adjourn":{"tenant":"org","received_at":"2025-12-21T10:30:45.123Z",'
        b'"cost_usd":"0.042800000","price_ref":"sent","partition":2,"offset":5,"level":"info"}}\n'
    )
    assert line(event, "info") == expected


def test_a_sender_cannot_speak_for_adjourn() -> None:
    """A sender's own field `adjourn` is kept as `adjourn.sent`; the facts stay Adjourn's."""
    body = b'{"adjourn":{"tenant":"forged","cost_usd":"0"},"event_id":"e"}'
    found = json.loads(line(StoredEvent(0, 0, "org", body, 0, None, "")))
    assert found["adjourn"]["tenant"] == "org"
    assert found["adjourn"]["cost_usd"] is None
    assert found["adjourn"]["sent"] == {"tenant": "forged", "cost_usd": "0"}


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'"{}"', b"[1]", b'{"x":"\xff"}', b'{"x":\n'])
def test_what_is_no_object_is_refused(tmp_path: Path, body: bytes) -> None:
    """A body that cannot be a line is refused for good, and its neighbour is written."""
    good = Sample(1).stored()

    async def send() -> None:
        target = logfile(tmp_path / "log")
        refusals = await target.send(Batch(id="b", events=[msgspec.structs.replace(good, body=body), good]))
        await target.close()
        assert [(refusal.index, refusal.permanent) for refusal in refusals] == [(0, True)]

    asyncio.run(send())
    assert len(read((tmp_path / "log").read_bytes())) == 1


def test_rotation_keeps_as_many_as_it_says(tmp_path: Path) -> None:
    """Files stay under `rotate_bytes`, `rotate_keep` old ones are kept, and the newest events are in them."""
    path = tmp_path / "log"

    async def send() -> None:
        target = logfile(path, rotate_bytes=2000, keep=2)
        for number in range(50):
            await target.send(batch(Sample(number)))
        await target.close()

    asyncio.run(send())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    assert all(p.stat().st_size <= 2000 for p in tmp_path.iterdir())
    kept = [one.event_id for name in ("log.2", "log.1", "log") for one in read((tmp_path / name).read_bytes())]
    assert kept == [f"evt_{n}" for n in range(50 - len(kept), 50)]


def test_keeping_none_leaves_one_file(tmp_path: Path) -> None:
    """With `rotate_keep` 0 a full file is removed, not renamed."""

    async def send() -> None:
        target = logfile(tmp_path / "log", rotate_bytes=1000, keep=0)
        for number in range(10):
            await target.send(batch(Sample(number)))
        await target.close()

    asyncio.run(send())
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


def test_a_file_moved_by_logrotate_is_opened_anew(tmp_path: Path) -> None:
    """After another program moved or removed the file, lines go to a new one at the path."""
    path = tmp_path / "log"

    async def send() -> None:
        target = logfile(path)
        await target.send(batch(Sample(1)))
        path.rename(tmp_path / "log-20251221")
        await target.send(batch(Sample(2)))
        path.unlink()
        await target.send(batch(Sample(3)))
        await target.close()

    asyncio.run(send())
    assert [one.event_id for one in read((tmp_path / "log-20251221").read_bytes())] == ["evt_1"]
    assert [one.event_id for one in read(path.read_bytes())] == ["evt_3"]


def test_a_torn_line_stays_alone(tmp_path: Path) -> None:
    """Half a line that a crash left does not swallow the first line that follows it."""
    path = tmp_path / "log"
    path.write_bytes(b'{"event_id":"half')

    async def send() -> None:
        target = logfile(path)
        await target.send(batch(Sample(1)))
        await target.send(batch(Sample(2)))
        await target.close()

    asyncio.run(send())
    half, *whole = path.read_bytes().split(b"\n")
    assert half == b'{"event_id":"half'
    assert [one.event_id for one in read(b"\n".join(whole))] == ["evt_1", "evt_2"]


def test_a_full_disk_is_an_outage_and_tears_nothing(tiny_disk: TinyDisk) -> None:
    """When the disk fills up no half line stays, and delivery goes on when there is room."""
    path = tiny_disk.path / "log"

    async def fill() -> int:
        target = logfile(path)
        number, fact = 0, ""
        while not fact:
            try:
                await target.send(batch(*(Sample(number * 10 + n, final_message="m" * 1000) for n in range(10))))
            except DestinationOutage as outage:
                fact = outage.message
            else:
                number += 1
        assert re.search(r"space|limit", fact)
        assert len(read(path.read_bytes())) == number * 10
        tiny_disk.make_room()
        assert not await target.send(batch(*(Sample(number * 10 + n) for n in range(10))))
        await target.close()
        return number

    number = asyncio.run(fill())
    assert [one.event_id for one in read(path.read_bytes())] == [f"evt_{n}" for n in range((number + 1) * 10)]


def test_a_bad_path_is_an_outage_with_its_remedy(tmp_path: Path) -> None:
    """A directory, or a path through a file, is an outage that says what to change."""
    (tmp_path / "file").touch()

    async def open_it(path: Path, remedy: str) -> None:
        target = logfile(path)
        for call in (target.open, target.probe):
            with pytest.raises(DestinationOutage, match=remedy):
                await call()
        await target.close()

    asyncio.run(open_it(tmp_path, "name a file in it"))
    asyncio.run(open_it(tmp_path / "file" / "log", "a part of log_path is a file"))


def test_a_line_is_there_after_a_kill(tmp_path: Path) -> None:
    """What `send` returned from is there after SIGKILL, in a directory that was made for it."""
    path = tmp_path / "new" / "log"
    program = f"""
import asyncio, os, signal
from pathlib import Path
from tests.destinations.test_logfile import *
async def main():
    await logfile(Path({str(path)!r})).send(batch(*(Sample(n) for n in range(500))))
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -9
    assert len(read(path.read_bytes())) == 500


def test_logging_at_its_defaults_drops_nothing() -> None:
    """In a program that never configured logging, lines of level info reach stderr."""
    program = """
import asyncio
from adjourn.destinations.logfile import LogfileDestination
from adjourn.testing.exercise_destination import Sample
from adjourn.destination import Batch
async def main():
    target = LogfileDestination(name="log", path=None, level="info", rotate_bytes=0, rotate_keep=0)
    await target.send(Batch(id="b", events=[Sample(1).stored()]))
    await target.close()
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert [one.event_id for one in read(done.stderr)] == ["evt_1"]


def test_a_deaf_logger_is_an_outage(logger: logging.Logger) -> None:
    """A logger that was set above the level holds the backlog instead of dropping it."""
    logger.setLevel(logging.ERROR)

    async def send() -> None:
        target = LogfileDestination(name="log", path=None, level="info", rotate_bytes=0, rotate_keep=0)
        with pytest.raises(DestinationOutage, match="lower its level"):
            await target.send(batch(Sample(1)))
        await target.close()

    asyncio.run(send())


def test_an_unknown_level_is_refused() -> None:
    """A level that logging does not know is refused at once."""
    with pytest.raises(ConfigInvalid, match="use debug, info"):
        LogfileDestination(name="log", path=None, level="loud", rotate_bytes=0, rotate_keep=0)
