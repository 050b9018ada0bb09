"""The synchronous client. Generated from _async_wire.py by `python -m adjourn.sdk.generate`: edit that file."""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

from adjourn.clock import Clock, SystemClock
from adjourn.errors import AdjournError, Unavailable
from adjourn.sdk import _client as client
from adjourn.sdk._sessions import SILENCE_S

T = TypeVar("T")


class Wire:
    """Connections to one server. What may pass is tried again."""

    def __init__(self, server: client.Server, *, timeout_ms: int, retries: int | None) -> None:
        """Raises ConfigInvalid."""
        # Here, not above: it takes a tenth of a second, which `import adjourn` need not cost those who never send.
        import httpx

        client.check_options(timeout_ms, retries)
        self.server = server
        self.retries = retries
        self._timeout_ms = timeout_ms
        self._clock: Clock = SystemClock()
        self._http = httpx.Client(
            headers=server.headers(),
            timeout=timeout_ms / 1000,
            trust_env=not server.is_loopback,  # no proxy knows the way to this machine's own loopback
            follow_redirects=False,  # the key goes where it was meant to go, and nowhere else
        )

    def close(self) -> None:
        """Idempotent."""
        self._http.close()

    def ask(
        self,
        request: client.Request,
        kind: type[T],
        *,
        again: client.Again = "always",
        tries: client.Tries | None = None,
    ) -> T:
        """The answer, as a type of it."""
        return client.decode(self.server, self.answer(request, again=again, tries=tries), kind)

    def answer(
        self, request: client.Request, *, again: client.Again = "always", tries: client.Tries | None = None
    ) -> client.Answer:
        """The answer, if it is 2xx; else its error, once it does not help to try `again`."""
        tries = tries or client.Tries()
        while True:
            tries.count += 1
            error: AdjournError
            status = 0
            try:
                answer = self.once(request)
            except Unavailable as unanswered:
                error = unanswered
            else:
                if answer.ok:
                    return answer
                error, status = self.refusal(answer), answer.status
            self.wait(error, status, again, tries)

    def wait(self, error: AdjournError, status: int, again: client.Again, tries: client.Tries) -> None:
        """Until the next try; raises the error where there is none. `status` is 0 where nothing was answered."""
        if status and not client.may_pass(error, status):
            raise error
        unsure = client.is_unsure(error, status)
        tries.unsure = tries.unsure or unsure
        given_up = self.retries is not None and tries.count > self.retries
        if given_up or again == "never" or (again == "undone" and unsure):
            raise client.given_up(error, tries.count)
        time.sleep(client.retry_delay_ms(tries.count, random.random(), error.retry_after_ms) / 1000)

    def once(self, request: client.Request) -> client.Answer:
        """Whatever is answered. Raises Unavailable where nothing is."""
        import httpx

        try:
            response = self._http.request(
                request.method,
                self.server.url + request.path,
                content=request.body,
                headers=request.headers,
                params=request.query,
            )
        except (httpx.InvalidURL, httpx.RequestError) as error:
            raise self._failure(request, error) from None
        return client.Answer(response.status_code, response.headers, response.content)

    @contextmanager
    def lines(
        self,
        request: client.Request,
    ) -> Generator[Iterator[str] | client.Answer]:
        """The lines of a stream, as they come; the whole answer where it is none. Raises Unavailable, inside too."""
        import httpx

        timeout = httpx.Timeout(self._timeout_ms / 1000, read=max(self._timeout_ms / 1000, SILENCE_S))
        try:
            with self._http.stream(
                request.method,
                self.server.url + request.path,
                content=request.body,
                headers={**request.headers, "accept": "text/event-stream"},
                params=request.query,
                timeout=timeout,
            ) as response:
                if response.status_code == 200 and client.is_stream(response.headers):
                    yield response.iter_lines()
                else:
                    body = response.read()
                    yield client.Answer(response.status_code, response.headers, body)
        except (httpx.InvalidURL, httpx.RequestError) as error:
            raise self._failure(request, error) from None

    def refusal(self, answer: client.Answer) -> AdjournError:
        return client.refusal(self.server, answer, self._clock.wall_ms())

    def no_stream(self, answer: client.Answer) -> AdjournError:
        """What an answer stands for where a stream was asked for."""
        return client.no_stream(self.server, answer) if answer.ok else self.refusal(answer)

    def _failure(self, request: client.Request, error: Exception) -> AdjournError:
        import httpx

        if isinstance(error, httpx.InvalidURL):
            return client.bad_url(f"{self.server.url + request.path!r} is no URL ({error}); check host and path")
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return client.nothing_answers(self.server, str(error))
        if isinstance(error, httpx.TimeoutException):
            return client.too_slow(self.server, self._timeout_ms)
        return client.broken_off(self.server, str(error))
