"""`adjourn config`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Run


def test_a_good_file_is_good(run: Run, tmp_path: Path) -> None:
    """A file without problems ends with 0, and nothing was started or created."""
    (tmp_path / "good.yaml").write_text("server: {port: 9001}\n")
    assert run("config", "check", "good.yaml") == (0, "good.yaml: good\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["good.yaml"]


def test_all_problems_are_told_at_once(run: Run, tmp_path: Path) -> None:
    """Each problem is a line that names its place in the file."""
    (tmp_path / "bad.yaml").write_text("server:\n  port: many\n  hots: x\n")
    done = run("config", "check", "bad.yaml")
    assert done.code == 2
    assert "bad.yaml:2" in done.err
    assert "bad.yaml:3" in done.err
    assert "did you mean 'host'" in done.err


def test_a_destination_that_cannot_be_served_yet_is_told(run: Run, tmp_path: Path) -> None:
    """What loads and would be refused by serve is good, with a warning."""
    (tmp_path / "later.yaml").write_text("destinations: [{name: later, url: 'https://a.example', transform: t}]\n")
    done = run("config", "check", "later.yaml")
    assert (done.code, done.out) == (0, "later.yaml: good\n")
    assert "'later'" in done.err


def test_secrets_are_masked(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """config show names where a secret comes from, never the secret."""
    monkeypatch.setenv("MY_DB", "postgresql://u:hunter2@h/d")
    (tmp_path / "adjourn.yaml").write_text("database: {url: '${MY_DB}'}\n")
    shown = run("config", "show").out
    assert "hunter2" not in shown
    assert "env MY_DB" in shown
