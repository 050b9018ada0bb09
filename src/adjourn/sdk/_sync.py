"""The synchronous client. Generated from _async.py by `python -m adjourn.sdk.generate`: edit that file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType

import msgspec

from adjourn.errors import Unavailable
from adjourn.sdk import _client as client
from adjourn.sdk._sync_sessions import Sessions
from adjourn.sdk._sync_wire import Wire
from adjourn.sdk.models import EventAnswer, MetricsAnswer, SendAnswer


class Client:
    """Speaks to one Adjourn server. Make one and keep it: it holds connections open.

        with Client("http://127.0.0.1:8700", key) as adjourn:
            answer = adjourn.send([b'{"session": {"session_id": "sess_1"}}'])

    Every method raises a class of `adjourn.errors`, and nothing else, for what the server or the network does."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_ms: int = 30_000,
        compress: bool = True,
        retries: int | None = client.RETRIES,
    ) -> None:
        """`timeout_ms` bounds each wait: for the connection, and for the answer to one try. `retries` is how often a
        request is tried again; None is until it is answered. Raises ConfigInvalid."""
        self._wire = Wire(client.server_of(url, key), timeout_ms=timeout_ms, retries=retries)
        self._compress = compress
        self.sessions = Sessions(self._wire)
        """Sessions that the server hosts, and those that it watches."""

    def __repr__(self) -> str:
        return f"Client({self._wire.server.url!r})"

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. Idempotent."""
        self._wire.close()

    def send(self, events: Sequence[bytes], *, producer: str = "", first_sequence: int = 0) -> SendAnswer:
        """Send events, each a JSON object on one line, in one request; returns when all of them are durable.

        What fails for a time is sent again: the server knows a resend by its event ids, within its dedupe window. A
        `producer` that numbers its events from 1 without gaps (`first_sequence` is the number of the first) is known
        again however late. No events are answered without asking.

        Raises EventInvalid and BodyInvalid before anything is sent; Unauthenticated, Forbidden, BodyTooLarge,
        MediaTypeUnsupported, BodyInvalid as the server says; TooBusy, Unavailable, StorageFull after the last try."""
        request = client.send_request(events, producer=producer, first_sequence=first_sequence, compress=self._compress)
        if not events:
            return SendAnswer()
        answer = self._wire.answer(request)
        return client.decode_sent(self._wire.server, answer, len(events))

    def event(self, event_id: str) -> EventAnswer:
        """One event of the key's tenant. Raises NotFound."""
        answer = self._wire.answer(client.Request("GET", client.event_path(event_id)))
        return client.decode(self._wire.server, answer, EventAnswer)

    def metrics(self) -> MetricsAnswer:
        """Counts and latencies since the server's process started."""
        answer = self._wire.answer(client.Request("GET", "/v1/metrics"))
        return client.decode(self._wire.server, answer, MetricsAnswer)

    def ready(self) -> bool:
        """Whether the server takes events now: one try. False where nothing answers, or where it says that it does not.

        Raises Unavailable where something else than Adjourn answers."""
        try:
            answer = self._wire.once(client.Request("GET", "/readyz"))
        except Unavailable:
            return False
        if answer.status == 503:
            return False
        if not answer.ok:
            raise self._wire.refusal(answer)
        client.decode(self._wire.server, answer, object)
        return True

    def request(
        self, method: str, path: str, *, query: Mapping[str, str | int] | None = None, json: object = None
    ) -> object:
        """Any other route: its answer as JSON values, None where it has no body; `msgspec.convert` makes types of them.

        Only GET is tried again: of the others it is not known whether a second time would do it twice."""
        headers: dict[str, str] = {}
        body = None
        if json is not None:
            headers, body = {"content-type": "application/json"}, msgspec.json.encode(json)
        request = client.Request(method.upper(), f"/{path.lstrip('/')}", headers, body, query)
        answer = self._wire.answer(request, again="always" if request.method == "GET" else "never")
        return client.decode(self._wire.server, answer, object) if answer.body else None
