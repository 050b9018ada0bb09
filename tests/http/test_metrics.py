"""What is counted, and that it is documented."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.documented import differences, documented_names
from tests.http.serving import Serving, event, serving

from adjourn.http.metrics import NAMES, PROMETHEUS_TYPE
from adjourn.http.views import DestinationStats, Metrics

MONITOR = Path(__file__).parents[2] / "docs" / "howto" / "monitor.md"


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
        *(f"destination_stats.*.{name}" for name in msgspec.structs.asdict(DestinationStats(0, 0, 0))),
    }
    assert differences(fields, documented_names(page, section="JSON"), page=page) == []


def test_the_rules_that_are_offered_name_metrics_that_are_there(tmp_path: Path) -> None:
    """docs/howto/monitor.md: its blocks are YAML, and their expressions use names, labels and values of a server."""
    blocks = re.findall(r"```yaml\n(.*?)```", MONITOR.read_text("utf-8"), re.DOTALL)
    rules = [rule for block in blocks for group in yaml.safe_load(block).get("groups", []) for rule in group["rules"]]
    assert len(rules) > 5
    routing = {"destinations": [{"type": "logfile", "log_path": str(tmp_path / "out.jsonl")}]}
    with serving(f"sqlite:///{tmp_path}/a.db", tmp_path, routing=routing) as server:
        served = list(text_string_to_metric_families(server.get("/metrics").text))
    labels: dict[str, dict[str, set[str]]] = {}
    for sample in (sample for family in served for sample in family.samples):
        for label, value in sample.labels.items():
            labels.setdefault(sample.name, {}).setdefault(label, set()).add(value)
    for rule in rules:
        for name, selectors in re.findall(r"\b(adjourn_\w+)(?:\{(.*?)\})?", rule["expr"]):
            assert name in NAMES, rule["alert"]
            for label, values in re.findall(r'(\w+)=~?"([^"]+)"', selectors):
                assert set(values.split("|")) <= labels[name][label], rule["alert"]
