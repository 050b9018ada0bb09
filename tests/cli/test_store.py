"""Commands open the database of the settings, and do not mistake a wrong directory for an empty database."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "list"],
        ["keys", "revoke", "key_1"],
        ["quarantine", "list"],
        ["quarantine", "show", "qrn_1"],
        ["quarantine", "retry", "--all"],
        ["destinations", "list"],
        ["destinations", "forget", "completions"],
    ],
)
def test_looking_creates_nothing(run: Run, tmp_path: Path, arguments: list[str]) -> None:
    """Where there is no database, a command that looks at one says where it looked, and leaves no empty one behind."""
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"adjourn: there is no database at {tmp_path}/data/adjourn.db; go to the directory")
    assert list(tmp_path.iterdir()) == []


def test_the_first_key_creates_the_database(run: Run, tmp_path: Path) -> None:
    """A key can be made before any server has run."""
    assert run("keys", "create", "--role", "writer").code == 0
    assert (tmp_path / "data" / "adjourn.db").exists()
    assert run("keys", "list").code == 0
