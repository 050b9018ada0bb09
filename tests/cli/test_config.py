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
    assert (done.code, done.out) == (1, "")
    assert "bad.yaml:2" in done.err
    assert "bad.yaml:3" in done.err
    assert "did you mean 'host'" in done.err


DESTINATION = "destinations: [{name: later, type: webhook, url: 'https://a.example'%s}]\n"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (", filter: 'usage.total_tokens >'", "the filter, line 1, column 21"),
        (", transform: \"{'a': \"", "the transform, line 1"),
        (", transform: billing_v9", "did you mean 'billing_v1'?"),
        (", transform: billing_v9, enabled: false", "did you mean 'billing_v1'?"),
        (", headers: {x-key: {file: /nowhere/key}}", "cannot be read (No such file or directory); create it"),
        (", signing_secrets: [abc]", "is not a signing secret; give whsec_"),
        ("}, {name: later, type: logfile, log_path: x", "give each its own name"),
        ("}, {name: bad, type: webhook, url: 'https//a.example'", "give https://host/path"),
        (", retrys: 3", "unknown setting 'retrys'"),
    ],
)
def test_what_serve_would_refuse_is_wrong(run: Run, tmp_path: Path, wrong: str, said: str) -> None:
    """A line with place, fact and remedy for each, and exit code 1, whether the file is refused as it is read or when
    what it says is put together."""
    (tmp_path / "wrong.yaml").write_text(DESTINATION % wrong)
    done = run("config", "check", "wrong.yaml")
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert "destinations[" in done.err
    assert said in done.err


def test_what_cannot_be_looked_at_is_not_done(run: Run, tmp_path: Path) -> None:
    """No file is exit code 2; one that holds something else is wrong, and 1."""
    assert run("config", "check", "missing.yaml").code == 2
    (tmp_path / "latin.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "half.yaml").write_text("server: [\n")
    assert [run("config", "check", name).code for name in ("latin.yaml", "half.yaml")] == [1, 1]


def test_secrets_are_masked(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """config show names where a secret comes from, never the secret."""
    monkeypatch.setenv("MY_DB", "postgresql://u:hunter2@h/d")
    (tmp_path / "adjourn.yaml").write_text("database: {url: '${MY_DB}'}\n")
    shown = run("config", "show").out
    assert "hunter2" not in shown
    assert "env MY_DB" in shown
