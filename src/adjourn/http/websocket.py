"""WebSocket `/v1/sessions/{id}/ws`: a session's events one way, messages and commands the other, as JSON text.

Browsers can set no header on a WebSocket: they offer two subprotocols, `adjourn.v1` and `adjourn.key.` with the key
behind it, of which the server takes the first. A key in the address would stand in logs.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote, urlsplit

from adjourn.errors import Forbidden, NotFound, Unauthenticated
from adjourn.http.following import Followers
from adjourn.http.protocol import SOCKET_PATH
from adjourn.http.rates import Rates
from adjourn.http.raw import Headers, Message, Receive, Scope, Send, refuse, told
from adjourn.http.session_socket import Socket
from adjourn.node import Node
from adjourn.security.keys import Key

SUBPROTOCOL = "adjourn.v1"
KEY_PREFIX = "adjourn.key."


class Sockets:
    """All of one server."""

    def __init__(self, node: Node, followers: Followers, rates: Rates) -> None:
        self._node = node
        self._rates = rates
        self._followers = followers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # the wish to connect
        try:
            socket = await self._admitted(scope, receive, send)
        except Exception as error:

            async def send_http(message: Message) -> None:
                await send({**message, "type": f"websocket.{message['type']}"})

            await refuse(send_http, told(error, scope["path"]))
            return
        offered = SUBPROTOCOL if SUBPROTOCOL in scope["subprotocols"] else None
        await send({"type": "websocket.accept", "subprotocol": offered})
        await socket.run()

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> Socket:
        """Raises Unauthenticated, Forbidden, RateLimited, NotFound, Unavailable."""
        found = SOCKET_PATH.fullmatch(scope["raw_path"])
        if found is None or b"%00" in found[1]:
            raise NotFound("there is no WebSocket at this address; sessions have theirs at /v1/sessions/{id}/ws")
        session_id = unquote(found[1].decode("latin-1"))
        headers = Headers(scope["headers"])
        authorization = authorization_of(headers.get("authorization", ""), scope["subprotocols"])
        if not authorization:
            _check_origin(headers)
        key = await self._checked(authorization)
        await self._rates.admit(self._node, key, session_id)
        self._followers.admit()
        await self._node.sessions.get(key.tenant, session_id)
        return Socket(self._node, self._followers, self._rates, key.tenant, session_id, authorization, receive, send)

    async def _checked(self, authorization: str) -> Key:
        try:
            return await self._node.keys.check(authorization, "sessions:read")
        except Unauthenticated:
            if authorization:
                raise
            raise Unauthenticated(
                "a WebSocket needs a key; send it as 'Authorization: Bearer adj_…', or from a browser as the "
                f"subprotocol {KEY_PREFIX}adj_…, beside {SUBPROTOCOL}"
            ) from None


def authorization_of(header: str, subprotocols: Iterable[str]) -> str:
    """As the header has it; without one, as a browser says it."""
    keys = [offered.removeprefix(KEY_PREFIX) for offered in subprotocols if offered.startswith(KEY_PREFIX)]
    return header or (f"Bearer {keys[0]}" if keys else "")


def _check_origin(headers: Headers) -> None:
    """Where no key is needed, any page that its user visits could talk to the sessions: browsers let every page open
    WebSockets everywhere, and say only which one it was. Raises Forbidden."""
    origin = headers.get("origin", "")
    if origin and urlsplit(origin).netloc != headers.get("host", ""):
        raise Forbidden(
            f"a page of {origin[:100]} may not open a WebSocket here without a key; offer it as the subprotocol "
            f"{KEY_PREFIX}adj_…"
        )
