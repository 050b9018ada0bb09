"""Settings from a command's options."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run


def test_set_wins_over_the_file(run: Run, tmp_path: Path) -> None:
    """--set wins over the file, and what it does not name stays as the file has it."""
    (tmp_path / "my.yaml").write_text("server: {port: 9001, host: localhost}\n")
    shown = run("config", "show", "--config", "my.yaml", "--set", "server.port=9002").out
    assert "  port: 9002\n" in shown
    assert "  host: localhost\n" in shown


def test_the_file_of_the_directory_is_found(run: Run, tmp_path: Path) -> None:
    """adjourn.yaml of the working directory is read without being named."""
    (tmp_path / "adjourn.yaml").write_text("data_dir: elsewhere\n")
    assert "data_dir: elsewhere\n" in run("config", "show").out


def test_an_assignment_needs_both_sides(run: Run) -> None:
    """--set without `=` is refused with an example."""
    done = run("config", "show", "--set", "server.port")
    assert (done.code, done.out) == (2, "")
    assert "server.port=9000" in done.err
