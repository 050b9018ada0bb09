"""uvicorn's WebSocket protocol; loaded when the first client asks for one, so that a server without pays nothing."""

from __future__ import annotations

import msgspec
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from adjourn.http.stream import COME_BACK_MS

_STOPPING = msgspec.json.encode({"type": "stopping", "retry_after_ms": COME_BACK_MS})


class SocketProtocol(WebSocketsSansIOProtocol):
    async def send(self, message: ASGISendEvent) -> None:
        await super().send(message)
        if self.initial_response is not None and self.close_sent:
            self.handshake_complete = True  # refused, with an answer; uvicorn would log that there was none

    def shutdown(self) -> None:
        """As uvicorn's, which closes with 1012 (service restart); before that, when to come back."""
        if self.handshake_complete and not self.close_sent:
            self.conn.send_text(_STOPPING)
            self.transport.write(b"".join(self.conn.data_to_send()))
        super().shutdown()
