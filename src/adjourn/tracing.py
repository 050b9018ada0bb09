"""Traces of our own pipeline, through OpenTelemetry: one span for each batch that is taken in, committed, delivered.

`adjourn.ingest` has `adjourn.commit` under it. `adjourn.deliver` comes later, in a trace of its own, and links to the
commits of this process that its events came with. Off is the default: then nothing is imported or remembered.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

from adjourn.errors import ExtraMissing
from adjourn.version import __version__

if TYPE_CHECKING:
    from opentelemetry.trace import SpanContext

COMMITS_KEPT = 512
"""To which later deliveries may link."""
LINKS_MAX = 16
_NOTHING = nullcontext()


class Tracing:
    """Off."""

    def span(self, name: str, **attributes: str | int) -> AbstractContextManager[None]:
        """Around one step; what is done inside is under it, and an exception marks it as failed."""
        return _NOTHING

    def committed(self, partition: int, first_offset: int, count: int) -> None:
        """Inside the span of a commit: which events became durable."""

    def delivery(
        self, destination: str, batch: str, partition: int, first: int, last: int, count: int
    ) -> AbstractContextManager[None]:
        """Around one sending of a batch whose events have these offsets."""
        return _NOTHING


OFF = Tracing()


class OpenTelemetry(Tracing):
    """To whatever tracer provider the program has set."""

    def __init__(self) -> None:
        """Raises ExtraMissing."""
        try:
            from opentelemetry import trace
        except ImportError as error:
            raise _missing() from error
        self._trace = trace
        self._tracer = trace.get_tracer("adjourn", __version__)
        self._commits: deque[tuple[int, int, int, SpanContext]] = deque(maxlen=COMMITS_KEPT)

    @contextmanager
    def span(self, name: str, **attributes: str | int) -> Generator[None]:
        with self._tracer.start_as_current_span(name, attributes=attributes):
            yield

    def committed(self, partition: int, first_offset: int, count: int) -> None:
        context = self._trace.get_current_span().get_span_context()
        if context.is_valid and count:
            self._commits.append((partition, first_offset, first_offset + count, context))

    @contextmanager
    def delivery(
        self, destination: str, batch: str, partition: int, first: int, last: int, count: int
    ) -> Generator[None]:
        attributes: dict[str, str | int] = {
            "adjourn.destination": destination,
            "adjourn.batch": batch,
            "adjourn.events": count,
        }
        with self._tracer.start_as_current_span("adjourn.deliver", attributes=attributes) as span:
            try:
                yield
            finally:  # not before: delivering may begin before whoever committed has heard of it
                for context in self._commits_of(partition, first, last):
                    span.add_link(context)

    def _commits_of(self, partition: int, first: int, last: int) -> list[SpanContext]:
        found = [
            context for of, begin, end, context in self._commits if of == partition and begin <= last and end > first
        ]
        return found[-LINKS_MAX:]


def tracing_of(enabled: bool) -> Tracing:
    """Raises ExtraMissing."""
    return OpenTelemetry() if enabled else OFF


def export() -> None:
    """For a server, which is a program of its own: send spans to where the variables OTEL_… say, unless whatever
    started it has set that up. Raises ExtraMissing."""
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise _missing() from error
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    name = {} if "OTEL_SERVICE_NAME" in os.environ else {"service.name": "adjourn"}
    provider = TracerProvider(resource=Resource.create(dict(name)))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def _missing() -> ExtraMissing:
    return ExtraMissing(
        "tracing.enabled needs OpenTelemetry, which is not installed; run: pip install 'adjourn[tracing]', or leave "
        "the setting out"
    )
