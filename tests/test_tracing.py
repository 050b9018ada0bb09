"""Traces, read back with OpenTelemetry's own in-memory exporter."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from adjourn.node import Node
from tests.faults.rigs import mapping, raw, settings_of

DEADLINE_S = 60


def spans_of(
    directory: Path, log_path: str, done: Callable[[Sequence[ReadableSpan]], object], **tracing: object
) -> list[ReadableSpan]:
    """What a node traces while batches of three events are taken in, until it is done."""
    exporter = InMemorySpanExporter()
    provider = trace.get_tracer_provider()
    if not isinstance(provider, TracerProvider):  # a process can set it once
        provider = TracerProvider()
        trace.set_tracer_provider(provider)
    processor = SimpleSpanProcessor(exporter)
    provider.add_span_processor(processor)
    destination = {"type": "logfile", "name": "file", "log_path": log_path}
    sections: Mapping[str, Mapping[str, object]] = {
        "routing": {"retry_delay_ms": 5, "destinations": [destination]},
        "tracing": tracing,
    }

    async def main() -> None:
        async with Node(settings_of(mapping(directory, **sections))) as node:
            async with asyncio.timeout(DEADLINE_S):
                for part in itertools.count():
                    await node.ingest.take("acme", [raw(f"s{part}_{n}") for n in range(3)], source="test")
                    await asyncio.sleep(0.02)
                    if done(exporter.get_finished_spans()):
                        return

    asyncio.run(main())
    processor.shutdown()
    return list(exporter.get_finished_spans())


def deliveries_of(spans: Sequence[ReadableSpan]) -> list[ReadableSpan]:
    return [span for span in spans if span.name == "adjourn.deliver"]


def test_a_batch_is_seen_from_its_arrival_to_its_delivery(tmp_path: Path) -> None:
    """A commit is under its ingest, a delivery links to the commits of its events; and no content is in them."""
    spans = spans_of(
        tmp_path, str(tmp_path / "out.jsonl"), lambda found: any(span.links for span in found), enabled=True
    )
    ingests = [span for span in spans if span.name == "adjourn.ingest"]
    commits = [span for span in spans if span.name == "adjourn.commit"]
    deliveries = deliveries_of(spans)
    assert {tuple((span.attributes or {}).items()) for span in ingests} == {
        (("adjourn.source", "test"), ("adjourn.events", 3))
    }
    parents = [span.parent.span_id for span in commits if span.parent is not None]
    assert parents == [span.context.span_id for span in ingests if span.context is not None]
    attributes = deliveries[0].attributes or {}
    assert attributes["adjourn.destination"] == "file"
    assert str(attributes["adjourn.batch"]).startswith("file/0/0-")
    linked = {link.context.span_id for span in deliveries for link in span.links}
    assert linked <= {span.context.span_id for span in commits if span.context is not None}
    assert "s0_1" not in "".join(span.to_json() for span in spans)


def test_a_failed_delivery_is_marked(tmp_path: Path) -> None:
    """A destination that breaks off while it is sent to leaves a span with the error, for every attempt."""
    assert Path("/dev/full").exists()
    spans = spans_of(tmp_path, "/dev/full", lambda found: len(deliveries_of(found)) > 1, enabled=True)
    failed = deliveries_of(spans)
    assert {span.status.status_code for span in failed} == {StatusCode.ERROR}


def test_off_there_is_none_and_nothing_is_imported(tmp_path: Path) -> None:
    """Without the setting a node leaves no span, and a process that serves never imports OpenTelemetry."""
    delivered = tmp_path / "out.jsonl"
    assert spans_of(tmp_path, str(delivered), lambda _: delivered.exists()) == []
    code = "import sys, adjourn.http.server, adjourn.tracing; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
