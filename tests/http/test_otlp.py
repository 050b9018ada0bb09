"""`POST /v1/traces` of a real server: OpenTelemetry's own SDK and exporter, other instrumentations' spans, refusals."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.rpc.status_pb2 import Status
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Span, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import StatusCode, Tracer
from tests.http.conftest import database_url
from tests.http.serving import Serving, is_problem, serving

from adjourn.http.otlp import SPANS_MAX, TRACES_PATH
from adjourn.http.otlp_bodies import JSON, PROTOBUF

AGENT = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "researcher"}
CHAT = {
    "gen_ai.operation.name": "chat",
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.usage.input_tokens": 100,
    "gen_ai.usage.output_tokens": 10,
}


class Tracing:
    """An application that is traced. `flush` exports what has ended, if there is a processor that gathers it."""

    def __init__(
        self, server: Serving, compression: Compression = Compression.NoCompression, *, gathers: bool = False
    ) -> None:
        self.exporter = OTLPSpanExporter(
            endpoint=server.url + TRACES_PATH, headers=server.bearer("acme/writer"), compression=compression
        )
        self.provider = TracerProvider(resource=Resource.create({"service.name": "bot"}))
        if gathers:
            self.provider.add_span_processor(BatchSpanProcessor(self.exporter, schedule_delay_millis=3_600_000))
        self.tracer: Tracer = self.provider.get_tracer("agents", "1.2")

    @contextmanager
    def span(self, name: str, attributes: Mapping[str, Any]) -> Generator[Span]:
        with self.tracer.start_as_current_span(name, attributes=attributes) as span:
            assert isinstance(span, Span)
            yield span

    def flush(self) -> None:
        assert self.provider.force_flush()
        self.provider.shutdown()


def completion(server: Serving, span: Span) -> dict[str, Any]:
    context = span.get_span_context()
    assert context is not None
    answer = server.get(f"/v1/events/evt_otlp_{context.trace_id:032x}_{context.span_id:016x}")
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("compression", list(Compression))
def test_a_traced_agent_is_captured(any_server: Serving, compression: Compression) -> None:
    """By the real SDK: a run with tools and calls, compressed in each of the exporter's ways, on both databases."""
    traced = Tracing(any_server, compression, gathers=True)
    with traced.span("invoke_agent researcher", {**AGENT, "user.id": "u1", "gen_ai.conversation.id": "c1"}) as root:
        for _ in range(2):
            with traced.span("POST", {"http.request.method": "POST"}), traced.span("chat gpt-4o", CHAT):
                pass
            with traced.span("execute_tool search", {"gen_ai.operation.name": "execute_tool"}):
                pass
    traced.flush()
    found = completion(any_server, root)
    event = found["event"]
    assert event["usage"] == {
        "input_tokens": 200,
        "output_tokens": 20,
        "total_tokens": 220,
        "model": "gpt-4o",
        "tool_calls": 2,
    }
    assert (found["cost_usd"], found["price_ref"].partition(":")[2]) == ("0.0007", "openai/gpt-4o")
    assert event["user"] == {"user_id": "u1"}
    assert event["session"]["session_id"].startswith("c1:")
    assert event["outcome"] == {"status": "success"}
    assert event["metadata"]["custom_tags"]["service.name"] == "bot"
    assert event["metadata"]["custom_tags"]["otlp"]["agent"] == "researcher"


def test_a_traced_agent_that_fails_is_an_error(server: Serving) -> None:
    """By an exception that leaves its span, or by `error.type`."""
    traced = Tracing(server, gathers=True)
    with pytest.raises(ValueError, match="no"), traced.span("invoke_agent", AGENT) as raised:
        raise ValueError("no")
    with traced.span("invoke_agent", AGENT) as typed:
        typed.set_attribute("error.type", "RateLimitError")
        typed.set_status(StatusCode.ERROR, "slow down")
    traced.flush()
    outcomes = [completion(server, span)["event"]["outcome"] for span in (raised, typed)]
    assert [outcome["status"] for outcome in outcomes] == ["error", "error"]
    assert [outcome["error_code"] for outcome in outcomes] == ["ValueError", "RateLimitError"]


def test_an_exporter_that_sends_again_adds_nothing(server: Serving) -> None:
    """The same batch twice: both are a success to the exporter, and there is one completion."""
    traced = Tracing(server)
    with traced.span("invoke_agent", AGENT) as root, traced.span("chat", CHAT) as call:
        pass
    before = server.get("/v1/metrics").json()["events_captured"]
    for _ in range(3):
        assert traced.exporter.export([call, root]) == SpanExportResult.SUCCESS
    assert server.get("/v1/metrics").json()["events_captured"] == before + 1
    assert completion(server, root)["event"]["usage"]["input_tokens"] == 100


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_kill_between_a_call_and_its_agent_loses_nothing(kind: str, tmp_path: Path) -> None:
    """SIGKILL when the exporter has heard that its batch was taken; the agent's span goes to another server."""
    url = database_url(kind, tmp_path)
    with serving(url, tmp_path) as first:
        traced = Tracing(first)
        with traced.span("invoke_agent", AGENT) as root:
            with traced.span("chat", CHAT) as call:
                pass
            assert traced.exporter.export([call]) == SpanExportResult.SUCCESS
            first.kill()
        with serving(url, tmp_path, keys=first.keys) as second:
            assert Tracing(second).exporter.export([root]) == SpanExportResult.SUCCESS
            assert completion(second, root)["event"]["usage"]["input_tokens"] == 100


def test_the_exporters_environment_is_enough(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/howto/otlp.md has it: an endpoint and a header."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"Authorization=Bearer%20{server.keys['acme/writer']}")
    traced = Tracing(server)
    with traced.span("invoke_agent", AGENT) as root:
        pass
    assert OTLPSpanExporter().export([root]) == SpanExportResult.SUCCESS
    assert completion(server, root)["event"]["outcome"] == {"status": "success"}


def test_an_exporter_without_a_key_is_told(server: Serving) -> None:
    """Its batch fails, and it does not try again for ever."""
    traced = Tracing(server)
    with traced.span("invoke_agent", AGENT) as root:
        pass
    exporter = OTLPSpanExporter(endpoint=server.url + TRACES_PATH, headers={"authorization": "Bearer adj_none"})
    assert exporter.export([root]) == SpanExportResult.FAILURE


# --- as other instrumentations write it ------------------------------------------------------------------------------


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    kinds = {str: "stringValue", int: "intValue", float: "doubleValue", bool: "boolValue"}
    return [{"key": name, "value": {kinds[type(value)]: value}} for name, value in values.items()]


def _span(name: str, parent: str, values: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """`name` and `parent` end in the digits of their ids."""
    return {
        "traceId": more.pop("traceId", "5b8efff798038103d269b633813fc60c"),
        "spanId": f"{int(name.rpartition(' ')[2]):016x}",
        "parentSpanId": f"{int(parent):016x}" if parent else "",
        "name": name,
        "startTimeUnixNano": "1760000000000000000",
        "endTimeUnixNano": "1760000002500000000",
        "attributes": _attributes(values),
        **more,
    }


def _sent(server: Serving, *spans: dict[str, Any], scope: str = "test") -> httpx.Response:
    document = {"resourceSpans": [{"scopeSpans": [{"scope": {"name": scope}, "spans": list(spans)}]}]}
    return server.request("POST", TRACES_PATH, who="acme/writer", json=document)


INSTRUMENTATIONS: dict[str, list[dict[str, Any]]] = {
    # pydantic-ai: totals on the run, in names of its own.
    "pydantic-ai": [
        _span(
            "chat gpt-4o 2",
            "1",
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.system": "openai",
                "gen_ai.request.model": "gpt-4o",
                "gen_ai.response.model": "gpt-4o-2024-08-06",
                "gen_ai.usage.input_tokens": 100,
                "gen_ai.usage.output_tokens": 10,
                "gen_ai.usage.details.reasoning_tokens": 0,
            },
        ),
        _span(
            "invoke_agent researcher 1",
            "",
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": "researcher",
                "gen_ai.conversation.id": "conv",
                "model_name": "gpt-4o",
                "gen_ai.aggregated_usage.input_tokens": 100,
                "gen_ai.aggregated_usage.output_tokens": 10,
            },
        ),
    ],
    # OpenInference (openai-agents, LangChain): kinds, and counts under `llm.`.
    "openinference": [
        _span(
            "response 3",
            "2",
            {
                "openinference.span.kind": "LLM",
                "llm.system": "openai",
                "llm.model_name": "gpt-4o",
                "llm.token_count.prompt": 100,
                "llm.token_count.completion": 10,
                "llm.token_count.total": 110,
                "session.id": "conv",
            },
        ),
        _span("researcher 2", "1", {"openinference.span.kind": "AGENT", "session.id": "conv"}),
        _span("Agent workflow 1", "", {"openinference.span.kind": "AGENT", "session.id": "conv"}),
    ],
    # Traceloop's OpenLLMetry: older names, and properties of its own.
    "traceloop": [
        _span(
            "openai.chat 3",
            "2",
            {
                "llm.request.type": "chat",
                "gen_ai.system": "OpenAI",
                "gen_ai.response.model": "gpt-4o",
                "gen_ai.usage.prompt_tokens": 100,
                "gen_ai.usage.completion_tokens": 10,
                "llm.usage.total_tokens": 110,
                "traceloop.workflow.name": "research",
            },
        ),
        _span("ask.task 2", "1", {"traceloop.span.kind": "task", "traceloop.workflow.name": "research"}),
        _span(
            "research.workflow 1",
            "",
            {"traceloop.span.kind": "workflow", "traceloop.association.properties.session_id": "conv"},
        ),
    ],
}


@pytest.mark.parametrize("name", INSTRUMENTATIONS)
def test_spans_of_other_instrumentations_are_understood(tmp_path: Path, name: str) -> None:
    """One run, whose call is counted once, at its price; sent one span a request, as they end."""
    with serving(database_url("sqlite", tmp_path), tmp_path) as server:
        for span in INSTRUMENTATIONS[name]:
            answer = _sent(server, span, scope=name)
            assert (answer.status_code, answer.json()) == (200, {})
        assert server.get("/v1/metrics").json()["events_captured"] == 1
        event_id = "evt_otlp_5b8efff798038103d269b633813fc60c_0000000000000001"
        found = server.get(f"/v1/events/{event_id}").json()
        usage = found["event"]["usage"]
        assert (usage["input_tokens"], usage["output_tokens"]) == (100, 10)
        assert found["cost_usd"] == "0.00035"
        assert found["event"]["session"]["session_id"] == "conv:0000000000000001"


# --- what is not taken -----------------------------------------------------------------------------------------------


def test_what_is_not_taken_is_told_in_the_answer(server: Serving) -> None:
    """200 with a partial success: so many spans, and why; the others are taken."""
    trace = "6b8efff798038103d269b633813fc60c"
    good = _span("run 1", "", AGENT, traceId=trace)
    bad = _span("run 2", "", AGENT, traceId="short")
    late = _span("run 3", "", AGENT, traceId=trace, endTimeUnixNano="4760000002500000000")
    answer = _sent(server, good, bad, late)
    assert answer.status_code == 200
    told = answer.json()["partialSuccess"]
    assert told["rejectedSpans"] == "2"
    assert "'short'" in told["errorMessage"]
    assert "0000000000000003" in told["errorMessage"]
    assert server.get(f"/v1/events/evt_otlp_{trace}_0000000000000001").status_code == 200
    (entry,) = [one for one in server.get("/v1/quarantine").json()["entries"] if one["source"] == "otlp"]
    assert entry["code"] == "time_ahead"


def test_usage_that_cannot_be_read_is_a_warning(server: Serving) -> None:
    """The span is taken, its counts are not, and the sender hears of it."""
    trace = "7b8efff798038103d269b633813fc60c"
    call = _span("chat 2", "1", {**CHAT, "gen_ai.usage.input_tokens": -5}, traceId=trace)
    answer = _sent(server, call, _span("run 1", "", AGENT, traceId=trace))
    assert answer.json()["partialSuccess"].keys() == {"errorMessage"}
    assert "gen_ai.usage.input_tokens is '-5'" in answer.json()["partialSuccess"]["errorMessage"]
    found = server.get(f"/v1/events/evt_otlp_{trace}_0000000000000001").json()
    assert "usage" not in found["event"]


def _refused(answer: httpx.Response, status: int, kind: str) -> str:
    """The message, in the form that OTLP wants."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == kind
    message = Status.FromString(answer.content).message if kind == PROTOBUF else answer.json()["message"]
    assert message
    return message


@pytest.mark.parametrize("kind", [PROTOBUF, JSON])
def test_refusals_are_in_the_encoding_of_the_request(server: Serving, kind: str) -> None:
    """401, 403, 400, 413 and 415, each as a `google.rpc.Status`."""

    def post(content: bytes, who: str = "acme/writer", **headers: str) -> httpx.Response:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        return server.request("POST", TRACES_PATH, who=who, content=content, headers={"content-type": kind, **more})

    _refused(server.client.post(TRACES_PATH, content=b"", headers={"content-type": kind}), 401, kind)
    _refused(post(b"", "acme/reader"), 403, kind)
    assert "check Content-Type" in _refused(post(b"\xff\xff"), 400, kind)
    _refused(post(b"\xff\xff", content_encoding="gzip"), 400, kind)
    _refused(post(b"", content_encoding="br"), 415, kind)
    _refused(post(b"x" * 16_000_001), 413, kind)
    _refused(post(gzip.compress(b"\0" * 16_000_001), content_encoding="gzip"), 413, kind)
    empty = b"\x0a\x00" if kind == PROTOBUF else b"{}"
    answer = post(empty)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    if kind == PROTOBUF:
        assert ExportTraceServiceResponse.FromString(answer.content) == ExportTraceServiceResponse()


def test_too_many_spans_are_refused(server: Serving) -> None:
    """However small they are."""
    document = {"resourceSpans": [{"scopeSpans": [{"spans": [{}] * (SPANS_MAX + 1)}]}]}
    answer = server.request("POST", TRACES_PATH, json=document)
    assert str(SPANS_MAX) in _refused(answer, 413, JSON)


def test_what_is_not_otlp_is_a_problem(server: Serving) -> None:
    """As on every other route, where there is no encoding to answer in."""
    assert is_problem(server.request("POST", TRACES_PATH, content=b"x"), 415, "media_type_unsupported")
    answer = server.get(TRACES_PATH)
    assert is_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("kind", [PROTOBUF, JSON])
def test_too_much_at_once_is_to_be_sent_again(tmp_path: Path, kind: str) -> None:
    """503 with Retry-After, which every exporter tries again, whether bodies or writes are too many."""
    patches = {"adjourn.http.reading.BODIES_BYTES_MAX": 10}
    with serving(database_url("sqlite", tmp_path), tmp_path, patches=patches) as server:
        head = server.head(f"POST {TRACES_PATH}", f"content-type: {kind}", "content-length: 1000")
        with server.socket() as first:
            first.sendall(head + b" " * 500)
            until = time.monotonic() + 60
            while (answer := _posted(server, kind)).status_code == 200 and time.monotonic() < until:
                time.sleep(0.02)
            _refused(answer, 503, kind)
            assert int(answer.headers["retry-after"]) >= 1
        while (answer := _posted(server, kind)).status_code != 200 and time.monotonic() < until:
            time.sleep(0.02)
        assert answer.status_code == 200


def _posted(server: Serving, kind: str) -> httpx.Response:
    content = b"{}" if kind == JSON else b"\x0a\x00"
    return server.request("POST", TRACES_PATH, content=content, headers={"content-type": kind})


def test_a_client_that_hangs_up_leaves_nothing_held(tmp_path: Path) -> None:
    """Its room for bodies is free again."""
    patches = {"adjourn.http.reading.BODIES_BYTES_MAX": 1000}
    with serving(database_url("sqlite", tmp_path), tmp_path, patches=patches) as server:
        for _ in range(5):
            with server.socket() as gone:
                gone.sendall(server.head(f"POST {TRACES_PATH}", f"content-type: {JSON}", "content-length: 2000"))
                gone.sendall(b" " * 900)
        body = json.dumps({"padding": "x" * 900}).encode()
        until = time.monotonic() + 60
        while True:
            answer = server.request("POST", TRACES_PATH, content=body, headers={"content-type": JSON})
            if answer.status_code == 200 or time.monotonic() > until:
                break
        assert answer.status_code == 200
