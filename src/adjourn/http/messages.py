"""`/v1/sessions/{id}/messages`: a turn, as its answer or as it happens; a message alone; the conversation."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, cast
from urllib.parse import unquote

from litestar import Request, post
from litestar.params import FromPath, HeaderParameter
from litestar.types import ASGIApp, Receive, Scope, Send

from adjourn.errors import AdjournError, BodyInvalid
from adjourn.http.auth import requires
from adjourn.http.conversation import list_messages
from adjourn.http.decoding import decode
from adjourn.http.protocol import SAID_ALL, SAID_ALL_IS_GONE
from adjourn.http.raw import Headers, refuse, respond, told
from adjourn.http.reading import BodyReader, Gone, Held
from adjourn.http.session_events import Following, SessionStream, check_place, place
from adjourn.http.session_views import AnswerView, Appended
from adjourn.http.stopping import Stop
from adjourn.http.watched import IDEMPOTENCY_KEY_LENGTH_MAX
from adjourn.http.whole import Body, encode
from adjourn.sessions import turn_rows
from adjourn.sessions.session import Session
from adjourn.sessions.turn import Message, TurnResult

AnyRequest = Request[Any, Any, Any]

_JSON = b"application/json"


def messages_reader(bytes_max: int) -> BodyReader:
    """For messages, which may be longer than what other routes take."""
    return BodyReader(bytes_max, remedy="send a shorter message")


@post(
    "/v1/sessions/{session_id:str}/messages",
    guards=[requires("sessions:write")],
    status_code=200,
    request_max_body_size=None,  # it is read here, within server.body_mb_max
    summary="Run a turn: JSON when it has ended, or server-sent events as it happens; or only append",
)
async def post_message(
    request: AnyRequest,
    session_id: FromPath[str],
    idempotency_key: Annotated[
        str, HeaderParameter(name="Idempotency-Key", max_length=IDEMPOTENCY_KEY_LENGTH_MAX)
    ] = "",
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID", max_length=64)] = None,
) -> ASGIApp:
    reader: BodyReader = request.app.state.messages_reader
    following = Following(request, unquote(session_id), "sessions:write")
    try:
        with Held(reader) as held:
            body = await reader.read(Headers(request.scope["headers"]), cast(Any, request.receive), held)
            message = decode(body, Message)
    except Gone:
        return _nobody
    if not message.run:
        return await _append(following, message)
    if message.stream:
        following.followers.admit()  # before the turn begins
    elif not await _stops(following, message):
        answer = await following.node.sessions.send(
            following.tenant, following.session_id, message, idempotency_key=idempotency_key
        )
        return Body(encode(AnswerView.of(answer)))
    wanted = place(last_event_id, 0)
    session = await following.node.sessions.get(following.tenant, following.session_id)
    turn = await following.node.sessions.begin(
        following.tenant, following.session_id, message, idempotency_key=idempotency_key
    )
    if not message.stream:
        return Waiting(following, turn.turn_id)
    live = turn.status in ("queued", "running")
    if not live:  # the same call was made before
        check_place(session, wanted)
    after = await _place_of(following, turn, session)
    stops = (message.on_disconnect or session.described.on_disconnect) == "stop"
    stop = _stop(following, turn.turn_id) if stops else None
    return SessionStream(following, max(wanted, after), turn.turn_id, begun=wanted > after, live=live, on_gone=stop)


async def _append(following: Following, message: Message) -> ASGIApp:
    if message.stream:
        raise BodyInvalid(
            "stream: a message that is only appended has no turn to stream; leave one away", path="stream"
        )
    message_id, seq = await following.node.sessions.append(following.tenant, following.session_id, message)
    return Body(encode(Appended(message_id, seq)), status=201)


async def _stops(following: Following, message: Message) -> bool:
    """Whether the turn ends when its client hangs up."""
    if message.on_disconnect is not None:
        return message.on_disconnect == "stop"
    session = await following.node.sessions.get(following.tenant, following.session_id)
    return session.described.on_disconnect == "stop"


async def _place_of(following: Following, turn: TurnResult, before: Session) -> int:
    """The number of the event before the turn's first. `before` is the session as it was before the turn was asked
    for: what waits for its turn has no event yet."""
    row = await following.node.database.read(turn_rows.find, following.tenant, turn.turn_id)
    return row.first_event - 1 if row is not None and row.first_event else before.events


def _stop(following: Following, turn_id: str) -> Stop:
    return Stop(following.node, following.followers, following.tenant, following.session_id, turn_id)


async def _nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """The client hung up before it had sent all: nobody to answer, nothing to do."""


class Waiting:
    """The answer to a turn that ends when its client hangs up."""

    def __init__(self, following: Following, turn_id: str) -> None:
        self._following = following
        self._turn_id = turn_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        state = cast("dict[str, object]", scope["state"])
        state[SAID_ALL_IS_GONE] = True
        if state.get(SAID_ALL):  # before this was known
            await _stop(self._following, self._turn_id)()
            return
        answering = asyncio.create_task(self._answer(), name="turn-wait")
        listening = asyncio.create_task(_hung_up(receive), name="turn-listen")
        try:
            await asyncio.wait({answering, listening}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                await _stop(self._following, self._turn_id)()
                return
            try:
                body = answering.result()
            except AdjournError as error:
                await refuse(send, told(error, "messages"))  # type: ignore[arg-type]  # the framework's own type of it
            else:
                await respond(send, 200, _JSON, body)  # type: ignore[arg-type]  # the framework's own type of it
        finally:
            answering.cancel()
            listening.cancel()
            await asyncio.gather(answering, listening, return_exceptions=True)

    async def _answer(self) -> bytes:
        following = self._following
        answer = await following.node.sessions.answer(following.tenant, following.session_id, self._turn_id)
        return encode(AnswerView.of(answer))


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


MESSAGE_ROUTES = [post_message, list_messages]
