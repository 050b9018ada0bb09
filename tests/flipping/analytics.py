"""What an analytics tool sees of the settings of its destination."""

from __future__ import annotations

import base64
from typing import Any

from tests.faults.rigs import raw
from tests.flipping.rigs import Flipped
from tests.flipping.webhook import received

TOOL: dict[str, Any] = {
    "routing.destinations": [
        {
            "type": "analytics",
            "url": "{receiver}/in",
            "key": "",
            "allow_http": True,
            "allow_networks": ["127.0.0.0/8"],
        }
    ]
}
KEYED: dict[str, Any] = {"routing.destinations": [{**TOOL["routing.destinations"][0], "key": "phc_1"}]}


def form(flip: Flipped) -> str:
    if flip.value == "otlp":
        flip.mapped["routing"]["destinations"][0]["key"] = ""  # it takes none
    body = received(flip, raw("s")).json
    return "log records" if "resourceLogs" in body else "events" if "api_key" in body else "track calls"


def user_of_the_request(flip: Flipped) -> str:
    authorization = received(flip, raw("s")).headers["Authorization"]
    return base64.b64decode(authorization.removeprefix("Basic ")).decode().removesuffix(":")
