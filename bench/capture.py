"""`capture()` in a program: what one call costs, what a SIGKILL right behind it loses, what it adds in memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.table import Row, median, quantile

CAPTURES = 5_000
RUNS = 5

PRELUDE = """
import json, os, signal, sys, time
def rss(): return int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6
folder, count, kill = sys.argv[1], int(sys.argv[2]), sys.argv[3] == 'kill'
before = rss()
def timed(call):
    out = []
    for i in range(count):
        started = time.perf_counter(); call(i); out.append(time.perf_counter() - started)
    if kill:
        os.kill(os.getpid(), signal.SIGKILL)
    return out
def report(latencies):
    print(json.dumps({'latencies': latencies, 'rss': rss() - before}))
"""

ADJOURN = """
import adjourn
runtime = adjourn.Runtime(adjourn.Settings(data_dir=folder))
runtime.start()
def call(i):
    runtime.capture({'event_type': 'session.completed', 'timestamp': '2025-12-21T10:30:45.123Z',
        'session': {'session_id': 'sess_%06d' % i, 'session_type': 'chat', 'start_time': '2025-12-21T10:25:00.000Z',
                    'end_time': '2025-12-21T10:30:45.123Z', 'duration_ms': 345123},
        'user': {'user_id': 'usr_xyz789', 'organization_id': 'org_company123'},
        'usage': {'input_tokens': 1250, 'output_tokens': 890, 'total_tokens': 2140, 'model': 'gpt-4o'},
        'outcome': {'status': 'success', 'final_message': 'x' * 80}})
report(timed(call))
sys.stdout.flush()
runtime.stop()
"""

OTEL = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
class Null(SpanExporter):
    def __init__(self): self.file = os.open(folder + '/exported', os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    def export(self, spans):
        os.write(self.file, b'%d\\n' % len(spans)); return SpanExportResult.SUCCESS
provider = TracerProvider(); provider.add_span_processor(BatchSpanProcessor(Null()))
tracer = provider.get_tracer('bench')
def call(i):
    span = tracer.start_span('session', attributes={'session.id': 'sess_%06d' % i, 'session.type': 'chat',
        'start': '2025-12-21T10:25:00.000Z', 'end': '2025-12-21T10:30:45.123Z', 'duration_ms': 345123,
        'user.id': 'usr_xyz789', 'organization.id': 'org_company123', 'input_tokens': 1250, 'output_tokens': 890,
        'total_tokens': 2140, 'model': 'gpt-4o', 'status': 'success', 'final_message': 'x' * 80, 'timestamp': 'now',
        'event_type': 'session.completed'})
    span.end()
report(timed(call))
"""

FLOOR = """
import msgspec
encode = msgspec.json.Encoder().encode
file = os.open(folder + '/floor', os.O_CREAT | os.O_WRONLY | os.O_APPEND)
def call(i):
    os.write(file, encode({'event_type': 'session.completed', 'timestamp': '2025-12-21T10:30:45.123Z',
        'session': {'session_id': 'sess_%06d' % i, 'session_type': 'chat', 'start_time': '2025-12-21T10:25:00.000Z',
                    'end_time': '2025-12-21T10:30:45.123Z', 'duration_ms': 345123},
        'user': {'user_id': 'usr_xyz789', 'organization_id': 'org_company123'},
        'usage': {'input_tokens': 1250, 'output_tokens': 890, 'total_tokens': 2140, 'model': 'gpt-4o'},
        'outcome': {'status': 'success', 'final_message': 'x' * 80}}) + b'\\n')
report(timed(call))
"""

COUNT = """
import adjourn
runtime = adjourn.Runtime(adjourn.Settings(data_dir=folder))
runtime.start(); runtime.drain(60)
print(json.dumps(sum(runtime.call(lambda node: node.log.heads()))))
runtime.stop()
"""


def run(program: str, folder: str, mode: str = "time") -> object:
    command = [sys.executable, "-c", PRELUDE + program, folder, str(CAPTURES), mode]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if mode == "kill":
        if done.returncode != -signal.SIGKILL:
            raise RuntimeError("the program was not killed")
        return None
    return json.loads(done.stdout)


def latency() -> list[Row]:
    figures: dict[str, list[float]] = {"adjourn": [], "otel": [], "floor": []}
    memory: list[float] = []
    for _ in range(RUNS):
        for name, program in (("adjourn", ADJOURN), ("otel", OTEL), ("floor", FLOOR)):
            with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="adjourn-bench-") as folder:
                result = run(program, folder)
                assert isinstance(result, dict)
                figures[name].append(quantile(result["latencies"], 0.5) * 1e6)
                if name == "adjourn":
                    memory.append(result["rss"])
    ours, otel, bare = (median(figures[name]) for name in ("adjourn", "otel", "floor"))
    return [
        Row(
            "capture() in process, 15 fields, p50",
            f"{ours:.1f} µs",
            f"encode + write() {bare:.1f} µs; OpenTelemetry BatchSpanProcessor {otel:.1f} µs",
            "≤ 10 µs and ≤ 1/3 of OpenTelemetry",
            ours <= 10 and ours <= otel / 3,
        ),
        Row("what the embedded runtime adds (RSS)", f"{median(memory):.0f} MB", "", "≤ 50 MB", median(memory) <= 50),
    ]


def killed() -> list[Row]:
    """SIGKILL right behind 5,000 captures: what is missing after the next start."""
    missing: list[int] = []
    otel_missing: list[int] = []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="adjourn-bench-") as folder:
            run(ADJOURN, folder, "kill")
            found = run(COUNT, folder)
            assert isinstance(found, int)
            missing.append(CAPTURES - found)
        with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="adjourn-bench-") as folder:
            run(OTEL, folder, "kill")
            exported = sum(int(line) for line in (Path(folder) / "exported").read_text().split())
            otel_missing.append(CAPTURES - exported)
    return [
        Row(
            "lost after SIGKILL right behind 5,000 captures",
            f"{sum(missing)} of {CAPTURES * RUNS:,}",
            f"OpenTelemetry {100 * sum(otel_missing) / CAPTURES / RUNS:.0f} %",
            "0",
            sum(missing) == 0,
        )
    ]
