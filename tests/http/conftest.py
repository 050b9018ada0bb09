"""Servers that tests of one module share: on SQLite, and on both databases."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from tests import postgres
from tests.http.serving import Serving, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Generator[Serving]:
    """On SQLite."""
    directory = tmp_path_factory.mktemp("server")
    with serving(database_url("sqlite", directory), directory) as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def any_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Serving]:
    """On each database in turn."""
    directory = tmp_path_factory.mktemp("any_server")
    with serving(database_url(request.param, directory), directory) as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def any_database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty one."""
    return database_url(request.param, tmp_path)


def database_url(kind: str, directory: Path) -> str:
    return f"sqlite:///{directory}/a.db" if kind == "sqlite" else postgres.fresh_database()
