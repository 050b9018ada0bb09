from __future__ import annotations

import pytest

from adjourn.configfile import parse
from adjourn.errors import ConfigInvalid
from adjourn.layer import names_in, suggest
from adjourn.secret import reveal
from adjourn.settings import Settings

ARCHITECTURE_YAML = """
session_completion_runtime:
  capture:
    sources:
      - openai_api
      - chatgpt_web
      - agent_framework
    buffer_size: 10000
    flush_interval_ms: 100
  
  validation:
    schema_version: "v1.2"
    require_authentication: true
    deduplication_window_sec: 300
  
  routing:
    destinations:
      - name: billing_system
        endpoint: https://billing.internal/events
        transform: billing_v1
        retry_attempts: 3
      
      - name: analytics_pipeline
        endpoint: https://analytics.internal/ingest
        transform: analytics_v2
        sampling_rate: 1.0
      
      - name: compliance_log
        endpoint: https://compliance.internal/audit
        transform: audit_v1
        retention_days: 2555  # 7 years
"""  # noqa: W293  as it stands where it was published

FLAT_YAML = """
buffer_size: 50
flush_interval_ms: 2500
retry_attempts: 5
retry_delay_ms: 500
destinations:
  - type: database
    enabled: true
    config:
      connection_string: {env: DATABASE_URL}
      table: completions
  - type: webhook
    enabled: false
    config:
      url: https://api.example.com/events
      headers:
        Authorization: Bearer ${TOKEN}
        Content-Type: application/json
  - type: log
    config: {log_level: info, log_path: /var/log/sessions.log}
"""


def refusal(text: str) -> str:
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, "adjourn.yaml", {})
    return str(caught.value)


def test_the_published_yaml_loads_as_it_stands() -> None:
    """A configuration under `session_completion_runtime`, with its own names for things, means what it says."""
    loaded = parse(ARCHITECTURE_YAML, "a.yaml", {})
    assert loaded.capture.sources == ("openai_api", "chatgpt_web", "agent_framework")
    assert (loaded.capture.buffer_size, loaded.capture.flush_interval_ms) == (10_000, 100)
    assert loaded.validation.dedupe_window_s == 300
    billing, analytics, compliance = loaded.routing.destinations
    assert (billing.name, billing.type, billing.url) == ("billing_system", "webhook", "https://billing.internal/events")
    assert (billing.transform, billing.retry_attempts) == ("billing_v1", 3)
    assert analytics.sampling_rate == 1.0
    assert compliance.retention_days == 2555


def test_flat_options_load() -> None:
    """Options at the top level and destinations with a nested `config` are the native settings."""
    loaded = parse(FLAT_YAML, "a.yaml", {"DATABASE_URL": "postgresql://u:hidden@h/d", "TOKEN": "hidden"})
    assert (loaded.capture.buffer_size, loaded.capture.flush_interval_ms) == (50, 2500)
    assert (loaded.routing.retry_attempts, loaded.routing.retry_delay_ms) == (5, 500)
    database, webhook, log = loaded.routing.destinations
    assert (reveal(database.connection_string), database.table) == ("postgresql://u:hidden@h/d", "completions")
    assert (webhook.enabled, reveal(webhook.headers["Authorization"])) == (False, "Bearer hidden")
    assert (log.type, log.name, log.log_level, log.log_path) == ("logfile", "logfile", "info", "/var/log/sessions.log")


def test_an_empty_file_is_the_defaults() -> None:
    """Nothing, comments, and sections without entries give the default settings."""
    for text in ("", "# nothing\n", "---\n", "server:\ncapture: {}\n", "session_completion_runtime:\n", "{}"):
        assert parse(text, "a.yaml", {}) == Settings()


@pytest.mark.parametrize(
    "text",
    [
        "buffer_size: 1\ncapture: {buffer_size: 2}",
        "validation: {deduplication_window_sec: 1, dedupe_window_s: 2}",
        "session_completion_runtime: {capture: {buffer_size: 1}}\ncapture: {buffer_size: 2}",
        "destinations: [{url: 'https://a', endpoint: 'https://b'}]",
        "destinations: [{url: 'https://a', config: {url: 'https://b'}}]",
        "destinations: [{type: log, log_level: info}]\nrouting: {destinations: []}",
    ],
)
def test_one_value_has_one_name(text: str) -> None:
    """A value that is given under two names must be the same under both."""
    assert "given" in refusal(text)
    assert "keep one of them" in refusal(text)
    same = text.replace("2", "1").replace("//b", "//a").replace("[]", "[{type: log, log_level: info}]")
    parse(same, "a.yaml", {})


def test_suggestions() -> None:
    """Other spellings, typing errors and names of another section lead to the name that was meant."""
    assert suggest("retry-delay-ms", names_in("routing")) == "retry_delay_ms"
    assert suggest("hosts", names_in("server")) == "host"
    assert suggest("dedupe_window_s", names_in("server")) == "validation.dedupe_window_s"
    assert suggest("xyzzy", names_in("server")) == ""
    assert {"buffer_size", "session_completion_runtime"} <= set(names_in(""))
