"""One model server and one gateway for the tests of a module; their sessions are told apart by API key."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import httpx
import pytest
from tests.gateway.gatewaying import Gateway, gateway, until
from tests.gateway.model_server import ModelServer, model_server


class Pair(NamedTuple):
    model: ModelServer
    gateway: Gateway

    def end(self, key: str, session_id: str) -> dict[str, Any]:
        """End it explicitly; its completion."""
        answer = httpx.delete(f"{self.gateway.url}/adjourn/sessions/{session_id}", headers={"authorization": key})
        assert answer.status_code == 204, answer.text
        return self.completion(session_id)

    def completion(self, session_id: str) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [c for c in self.gateway.completions() if c["session"]["session_id"] == session_id]

        completions = until(found, f"a completion of {session_id}")
        assert len(completions) == 1
        return completions[0]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Generator[Pair]:
    with model_server() as model, gateway(tmp_path_factory.mktemp("gateway"), model.url) as running:
        yield Pair(model, running)


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    if "pair" in request.fixturenames:
        model: ModelServer = request.getfixturevalue("pair").model
        model.asked.clear()
        model.gone.clear()
        model.go_on.clear()
        model.stalled.clear()
