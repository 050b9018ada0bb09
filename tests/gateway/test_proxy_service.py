"""What passes through a running gateway, and what it makes of it: the real SDKs against a real model server."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import socket
import ssl
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx
import openai
import pytest
from tests.gateway import answers
from tests.gateway.conftest import Pair
from tests.gateway.gatewaying import gateway, until

MESSAGES: Any = [{"role": "user", "content": "Hello!"}]
TEXT = "".join(answers.TEXT)


def openai_client(pair: Pair, key: str, session_id: str, **more: str) -> openai.OpenAI:
    headers = {"x-adjourn-session": session_id, **more}
    return openai.OpenAI(base_url=f"{pair.gateway.url}/v1", api_key=key, default_headers=headers, max_retries=0)


def raw_answer(url: str, method: str, target: str, headers: dict[str, str], body: Any = None) -> tuple[Any, bytes]:
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    connection.request(method, target, body=body, headers=headers)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer, data


# --- the SDKs


def test_openai_calls_of_all_kinds_are_one_session(pair: Pair) -> None:
    """Chat, streamed chat, responses, streamed responses and embeddings give the SDK what the model server gave, and
    one completion with the sum of what they told."""
    client = openai_client(pair, "sk-kinds", "sess_kinds")
    chat = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, user="usr_7")
    assert chat.model_dump(exclude_unset=True) == answers.chat("gpt-4o")
    stream = client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == TEXT
    assert client.responses.create(model="gpt-4o", input="Hello!").output_text == TEXT
    with client.responses.stream(model="gpt-4o", input="Hello!") as events:
        assert events.get_final_response().output_text == TEXT
    assert len(client.embeddings.create(model="text-embedding-3-small", input="a").data) == 1
    found = pair.end("Bearer sk-kinds", "sess_kinds")
    usage = found["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (19 + 19 + 36 + 36 + 8, 10 + 10 + 87 + 87)
    assert usage["cache_read_input_tokens"] == 4 + 4 + 6 + 6
    assert usage["reasoning_output_tokens"] == 3 + 3 + 7 + 7
    assert found["outcome"] == {"status": "success"}
    assert found["session"]["session_type"] == "chat"
    assert found["metadata"]["source"] == "gateway"
    tag = found["metadata"]["custom_tags"]["gateway"]
    assert (tag["calls"], tag["failed_calls"], tag["calls_without_usage"]) == (5, 0, 0)
    assert set(tag["models"]) == {"gpt-4o-2024-08-06", "gpt-4o", "text-embedding-3-small"}
    assert tag["models"]["gpt-4o"]["cost_usd"] > 0
    assert tag["models"]["text-embedding-3-small"]["cost_usd"] is None
    assert "model" not in usage, "with one, somebody would price the embeddings as chat"
    assert found["adjourn"]["cost_usd"] is None


def test_anthropic_calls_count_cached_input(pair: Pair) -> None:
    """Messages, whole and streamed, give the SDK what was sent; input includes what was read from and written to the
    cache, and the cumulative counts of a stream are not added up."""
    client = anthropic.Anthropic(
        base_url=pair.gateway.url, api_key="sk-ant", default_headers={"x-adjourn-session": "sess_ant"}
    )
    whole = client.messages.create(model="claude-opus-4-6", max_tokens=64, messages=MESSAGES)
    assert whole.model_dump(exclude_unset=True) == answers.message("claude-opus-4-6")
    with client.messages.stream(model="claude-opus-4-6", max_tokens=64, messages=MESSAGES) as stream:
        assert "".join(stream.text_stream) == TEXT
    headers = {"x-api-key": "sk-ant"}
    assert httpx.delete(f"{pair.gateway.url}/adjourn/sessions/sess_ant", headers=headers).status_code == 204
    found = pair.completion("sess_ant")
    assert found["usage"]["input_tokens"] == 2 * 1125
    assert found["usage"]["output_tokens"] == 2 * 15
    assert found["usage"]["cache_read_input_tokens"] == 2000
    assert found["usage"]["cache_creation_input_tokens"] == 200
    assert found["metadata"]["custom_tags"]["gateway"]["finish_reason"] == "end_turn"


def test_async_clients_at_once(pair: Pair) -> None:
    """Forty streams at the same time, of both SDKs, each arrive whole, and are one session each."""

    async def both(number: int) -> None:
        headers = {"x-adjourn-session": f"sess_at_once_{number}"}
        async with (
            openai.AsyncOpenAI(base_url=f"{pair.gateway.url}/v1", api_key="k", default_headers=headers) as one,
            anthropic.AsyncAnthropic(base_url=pair.gateway.url, auth_token="k", default_headers=headers) as other,
        ):
            chunks = await one.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
            assert "".join([c.choices[0].delta.content or "" async for c in chunks]) == TEXT
            async with other.messages.stream(model="claude-opus-4-6", max_tokens=9, messages=MESSAGES) as stream:
                assert await stream.get_final_text() == TEXT

    async def all_of_them() -> None:
        await asyncio.gather(*(both(number) for number in range(20)))

    asyncio.run(all_of_them())
    for number in range(20):
        found = pair.end("Bearer k", f"sess_at_once_{number}")
        assert found["usage"]["input_tokens"] == 1125, "the chat did not say its own"
        assert found["metadata"]["custom_tags"]["gateway"]["calls_without_usage"] == 1


# --- unchanged


def test_requests_and_answers_pass_byte_for_byte(pair: Pair) -> None:
    """Method, target, headers and body reach the upstream as they were sent, status, headers and body come back; only
    what belongs to one connection and what is for the gateway is left out."""
    headers = {
        "Authorization": "Bearer sk-bytes",
        "X-Custom": "  two  words ",
        "Accept-Encoding": "identity;q=0.5",
        "Connection": "x-private",
        "X-Private": "1",
        "X-Adjourn-Session": "sess_bytes",
        "Content-Type": "text/weird",
    }
    target = "/v1/any%2Fthing/../x?q=%20a&q=b%2B&empty"
    for url in (pair.model.url, pair.gateway.url):
        answer, data = raw_answer(url, "PATCH", target, headers, b"\x00\xff{not json")
        assert (answer.status, json.loads(data)["path"]) == (418, "/v1/any/thing/../x")
        assert [v for n, v in answer.getheaders() if n.lower() == "set-cookie"] == ["a=1", "b=2"]
    direct, passed = pair.model.asked
    assert (passed.method, passed.target, passed.body) == (direct.method, direct.target, direct.body)
    own = {b"connection", b"x-private", b"x-adjourn-session", b"host"}
    assert sorted(h for h in passed.headers if h[0] != b"host") == sorted(h for h in direct.headers if h[0] not in own)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS", "PUT", "POST"])
def test_every_method_passes(pair: Pair, method: str) -> None:
    """Whatever the method, with no body or an empty one, answer and headers are those of the upstream."""
    direct = httpx.request(method, f"{pair.model.url}/v1/models?x=1", headers={"date": "x"})
    passed = httpx.request(method, f"{pair.gateway.url}/v1/models?x=1", headers={"date": "x"})
    ignored = {"date", "server"}
    assert (passed.status_code, passed.content) == (direct.status_code, direct.content)
    assert {n: v for n, v in passed.headers.items() if n not in ignored} == {
        n: v for n, v in direct.headers.items() if n not in ignored
    }
    assert pair.model.asked[0].method == pair.model.asked[1].method == method
    # aiohttp says explicitly that a DELETE has no body.
    ignored_names = {b"connection", *([b"content-length"] if method == "DELETE" else [])}
    direct_names, passed_names = ([n for n, _ in a.headers if n not in ignored_names] for a in pair.model.asked)
    assert passed_names == direct_names


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_compressed_answers_pass_and_are_read(pair: Pair, encoding: str) -> None:
    """The compressed bytes pass as they are, and the tokens that they tell are counted."""
    headers = {
        "authorization": "z",
        "x-adjourn-session": f"sess_{encoding}",
        "x-want-encoding": encoding,
        "content-type": "application/json",
    }
    body = json.dumps({"model": "gpt-4o", "messages": MESSAGES})
    direct, expected = raw_answer(pair.model.url, "POST", "/v1/chat/completions", headers, body)
    passed, data = raw_answer(pair.gateway.url, "POST", "/v1/chat/completions", headers, body)
    assert passed.getheader("content-encoding") == encoding
    assert passed.getheader("content-length") == str(len(expected))
    assert (len(data), data[:1]) == (len(expected), expected[:1]), "gzip's header has the time in it"
    assert direct.status == passed.status
    assert pair.end("z", f"sess_{encoding}")["usage"]["input_tokens"] == 19


@pytest.mark.parametrize(
    ("status", "path"), [(429, "/v1/chat/completions"), (529, "/v1/messages"), (504, "/v1/messages")]
)
def test_errors_of_the_upstream_pass(pair: Pair, status: int, path: str) -> None:
    """Status, body and headers of a refusal are the upstream's, and the completion names its code."""
    body = json.dumps({"model": f"status-{status}", "messages": MESSAGES})
    session_id = f"sess_status_{status}"
    headers = {"authorization": "e", "x-adjourn-session": session_id, "x-adjourn-session-end": "1"}
    answer, data = raw_answer(pair.gateway.url, "POST", path, headers, body)
    assert answer.status == status
    assert json.loads(data) == (answers.ANTHROPIC_ERROR if "messages" in path else answers.OPENAI_ERROR)
    assert answer.getheader("retry-after") == "7"
    code = "overloaded_error" if "messages" in path else "rate_limit_exceeded"
    found = pair.completion(session_id)
    assert found["outcome"] == {"status": "timeout" if status == 504 else "error", "error_code": code}
    assert "usage" not in found, "nothing was told, nothing is invented"


def test_a_body_of_64_mb_passes_in_parts(pair: Pair) -> None:
    """A body far larger than what is held of one reaches the upstream whole, chunked or not, while memory stays."""
    size = 64_000_000

    def parts() -> Any:
        for _ in range(640):
            yield b"x" * 100_000

    before = rss_mb(pair.gateway.process.pid)
    for headers in ({}, {"content-length": str(size)}):
        answer = httpx.post(f"{pair.gateway.url}/v1/chat/completions", content=parts(), headers=headers, timeout=60)
        assert answer.status_code == 200
    assert [len(asked.body) for asked in pair.model.asked] == [size, size]
    assert rss_mb(pair.gateway.process.pid) - before < 50


def test_a_compressed_request_is_read_too(pair: Pair) -> None:
    """A request that comes compressed goes on compressed, and belongs to the session that it names."""
    body = gzip.compress(json.dumps({"model": "gpt-4o", "metadata": {"session_id": "sess_packed"}}).encode())
    headers = {"authorization": "p", "content-encoding": "gzip"}
    httpx.post(f"{pair.gateway.url}/v1/chat/completions", content=body, headers=headers).raise_for_status()
    assert pair.model.asked[0].body == body
    assert pair.end("p", "sess_packed")["usage"]["output_tokens"] == 10


# --- streams


def test_events_pass_at_once(pair: Pair) -> None:
    """While the upstream is silent in the middle of a stream, the client has had all that came before."""
    client = openai_client(pair, "sk-stall", "sess_stall")
    stream = client.chat.completions.create(model="stall", messages=MESSAGES, stream=True)
    seen = [next(stream).choices[0].delta.content for _ in range(4)]
    assert seen == ["", *answers.TEXT[:3]]
    assert pair.model.stalled.wait(60)
    pair.model.go_on.set()
    assert [c.choices[0].delta.content for c in stream] == [*answers.TEXT[3:], None]


def test_a_client_that_goes_cancels_the_upstream(pair: Pair) -> None:
    """The upstream's connection ends as soon as the client's does; the session ends as `user_terminated`, with what the
    stream had told until then."""
    headers = {"x-adjourn-session": "sess_gone", "x-adjourn-session-end": "1"}
    client = anthropic.Anthropic(base_url=pair.gateway.url, auth_token="g", default_headers=headers)
    with client.messages.stream(model="stall", max_tokens=9, messages=MESSAGES) as stream:
        next(iter(stream))
        assert pair.model.stalled.wait(60)
    client.close()
    assert pair.model.gone.wait(60)
    found = pair.completion("sess_gone")
    assert found["outcome"] == {"status": "user_terminated", "error_code": "client_disconnected"}
    assert (found["usage"]["input_tokens"], found["usage"]["output_tokens"]) == (1125, 1)


def test_a_client_that_goes_before_the_answer_cancels_the_upstream(pair: Pair) -> None:
    """It need not have had a byte of the answer."""
    parts = urlsplit(pair.gateway.url)
    body = json.dumps({"model": "stall", "stream": True}).encode()
    with socket.create_connection((parts.hostname or "", parts.port or 0)) as line:
        head = "POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-adjourn-session: sess_early\r\nx-adjourn-session-end: 1\r\n"
        line.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        assert pair.model.stalled.wait(60)
    assert pair.model.gone.wait(60)
    assert pair.completion("sess_early")["outcome"]["status"] == "user_terminated"


def test_an_upstream_that_breaks_off_is_passed_on(pair: Pair) -> None:
    """A stream that lacks its end arrives without its end, not as one that is whole."""
    client = openai_client(pair, "sk-break", "sess_break")
    stream = client.chat.completions.create(model="break", messages=MESSAGES, stream=True)
    with pytest.raises((httpx.RemoteProtocolError, openai.APIError)):
        list(stream)
    found = pair.end("Bearer sk-break", "sess_break")
    assert found["outcome"] == {"status": "error", "error_code": "upstream_disconnected"}


def test_a_slow_reader_slows_the_upstream(pair: Pair) -> None:
    """Of 200 MB that nobody reads the gateway holds next to nothing: the upstream has to wait."""
    before, sent = rss_mb(pair.gateway.process.pid), pair.model.sent_bytes
    with httpx.stream("GET", f"{pair.gateway.url}/v1/flood", timeout=60) as answer:
        chunks = answer.iter_bytes()
        next(chunks)
        until(lambda: pair.model.sent_bytes > sent, "the flood")
        still = -1
        while still != pair.model.sent_bytes:  # until it no longer grows
            still = pair.model.sent_bytes
            threading.Event().wait(0.5)
        assert still - sent < 100_000_000
        assert rss_mb(pair.gateway.process.pid) - before < 50


def rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 1e6


# --- upstreams that are not there


def test_an_upstream_that_is_away_is_a_502(tmp_path: Path) -> None:
    """The problem says what cannot be reached and what to do; the call is a failed one of its session."""
    with gateway(tmp_path, "http://127.0.0.1:1/base") as running:
        headers = {"authorization": "Bearer sk-very-secret", "x-adjourn-session-end": "true"}
        answer = httpx.post(f"{running.url}/v1/chat/completions", json={"model": "gpt-4o"}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (502, "upstream_unreachable")
        assert "http://127.0.0.1:1/base" in answer.json()["detail"]
        found = until(running.completions, "a completion")[0]
        assert found["outcome"] == {"status": "error", "error_code": "upstream_unreachable"}
        _, told = running.stop()
    assert "gateway_upstream_unreachable" in told
    everything = told + "".join(p.read_text("latin-1") for p in tmp_path.rglob("*") if p.is_file())
    assert "very-secret" not in everything, "credentials pass, and are neither logged nor stored"


@pytest.mark.parametrize(
    "nonsense", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 799 Odd\r\ncontent-length: 2\r\n\r\n{}", b""]
)
def test_an_upstream_that_speaks_no_http_is_a_502(tmp_path: Path, nonsense: bytes) -> None:
    """Whatever comes instead of an answer, the client has one, and the session ends."""

    def answer_all() -> None:
        while True:
            try:
                line, _ = listener.accept()
            except OSError:
                return
            with line:
                line.recv(65536)
                line.sendall(nonsense)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_all, daemon=True).start()
        with gateway(tmp_path, f"http://127.0.0.1:{listener.getsockname()[1]}") as running:
            headers = {"x-adjourn-session-end": "1"}
            answer = httpx.post(f"{running.url}/v1/messages", json={"model": "m"}, headers=headers, timeout=60)
            assert (answer.status_code, answer.json()["code"]) == (502, "upstream_unreachable")
            found = until(running.completions, "a completion")[0]
        assert found["outcome"]["error_code"] == "upstream_unreachable"


def test_an_upstream_must_be_who_it_says(tmp_path: Path) -> None:
    """Its certificate is verified: one that nobody vouches for is a 502, and no request is sent to it."""
    certificate = tmp_path / "cert.pem"
    make_certificate(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    got: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer_all() -> None:
            while True:
                try:
                    line, _ = listener.accept()
                except OSError:
                    return
                with line:
                    try:
                        with context.wrap_socket(line, server_side=True) as tls:
                            got.append(tls.recv(65536))
                            tls.sendall(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
                    except OSError:
                        continue

        threading.Thread(target=answer_all, daemon=True).start()
        url = f"https://localhost:{listener.getsockname()[1]}"
        with gateway(tmp_path, url) as running:
            refused = httpx.get(f"{running.url}/v1/models")
        assert (refused.status_code, "not trusted" in refused.json()["detail"], got) == (502, True, [])
        with gateway(tmp_path, url, SSL_CERT_FILE=str(certificate)) as running:
            assert httpx.get(f"{running.url}/v1/models").status_code == 204
        assert len(got) == 1


def make_certificate(path: Path) -> None:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
