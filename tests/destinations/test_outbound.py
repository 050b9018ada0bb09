"""The HTTP client of destinations: where it does not go, what it does with hostile answers, forks, and other loops."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aiohttp import web

from adjourn.destinations.outbound import Outbound
from adjourn.destinations.outbound_answers import Answer
from adjourn.errors import ConfigInvalid, DestinationOutage
from tests.destinations.certificates import certificate_for
from tests.destinations.receiver import LOOPBACK, Receiver, Request, until


def outbound(url: str, **settings: Any) -> Outbound:
    return Outbound(name="out", url=url, headers={}, **{**LOOPBACK, **settings})


async def post(client: Outbound, body: bytes = b"{}") -> Answer:
    return await client.post(body, {})


async def refused(client: Outbound) -> str:
    """The message of the outage that posting ends in."""
    with pytest.raises(DestinationOutage) as caught:
        await post(client)
    await client.close()
    return caught.value.message


# --- where it does not go

ODD_SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0177.0.0.1",
    "0",
    "localhost",
    "LOCALHOST.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[::]",
    "127.0.0.1%2f",
    "①②⑦.⓪.⓪.①",
]


@pytest.mark.parametrize("host", ODD_SPELLINGS)
def test_no_spelling_of_a_private_address_is_connected_to(host: str) -> None:
    """Decimal, octal, hexadecimal, shortened, mapped, in other digits, or by name: nothing reaches a server inside."""

    async def main() -> None:
        async with Receiver(secret="") as receiver:
            try:
                client = outbound(f"http://{host}:{receiver.port}/in", allow_networks=())
            except ConfigInvalid:
                return
            message = await refused(client)
            assert "; " in message
            assert not receiver.connections

    asyncio.run(main())


def test_a_name_that_changes_its_answer_gains_nothing() -> None:
    """DNS rebinding: what was judged is what is connected to, and a name is asked once for each connection; the second
    answer, a private address, is judged anew and refused."""

    async def main() -> None:
        answers = [["127.0.0.2"], ["127.0.0.1"], ["127.0.0.2", "127.0.0.1"]]
        asked: list[str] = []

        async def resolve(host: str, port: int) -> Sequence[str]:
            asked.append(host)
            return answers[len(asked) - 1]

        async with Receiver(secret="", host="127.0.0.2") as outside:
            async with Receiver(secret="", port=outside.port) as inside:
                url = f"http://hooks.example:{outside.port}/in"
                client = outbound(url, resolve=resolve, allow_networks=["127.0.0.2/32"])
                assert (await post(client)).status == 200
                assert (await post(client)).status == 200
                assert len(asked) == 1
                for transport in outside.connections:
                    transport.close()
                await until(lambda: all(t.is_closing() for t in outside.connections))
                await asyncio.sleep(0)
                await client.close()
                assert "hooks.example is at 127.0.0.1, which is loopback" in await refused(client)
                assert (await post(client)).status == 200
                await client.close()
                assert (len(asked), len(outside.requests), len(inside.connections)) == (3, 3, 0)
                assert outside.requests[0].headers["Host"] == f"hooks.example:{outside.port}"

    asyncio.run(main())


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would connect to whatever it is told: the environment's is ignored."""

    async def main() -> None:
        async with Receiver(secret="") as proxy, Receiver(secret="") as receiver:
            for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            client = outbound(receiver.url)
            await post(client)
            await client.close()
            assert (len(proxy.connections), len(receiver.requests)) == (0, 1)

    asyncio.run(main())


def test_what_a_receiver_repeats_shows_no_credentials() -> None:
    """An answer that holds the request's headers or address, as those of debugging aids do, is kept without secrets."""

    async def main() -> bytes:
        def repeat(request: Request) -> web.Response:
            return web.Response(status=400, text=f"{request.headers} of urluser, q-parameter")

        async with Receiver(repeat, secret="") as receiver:
            url = receiver.url.replace("//", "//urluser:urlpass@") + "?token=q-parameter"
            client = Outbound(name="out", url=url, headers={"X-Key": "header-value"}, **LOOPBACK)
            try:
                return (await client.post(b"{}", {"Signed-With": "plain"})).body
            finally:
                await client.close()

    body = asyncio.run(main())
    assert b"X-Key" in body
    for secret in (b"header-value", b"urluser", b"urlpass", b"dXJsdXNlcjp1cmxwYXNz", b"q-parameter"):
        assert secret not in body


def test_plain_http_is_for_those_who_ask_for_it() -> None:
    """A url with http:// is refused unless it is allowed, and one that is no web address in any case."""
    with pytest.raises(ConfigInvalid, match="allow_http"):
        Outbound(name="out", url="http://a.example/", headers={})
    for url in ("ftp://a.example/", "https://", "nothing", "https://a.example:99999/", "file:///etc/passwd"):
        with pytest.raises(ConfigInvalid, match="not a web address"):
            Outbound(name="out", url=url, headers={})


# --- what comes back


def test_a_name_must_be_the_certificate_s(tmp_path: Path) -> None:
    """TLS is verified against the name in the url; the authority of SSL_CERT_FILE counts; no other certificate does."""
    context, authority = certificate_for("hooks.example", tmp_path)
    script = Path(__file__).with_name("post_over_tls.py")

    async def main() -> list[str]:
        async with Receiver(secret="", tls=context) as receiver:
            said: list[str] = []
            for host, file in (("hooks.example", authority), ("other.example", authority), ("hooks.example", None)):
                environ = {**os.environ, "SSL_CERT_FILE": str(file)} if file else dict(os.environ)
                child = await asyncio.create_subprocess_exec(
                    sys.executable, str(script), host, str(receiver.port), env=environ, stdout=subprocess.PIPE
                )
                said.append((await child.communicate())[0].decode().strip())
            assert len(receiver.requests) == 1
            return said

    good, wrong_name, unknown = asyncio.run(main())
    assert good == "200"
    assert "not valid for it" in wrong_name
    assert "not valid for it" in unknown


async def served_raw(answer: bytes, work: Callable[[int], Any], *, hold_open: bool = False) -> Any:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            if hold_open:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        return await work(server.sockets[0].getsockname()[1])


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
    ],
    ids=lambda answer: repr(answer[:40]),
)
def test_what_is_no_http_is_an_outage(answer: bytes) -> None:
    """A server that says nothing, half of something, or something else, is an outage with a remedy."""

    async def work(port: int) -> str:
        return await refused(outbound(f"http://127.0.0.1:{port}/"))

    assert "; " in asyncio.run(served_raw(answer, work))


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    """A receiver that answers with more than anyone would read is cut off; its status counts, its body is bounded."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
        except ConnectionError:
            ended.set()
        return response

    async def main() -> Answer:
        app = web.Application()
        app.router.add_post("/", endless)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        listening = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listening).start()
        client = outbound(f"http://127.0.0.1:{listening.getsockname()[1]}/")
        answer = await post(client)
        await asyncio.wait_for(ended.wait(), 60)
        await client.close()
        await runner.cleanup()
        return answer

    ended = asyncio.Event()
    answer = asyncio.run(main())
    assert (answer.status, len(answer.body)) == (200, 1000)


def test_a_packed_answer_is_not_unpacked() -> None:
    """A bomb of gzip in an answer stays packed."""
    packed = gzip.compress(bytes(10_000_000))
    answer = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(packed), packed)

    async def work(port: int) -> Answer:
        client = outbound(f"http://127.0.0.1:{port}/")
        found = await post(client)
        await client.close()
        return found

    assert asyncio.run(served_raw(answer, work)).body == packed[:1000]


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_who_does_not_answer_in_time_is_an_outage(answer: bytes) -> None:
    """Silence, half an answer and endless patience are bounded by the timeout, and the message names it."""

    async def work(port: int) -> str:
        return await refused(outbound(f"http://127.0.0.1:{port}/", timeout_ms=200))

    assert "has not answered within 0.2 s" in asyncio.run(served_raw(answer, work, hold_open=True))


def test_who_is_not_there_is_an_outage() -> None:
    """A closed port and a name that does not exist are told apart, each with its remedy."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    async def unknown(host: str, _: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    assert "cannot be reached" in asyncio.run(refused(outbound(f"http://127.0.0.1:{port}/")))
    message = asyncio.run(refused(outbound("http://nowhere.example/", resolve=unknown)))
    assert "cannot be resolved" in message


def test_messages_show_neither_path_nor_password() -> None:
    """The path of a url is often the secret: messages name scheme, host and port alone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    message = asyncio.run(refused(outbound(f"http://u:hidden@127.0.0.1:{port}/hooks/hidden?token=hidden")))
    assert "hidden" not in message
    assert f"http://127.0.0.1:{port}" in message


# --- connections


def test_a_connection_that_was_just_closed_is_no_outage() -> None:
    """A receiver that closes a kept connection as the next request comes is sent that request again, at once."""

    async def main() -> None:
        def closing(_: Request) -> int | None:
            return None if len(receiver.requests) == 2 else 200

        async with Receiver(closing, secret="") as receiver:
            client = outbound(receiver.url)
            assert (await post(client)).status == 200
            assert (await post(client)).status == 200
            await client.close()
            assert len(receiver.requests) == 3

    asyncio.run(main())


def test_connections_are_kept_and_closed() -> None:
    """Requests one after the other share a connection; after close it is closed at the receiver too."""

    async def main() -> None:
        async with Receiver(secret="") as receiver:
            client = outbound(receiver.url)
            for size in (10, 100_000, 3_000_000):
                assert (await post(client, b"x" * size)).status == 200
            assert [len(request.body) for request in receiver.requests] == [10, 100_000, 3_000_000]
            assert len(receiver.connections) == 1
            await client.close()
            await client.close()
            await until(lambda: all(t.is_closing() for t in receiver.connections))

    asyncio.run(main())


def test_another_loop_begins_anew() -> None:
    """A destination that was used in a loop that has ended works in the next one."""

    async def main() -> int:
        async with Receiver(secret="") as receiver:
            client.url = client.url.with_port(receiver.port)
            await post(client)
            return len(receiver.requests)

    client = outbound("http://127.0.0.1:1/in")
    assert (asyncio.run(main()), asyncio.run(main())) == (1, 1)


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_fork_disturbs_no_connection(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A child has none of its parent's connections, makes its own, and the parent's goes on."""

    async def child(client: Outbound, inherited: list[str]) -> bool:
        open_now = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)}
        return not open_now & set(inherited) and (await post(client)).status == 200

    async def main() -> None:
        async with Receiver(secret="") as receiver:
            client = outbound(receiver.url)
            await post(client)
            inherited = [os.readlink(f"/proc/self/fd/{made.fileno()}") for made in client._sockets]
            assert len(inherited) == 1
            pid = os.fork()
            if pid == 0:
                ok = False
                try:
                    ok = asyncio.run(child(client, inherited))
                finally:
                    os._exit(0 if ok else 1)
            assert await asyncio.to_thread(_exit_status, pid) == 0
            assert (await post(client)).status == 200
            assert (len(receiver.requests), len(receiver.connections)) == (3, 2)
            await client.close()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main())


def _exit_status(pid: int) -> int:
    return os.waitpid(pid, 0)[1]


def _is_open(fd: str) -> bool:
    try:
        os.fstat(int(fd))
    except OSError:
        return False
    return True
