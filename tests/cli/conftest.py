"""Commands run in this process, through `main` as the installed script calls it, in a directory of their own."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from adjourn.cli import main
from adjourn.databases.choose import store_for


class Done(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as it is when it was just made: making one takes most of a second."""
    file = tmp_path_factory.mktemp("database") / "adjourn.db"
    store_for(f"sqlite:///{file}").prepare()
    return file


@pytest.fixture
def database(new_database: Path, tmp_path: Path) -> Path:
    """A new database, where the settings expect it."""
    (tmp_path / "data").mkdir()
    return Path(shutil.copy(new_database, tmp_path / "data" / "adjourn.db"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """`run("keys", "list")`: exit code, standard output, standard error."""
    for name in [name for name in os.environ if name.startswith("ADJOURN_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    root, adjourn = logging.getLogger(), logging.getLogger("adjourn")
    kept = root.handlers[:], root.level, adjourn.level

    def run_here(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["adjourn", *arguments])
        capfd.readouterr()
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        return Done(code, *capfd.readouterr())

    yield run_here
    root.handlers[:] = kept[0]
    root.setLevel(kept[1])
    adjourn.setLevel(kept[2])
