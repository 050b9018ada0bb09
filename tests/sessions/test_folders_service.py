"""The folders that triggers watch: which they may be, and that a disk that hangs keeps no other waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import msgspec
import pytest
from tests.sessions.triggering import KINDS, Rig, put_file, rigged

from adjourn.errors import TriggerInvalid
from adjourn.sessions import folders_service
from adjourn.sessions.triggers import File, FileTrigger, IntervalTrigger

EVERY = IntervalTrigger(name="a", prompt="look", every_ms=60_000)
FILES = FileTrigger(name="a", prompt="{files}", path="in", every_ms=1_000)
PATIENCE_S = 60


@KINDS
def test_a_folder_outside_is_watched_where_the_setting_allows_it(tmp_path: Path, kind: str) -> None:
    """A tenant's own, by its name; its files are told with their whole path, and another tenant's are refused."""

    async def work(rig: Rig) -> None:
        rig.triggers = rig.node(folders=(f"{tmp_path}/mail/{{tenant}}",))
        for part in ("new", "cur", "tmp"):
            (tmp_path / "mail" / "t" / part).mkdir(parents=True)
        await rig.session()
        with pytest.raises(TriggerInvalid, match="watch_folders"):
            await rig.put(msgspec.structs.replace(FILES, path=f"{tmp_path}/mail/other"))
        await rig.put(msgspec.structs.replace(FILES, path=f"{tmp_path}/mail/t"))
        (tmp_path / "mail" / "t" / "new" / "1.M1.host").write_text("Subject: hello")
        await rig.later(1)
        assert rig.door.prompts == [f"{tmp_path}/mail/t/new/1.M1.host"]
        await rig.later(1, rig.node())  # a node whose setting does not allow it any more
        assert "watch_folders" in (await rig.kept()).seen.error

    rigged(kind, tmp_path, work)


@KINDS
def test_a_disk_that_hangs_keeps_no_other_waiting(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trigger that watches it is told so, and goes on when the disk answers; it is not read twice at once."""
    monkeypatch.setattr(folders_service, "READ_S_MAX", 0.05)
    answers, reading = threading.Event(), list[str]()
    real = folders_service.found

    def found(base: str, names: list[str], shown: str, now_ms: int) -> list[File]:
        if names == ["hangs"]:
            reading.append(base)
            answers.wait(PATIENCE_S)
        return real(base, names, shown, now_ms)

    monkeypatch.setattr(folders_service, "found", found)

    async def work(rig: Rig) -> None:
        await rig.session()
        await rig.put(msgspec.structs.replace(FILES, name="h", path="hangs"))
        await rig.put(EVERY)
        put_file(rig, "hangs/one")
        for _ in range(3):
            await rig.later(60)
        assert len(reading) == 1
        assert len(rig.door.begun) == 3
        assert "cannot be read" in (await rig.kept("h")).seen.error
        answers.set()
        deadline = time.monotonic() + PATIENCE_S
        while "hangs/one" not in rig.door.prompts:
            assert time.monotonic() < deadline
            await rig.later(1)
            await asyncio.sleep(0.01)
        await rig.later(1)
        assert (await rig.kept("h")).seen.error == ""

    rigged(kind, tmp_path, work)
