"""What is counted, and that it is documented."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.documented import differences, documented_names
from tests.http.serving import Serving, event, serving

from adjourn.http.metrics import NAMES, PROMETHEUS_TYPE
from adjourn.http.views import DestinationStats, Metrics

DOCS = Path(__file__).parents[2] / "docs"
MONITOR = DOCS / "howto" / "monitor.md"
RULES = DOCS / "deploy" / "alerts.yaml"


def test_prometheus_text_parses_and_counts(any_server: Serving) -> None:
    """Every family is registered, and the counts are those of what was sent; a hostile label changes nothing."""
    first = event()
    hostile = b'{"session":{"session_id":"h"},"usage":{"model":"a\\"\\n} 1\\\\","input_tokens":1,"output_tokens":1}}'
    any_server.post(b"\n".join([first, first, b"bad", hostile]))
    answer = any_server.get("/metrics")
    assert answer.headers["content-type"] == f"{PROMETHEUS_TYPE}; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    registered = {name.removesuffix("_total") for name in NAMES}
    assert set(families) <= registered
    by_status = {s.labels["status"]: s.value for s in families["adjourn_events"].samples}
    assert by_status == {"accepted": 2, "duplicate": 1, "conflict": 0, "invalid": 1}
    assert families["adjourn_log_events"].samples[0].value == 2
    assert [s.labels["model"] for s in families["adjourn_unknown_models"].samples] == ['a"\n} 1\\']
    assert any_server.get("/v1/metrics").json()["events_captured"] == 2


def test_metrics_are_documented() -> None:
    """docs/reference/metrics.md names exactly what is exported, in both forms."""
    page = "metrics.md"
    assert differences(NAMES, documented_names(page, section="Prometheus"), page=page) == []
    fields = {
        *Metrics.__struct_fields__,
        *(f"destination_stats.*.{name}" for name in msgspec.structs.asdict(DestinationStats())),
    }
    assert differences(fields, documented_names(page, section="JSON"), page=page) == []


def test_what_became_of_each_event_is_counted(any_database: str, tmp_path: Path) -> None:
    """One destination takes all but one event, one is away, one is paused: both forms say so, and all adds up."""
    (tmp_path / "file").write_text("in the way")
    routing = {
        "retry_delay_ms": 10,
        "destinations": [
            {"type": "logfile", "name": "good", "log_path": str(tmp_path / "out.jsonl"), "filter": "event_id != 'no'"},
            {"type": "logfile", "name": "away", "log_path": str(tmp_path / "file" / "out.jsonl")},
            {"type": "logfile", "name": "held", "log_path": str(tmp_path / "held.jsonl")},
        ],
    }
    with serving(any_database, tmp_path, routing=routing) as server:
        server.request("POST", "/v1/destinations/held/pause", json={"reason": "a move"})
        server.post(b"\n".join([event("no"), *(event() for _ in range(9))]))
        stats = until(
            lambda: server.get("/v1/metrics").json()["destination_stats"],
            lambda found: found["good"]["success"] == 9 and found["good"]["pending"] == 0 and found["away"]["retries"],
        )
        good, away, held = stats["good"], stats["away"], stats["held"]
        assert (good["sent"], good["failure"], good["pending"], good["waiting"]) == (9, 0, 0, "")
        assert good["p99_latency_ms"] >= good["p95_latency_ms"] > 0
        assert good["average_latency_ms"] > 0
        assert (away["success"], away["pending"]) == (0, 10)
        assert away["retries"] > 0
        assert away["oldest_pending_ms"] > 0
        assert (held["paused"], held["waiting"], held["pending"]) == (True, "paused: a move", 10)
        text = until(
            lambda: samples(server.get("/metrics").text),
            lambda found: found["adjourn_destination_events", "good", "delivered"] == 9,
        )
    assert text["adjourn_destination_events", "good", "filtered"] == 1
    assert all(text["adjourn_destination_events", name, "difference"] == 0 for name in stats)
    assert [text["adjourn_destination_waiting", name] for name in ("good", "away", "held")] == [0, 1, 1]
    assert [text["adjourn_destination_paused", name] for name in ("good", "away", "held")] == [0, 0, 1]
    assert text["adjourn_destination_gate", "good", "closed"] == 1
    assert text["adjourn_destination_gate", "away", "open"] == 1
    assert text["adjourn_destination_gate", "held", "paused"] == 1
    assert text["adjourn_destination_oldest_seconds", "away"] > 0
    assert text["adjourn_destination_success_total", "good"] == 9
    assert text["adjourn_delivery_latency_seconds_count", "good"] == 9
    assert text["adjourn_delivery_latency_seconds_bucket", "good", "+Inf"] == 9
    assert text["adjourn_delivery_latency_seconds_bucket", "good", "86400.0"] == 9
    assert text["adjourn_log_bytes",] > 0


def test_open_and_abandoned_sessions_are_counted(any_database: str, tmp_path: Path) -> None:
    """Those of all tenants together; one that falls silent moves from the one count to the other."""
    with serving(any_database, tmp_path) as server:
        for session_id, who in (("silent", "acme/writer"), ("kept", "acme/writer"), ("other", "other/writer")):
            lease_ms = 1000 if session_id == "silent" else 600_000
            begun = {"session_id": session_id, "lease_ms": lease_ms}
            answer = server.request("POST", "/v1/sessions/begin", who=who, json=begun)
            assert answer.status_code == 201, answer.text
        assert samples(server.get("/metrics").text)["adjourn_watched_sessions_open",] >= 2
        found = until(
            lambda: samples(server.get("/metrics").text),
            lambda found: found["adjourn_watched_sessions_abandoned_total",] == 1,
        )
        assert found["adjourn_watched_sessions_open",] == 2


def until(look: Callable[[], Any], holds: Callable[[Any], object]) -> Any:
    deadline = time.monotonic() + 60
    while not holds(found := look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def samples(text: str) -> dict[tuple[str, ...], float]:
    """By name and the values of the labels."""
    families = text_string_to_metric_families(text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}


def test_labels_are_bounded(tmp_path: Path) -> None:
    """Tenants, sessions and events leave no trace in the labels, and however many models are named, the text stays."""
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path) as server:
        bodies = [
            json.dumps({"session": {"session_id": f"s{n}"}, "usage": {"model": f"odd-model-{n}", "input_tokens": 1}})
            for n in range(2000)
        ]
        server.post("\n".join(bodies).encode())
        text = server.get("/metrics").text
    assert text.count("odd-model") <= 100
    assert "acme" not in text
    assert len(text) < 40_000


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


def test_the_rules_that_are_offered_name_metrics_that_are_there(tmp_path: Path) -> None:
    """docs/deploy/alerts.yaml: its expressions use names, labels and values that a server exports."""
    routing = {"destinations": [{"type": "logfile", "log_path": str(tmp_path / "out.jsonl")}]}
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, routing=routing) as server:
        server.post(b'{"session":{"session_id":"h"},"usage":{"model":"odd","input_tokens":1,"output_tokens":1}}')
        until(lambda: server.get("/v1/metrics").json(), lambda found: found["events_routed_success"])
        served = list(text_string_to_metric_families(server.get("/metrics").text))
    labels: dict[str, dict[str, set[str]]] = {}
    for sample in (sample for family in served for sample in family.samples):
        known = labels.setdefault(sample.name, {"instance": set(), "job": set()})
        for label, value in sample.labels.items():
            known.setdefault(label, set()).add(value)
    assert len(rules()) > 10
    for rule in rules():
        named = re.findall(r"\b(adjourn_\w+)(?:\{(.*?)\})?", rule["expr"])
        assert named or rule["alert"] == "AdjournDown"
        for name, selectors in named:
            assert name in labels, rule["alert"]
            for label, values in re.findall(r'(\w+)=~?"([^"]+)"', selectors):
                assert set(values.split("|")) <= labels[name][label], rule["alert"]
        for label in re.findall(r"by \(([^)]*)\)", rule["expr"]):
            assert set(label.split(", ")) <= {known for name, _ in named for known in labels[name]}, rule["alert"]


def test_each_rule_says_what_to_do_and_is_explained() -> None:
    """Every alert has a severity, a summary and a remedy, and its row in docs/howto/monitor.md."""
    page = MONITOR.read_text("utf-8")
    assert {rule["alert"] for rule in rules()} == set(re.findall(r"^\| `(Adjourn\w+)`", page, re.MULTILINE))
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["remedy"]
    for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL):
        assert yaml.safe_load(block)
