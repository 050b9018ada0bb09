"""No setting is inert: flipping each one changes what a user of the product sees.

Each row of the table is one setting; a setting without a row is an error. The product runs once with each value, and
everything else alike; the same function looks at it each time. Those functions are in tests/flipping/.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from adjourn.runners.sandbox import why_no_bubblewrap
from adjourn.setting import Section, leaves
from adjourn.settings import Settings
from tests import postgres
from tests.destinations.receiver import SECRET
from tests.flipping import (
    analytics,
    capture,
    hosting,
    node,
    otlp,
    routing,
    runners,
    server,
    sessions,
    tenants,
    triggers,
    webhook,
)
from tests.flipping.rigs import Row, flipped, free_port, rendered

QUIET: dict[str, object] = {"routing.destinations": [], "log.compact_interval_ms": 600_000}
UPKEEP = {"log.compact_interval_ms": 20}
ANY_PORT = {"server.port": 0}
WEBHOOK = {"routing.destinations": [{"type": "webhook", "url": "https://hooks.example/in"}]}
PROGRAM = {**QUIET, **runners.AGENT}
BOX = {**QUIET, **runners.BOXED}


def _made(number: int) -> list[str]:
    """That many of three."""
    return ["made"] * number + ["limit_reached"] * (3 - number)


ROWS: dict[str, Row] = {
    "data_dir": Row(
        ["{dir}/one", "{dir}/other"],
        capture.folder_of_the_spool,
        ["{dir}/one/spool", "{dir}/other/spool"],
        capture.NO_DATABASE,
    ),
    "database.url": Row(["sqlite:///{dir}/one.db", "sqlite:///{dir}/other.db"], node.database_url),
    "database.durability": Row(["full", "normal"], node.syncs_a_commit, [1, 0], QUIET),
    "database.lanes": Row([1, 3], node.partitions_with_events, beside={"database.url": postgres.fresh_database}),
    "database.readers": Row([1, 4], node.reads_at_once, beside=QUIET),
    "database.queue_events_max": Row([100, 10_000], node.turned_away, [True, False], QUIET),
    "database.write_timeout_ms": Row([100, 30_000], node.behind_a_slow_write, ["unavailable", "accepted"], QUIET),
    "log.retention_days": Row([None, 1], node.kept_of_30, [30, 10], UPKEEP),
    "log.retention_mb": Row([None, 1], node.kept_of_30, [30, 14], UPKEEP),
    "log.compact_interval_ms": Row([600_000, 20], node.merged, [False, True]),
    "capture.sources": Row(
        [[], ["web"], ["web", "telegram"]], node.of_source_telegram, ["accepted", "invalid", "accepted"]
    ),
    "capture.buffer_size": Row([10, 1000], capture.batches, [[10] * 10, [100]], QUIET),
    "capture.flush_interval_ms": Row([50, 60_000], capture.orphan_is_found, [True, False]),
    "capture.spool_dir": Row(["{dir}/one", "{dir}/other"], capture.folder_of_the_spool, beside=capture.NO_DATABASE),
    "capture.spool_mb_max": Row(
        [1, 4], capture.two_megabytes, ["some are refused", "all are kept"], capture.NO_DATABASE
    ),
    "capture.spool_full": Row(
        ["refuse", "drop_oldest"],
        capture.two_megabytes,
        ["some are refused", "the oldest are dropped"],
        {**capture.NO_DATABASE, "capture.spool_mb_max": 1},
    ),
    "capture.fsync": Row(
        ["always", "background", "never"],
        capture.how_it_is_flushed,
        ["at each event", "now and then", "never"],
        capture.NO_DATABASE,
    ),
    "capture.fsync_interval_ms": Row(
        [10, 100], capture.how_often_it_is_flushed, ["often", "seldom"], capture.NO_DATABASE
    ),
    "validation.schema_version": Row(["v1.2", "v1.1"], node.starts, ["runs", "refused when it is read"]),
    "validation.require_authentication": Row([True, False], server.answer_to_no_key, [401, 202], ANY_PORT),
    "validation.dedupe_by": Row(
        ["event", "session"], node.two_events_of_a_session, [["accepted", "accepted"], ["accepted", "conflict"]]
    ),
    "validation.dedupe_window_s": Row([300, 60], node.the_same_id_100_s_later, ["duplicate", "accepted"]),
    "validation.dedupe_memory_mb": Row([64, 1], node.window_on_disk, [False, True], QUIET),
    "validation.timestamp_ahead_ms_max": Row([300_000, 60_000], node.two_minutes_ahead, ["accepted", "invalid"]),
    "validation.redact": Row(
        [[], ["mask email"], ["drop outcome.final_message"]], node.message_in_the_log, ["to a@b.cc", "to [email]", None]
    ),
    "routing.retry_attempts": Row([1, 3], routing.attempts_at_a_refused_event, beside={"routing.retry_delay_ms": 1}),
    "routing.retry_delay_ms": Row(
        [5, routing.LONG_MS],
        routing.tried_again_soon,
        [True, False],
        {**routing.AWAY, "routing.retry_delay_ms_max": routing.LONG_MS},
    ),
    "routing.retry_delay_ms_max": Row(
        [5, routing.LONG_MS],
        routing.tried_again_often,
        [True, False],
        {**routing.AWAY, "routing.retry_delay_ms": 5},
    ),
    "routing.destinations": Row([[], routing.LOGFILE["routing.destinations"]], routing.arrivals, [[], ["a", "b"]]),
    "routing.destinations[].name": Row(["one", "other"], routing.name_in_the_account),
    "routing.destinations[].type": Row(
        ["database", "logfile"],
        routing.kind_of_what_is_written,
        ["an SQLite file", "lines"],
        {"routing.destinations": [{}]},
    ),
    "routing.destinations[].enabled": Row([True, False], routing.arrivals, [["a", "b"], []], routing.LOGFILE),
    "routing.destinations[].events": Row(
        [["session.completed", "session.amended"], ["session.amended", "session.status_changed"], ["*"]],
        routing.types_that_arrive,
        [
            ["session.completed", "session.amended"],
            ["session.amended", "session.status_changed"],
            ["session.completed", "session.amended", "session.status_changed"],
        ],
        routing.LOGFILE,
    ),
    "routing.destinations[].sampling_rate": Row(
        [1.0, 0.5, 0.0], routing.part_that_arrives, ["all", "about half", "none"], routing.LOGFILE
    ),
    "routing.destinations[].retention_days": Row(
        [None, 1], routing.dead_letters_after_two_days, [1, 0], {**UPKEEP, "routing.retry_attempts": 1}
    ),
    "routing.destinations[].batch_size": Row([5, 500], routing.largest_batch, [5, 20]),
    "routing.destinations[].retry_attempts": Row(
        [None, 2], routing.attempts_at_a_refused_event, [3, 2], {"routing.retry_delay_ms": 1}
    ),
    "routing.destinations[].retry_delay_ms": Row(
        [5, None],
        routing.tried_again_soon,
        [True, False],
        {**routing.AWAY, "routing.retry_delay_ms": routing.LONG_MS, "routing.retry_delay_ms_max": routing.LONG_MS},
    ),
    "routing.destinations[].drop_after_ms": Row(
        [None, 1000], routing.given_up_after_two_days, [0, 3], {**routing.AWAY, **UPKEEP, "log.retention_days": 1}
    ),
    "routing.destinations[].filter": Row(
        ["", "session.session_id == 'b'"], routing.arrivals, [["a", "b"], ["b"]], routing.LOGFILE
    ),
    "routing.destinations[].transform": Row(
        ["", "audit_v1", "{'note': session.session_id}"],
        routing.own_fields_of_the_line,
        [[], ["audit"], ["note"]],
        routing.LOGFILE,
    ),
    "routing.destinations[].format": Row(
        ["segment", "posthog", "otlp"], analytics.form, ["track calls", "events", "log records"], analytics.KEYED
    ),
    "routing.destinations[].url": Row(
        ["{receiver}/one", "{receiver}/other"], webhook.path, ["/one", "/other"], webhook.RECEIVER
    ),
    "routing.destinations[].key": Row(["one", "other"], analytics.user_of_the_request, beside=analytics.TOOL),
    "routing.destinations[].headers": Row(
        [{"X-Team": "a"}, {"X-Team": "b"}], webhook.team, ["a", "b"], webhook.RECEIVER
    ),
    "routing.destinations[].signing_secrets": Row(
        [[], [SECRET]], webhook.signature, ["unsigned", "verifies"], webhook.RECEIVER
    ),
    "routing.destinations[].concurrency": Row([1, 3], webhook.requests_at_once, beside=webhook.RECEIVER),
    "routing.destinations[].timeout_ms": Row(
        [100, 600_000],
        webhook.patience,
        ["tried again", "waited for"],
        {**webhook.RECEIVER, "routing.retry_delay_ms": 5},
    ),
    "routing.destinations[].compression": Row(["none", "gzip"], webhook.encoding, beside=webhook.RECEIVER),
    "routing.destinations[].payload_bytes_max": Row(
        [20_000, 40_000], webhook.form_of_30_kilobytes, ["thin", "whole"], webhook.RECEIVER
    ),
    "routing.destinations[].allow_http": Row(
        [False, True], webhook.reached, ["is plain http", "arrives"], webhook.RECEIVER
    ),
    "routing.destinations[].allow_networks": Row(
        [[], ["127.0.0.1/32"]], webhook.reached, ["is private", "arrives"], webhook.RECEIVER
    ),
    "routing.destinations[].connection_string": Row(
        ["sqlite:///{dir}/one.db", "sqlite:///{dir}/other.db"], routing.connection_string_of_the_row
    ),
    "routing.destinations[].table": Row(["one", "other"], routing.table_of_the_row),
    "routing.destinations[].log_level": Row(["", "info", "error"], routing.level_in_the_lines, beside=routing.LOGFILE),
    "routing.destinations[].log_path": Row(
        ["{dir}/one.jsonl", "{dir}/in/other.jsonl"], routing.path_of_the_lines, beside=routing.LOGFILE
    ),
    "routing.destinations[].rotate_mb": Row([1, 2], routing.sizes_of_files, [(6, 1), (4, 2)], routing.SMALL_BATCHES),
    "routing.destinations[].rotate_keep": Row(
        [1, 2],
        routing.sizes_of_files,
        [(2, 1), (3, 1)],
        {**routing.SMALL_BATCHES, "routing.destinations[].rotate_mb": 1},
    ),
    "server.host": Row(["127.0.0.1", "127.0.0.2"], server.host_that_answers, beside=ANY_PORT),
    "server.port": Row([free_port, free_port], server.port_that_answers),
    "server.body_mb_max": Row([1, 2], server.answer_to_a_megabyte_and_a_half, [413, 202], ANY_PORT),
    "server.drain_ms_max": Row([100, 1200], capture.stop_of_one_whose_server_is_silent, ["short", "long"]),
    "server.streams_max": Row([1, 2], server.answer_to_a_second_stream, [503, 200], ANY_PORT),
    "server.requests_per_key_per_s": Row(
        [None, 0.001], server.answers_about_sessions, [[404] * 3, [404, 429, 429]], ANY_PORT
    ),
    "server.requests_per_key_burst": Row(
        [1, 2],
        server.answers_about_sessions,
        [[404, 429, 429], [404, 404, 429]],
        {**ANY_PORT, "server.requests_per_key_per_s": 0.001},
    ),
    "server.requests_per_user_per_s": Row(
        [None, 0.001], server.sessions_of_a_user, [[201] * 3, [201, 429, 429]], ANY_PORT
    ),
    "server.requests_per_user_burst": Row(
        [1, 2],
        server.sessions_of_a_user,
        [[201, 429, 429], [201, 201, 429]],
        {**ANY_PORT, "server.requests_per_user_per_s": 0.001},
    ),
    "server.public_url": Row(
        ["", "https://adjourn.example"],
        webhook.link_to_the_whole,
        ["/v1/events/evt_1", "https://adjourn.example/v1/events/evt_1"],
        webhook.RECEIVER,
    ),
    "server.beacon_origins": Row(
        [[], ["https://a.example"], ["*"]], server.origins_that_may_send_beacons, [[], ["a"], ["a", "b"]], ANY_PORT
    ),
    "sessions.lease_ms": Row([1000, 600_000], sessions.lease_of_one_that_names_none, beside=QUIET),
    "sessions.lease_ms_max": Row(
        [5000, 60_000], sessions.lease_of_ten_seconds, ["refused", "begun"], {**QUIET, "sessions.lease_ms": 1000}
    ),
    "sessions.open_max": Row([1, 2], sessions.begun_of_three, beside=QUIET),
    "sessions.retention_days": Row([1, 10], sessions.remembered_after_eleven_and_nine_days, [[], ["second"]], QUIET),
    "hosting.default_runner": Row(
        ["echo", "other"], hosting.runner_of_one_that_names_none, beside={**QUIET, **hosting.OTHER}
    ),
    "hosting.workspaces": Row(
        ["{dir}/one", "{dir}/other"], hosting.folder_of_a_program, beside={**QUIET, **hosting.PROGRAMS}
    ),
    "hosting.max_sessions": Row([1, 2], hosting.made_of_three, [_made(1), _made(2)], QUIET),
    "hosting.max_sessions_per_tenant": Row([None, 2], hosting.made_of_three, [_made(3), _made(2)], QUIET),
    "hosting.max_sessions_per_user": Row([None, 1], hosting.made_of_three, [_made(3), _made(1)], QUIET),
    "hosting.max_idle_ms": Row([None, 60_000], hosting.ended_after_an_hour, ["", "max_idle_ms"], QUIET),
    "hosting.max_lifetime_ms": Row([None, 60_000], hosting.ended_after_an_hour, ["", "max_lifetime_ms"], QUIET),
    "hosting.max_budget_usd": Row([None, 0.005], hosting.ended_after_a_turn, ["", "max_budget_usd"], QUIET),
    "hosting.max_turns": Row([None, 1], hosting.ended_after_a_turn, ["", "max_turns"], QUIET),
    "hosting.max_tokens": Row([None, 10], hosting.ended_after_a_turn, ["", "max_tokens"], QUIET),
    "hosting.turn_timeout_ms": Row([100, 600_000], hosting.turn_of_three_seconds, ["failed", "done"], QUIET),
    "hosting.retention_days": Row([1, 30], hosting.remembered_after_five_days, [[], ["hybrid"]], QUIET),
    "hosting.ephemeral_retention_ms": Row(
        [60_000, 604_800_000],
        hosting.remembered_after_five_days,
        [[], ["ephemeral"]],
        {**QUIET, "hosting.retention_days": 1},
    ),
    "hosting.queue_max": Row([1, 2], hosting.queued_of_three, beside=QUIET),
    "hosting.archive_mb_max": Row(
        [1, 64], hosting.snapshot_of_three_megabytes, ["refused", "taken"], {**QUIET, **hosting.PROGRAMS}
    ),
    "hosting.watch_folders": Row([[], ["/srv/mail/{tenant}"]], triggers.watched_outside, ["refused", "watched"], QUIET),
    "hosting.sweep_interval_ms": Row(
        [50, 600_000], hosting.a_limit_acts_soon, [True, False], {**QUIET, "hosting.max_lifetime_ms": 100}
    ),
    "hosting.runners": Row(
        [[], hosting.OTHER["hosting.runners"]], hosting.runner_other, ["runner_refused", "made"], QUIET
    ),
    "hosting.runners[].name": Row(["one", "other"], runners.name_of_the_runner, beside=PROGRAM),
    "hosting.runners[].type": Row(["echo", "command"], runners.runs_a_program, ["an echo runs none", "2"], PROGRAM),
    "hosting.runners[].command": Row(
        [[*runners.PROGRAM, "one"], [*runners.PROGRAM, "other"]],
        runners.Says("sys.argv[-1]"),
        ["one", "other"],
        PROGRAM,
    ),
    "hosting.runners[].models": Row([[], ["large"]], runners.Takes(model="small"), ["made", "runner_refused"], PROGRAM),
    "hosting.runners[].tools": Row(
        [[], ["search"]], runners.Takes(allowed_tools=["search"]), ["runner_refused", "made"], PROGRAM
    ),
    "hosting.runners[].options": Row(
        [None, ["other"]], runners.Takes(options={"one": 1}), ["made", "runner_refused"], PROGRAM
    ),
    "hosting.runners[].env": Row(
        [{"TEAM": "a"}, {"TEAM": "b"}], runners.Says("os.environ['TEAM']"), ["a", "b"], PROGRAM
    ),
    "hosting.runners[].readable": Row(
        [[sys.base_prefix], [sys.base_prefix, runners.__file__]],
        runners.reads_a_file_of_ours,
        ["FileNotFoundError", "True"],
        BOX,
    ),
    "hosting.runners[].isolation": Row(["none", "bubblewrap"], runners.is_put_into_a_sandbox, [False, True], BOX),
    "hosting.runners[].network": Row(
        [False, True], runners.reaches_a_port_of_this_machine, ["cannot", "connected"], BOX
    ),
    "hosting.runners[].cgroup": Row([[], ["/nowhere"]], runners.Says("1 + 1"), ["2", "runner_failed"], PROGRAM),
    "hosting.runners[].memory_mb_max": Row(
        [100, 2048], runners.Says("len(bytearray(300 << 20))"), ["MemoryError", str(300 << 20)], PROGRAM
    ),
    "hosting.runners[].processes_max": Row([20, 256], runners.can_start_thirty, [False, True], PROGRAM),
    "hosting.runners[].cpu_s_max": Row(
        [None, 77], runners.Says("resource.getrlimit(resource.RLIMIT_CPU)[0] == 77"), ["False", "True"], PROGRAM
    ),
    "hosting.runners[].file_mb_max": Row(
        [1, 64], runners.Says(runners.THREE_MEGABYTES), ["OSError", "3100000"], PROGRAM
    ),
    "hosting.runners[].open_files_max": Row(
        [64, 77], runners.Says("resource.getrlimit(resource.RLIMIT_NOFILE)[0]"), ["64", "77"], PROGRAM
    ),
    "hosting.runners[].tmp_mb_max": Row(
        [1, 5], runners.Says("os.statvfs('/tmp').f_blocks * os.statvfs('/tmp').f_frsize >> 20"), ["1", "5"], BOX
    ),
    "hosting.runners[].output_mb_max": Row(
        [1, 64],
        runners.Says("'x' * 3_000_000"),
        ["output_too_large", "x" * 3_000_000],
        {**PROGRAM, "hosting.runners[].line_kb_max": 10_000},
    ),
    "hosting.runners[].line_kb_max": Row(
        [10, 1024], runners.Says("'x' * 100_000"), ["line_too_long", "x" * 100_000], PROGRAM
    ),
    "hosting.runners[].workspace_mb_max": Row(
        [1, 1024], runners.snapshot_of_three_megabytes, ["refused", "taken"], PROGRAM
    ),
    "hosting.runners[].start_timeout_ms": Row(
        [100, 600_000], runners.Says("1 + 1"), ["runner_failed", "2"], {**QUIET, **runners.with_words("late:3")}
    ),
    "hosting.runners[].stop_grace_ms": Row(
        [10, 60_000], runners.has_time_to_say_farewell, [False, True], {**QUIET, **runners.with_words("slow")}
    ),
    "hosting.runners[].starts_max": Row(
        [1, 3], runners.most_that_start_at_once, beside={**QUIET, **runners.with_words("late:4")}
    ),
    **tenants.ROWS,
    "otlp.parent_wait_ms": Row([300_000, 600_000], otlp.told_after_five_minutes, [True, False], QUIET),
    "otlp.retention_days": Row([1, 3], otlp.counted_of_a_call_two_days_before, [0, 7], QUIET),
    "logging.level": Row(["warning", "error"], server.lines_of_an_outage, ["text", "nothing"], routing.AWAY),
    "logging.format": Row(["console", "json"], server.lines_of_an_outage, ["text", "a JSON object"], routing.AWAY),
    "tracing.enabled": Row([False, True], server.leaves_spans, [False, True], QUIET),
}


def paths(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Every setting there is, by dotted name; `[]` after those that hold a list of sections."""
    for name, leaf in leaves(section).items():
        if leaf.section is None:
            yield prefix + name
        elif isinstance(leaf.default, Section):
            yield from paths(leaf.section, f"{prefix}{name}.")
        else:
            yield prefix + name
            yield from paths(leaf.section, f"{prefix}{name}[].")


def test_every_setting_has_a_row() -> None:
    """A setting that nobody has shown to matter is found here, and so is a row of one that is gone."""
    assert list(ROWS) == list(paths(Settings))


def test_every_row_tells_its_values_apart() -> None:
    """No row is content with one outcome: what is seen differs with the value."""
    for path, row in ROWS.items():
        seen = row.values if row.seen is None else row.seen
        assert len(seen) == len(row.values) > 1, path
        assert callable(seen[0]) or any(each != seen[0] for each in seen), path


@pytest.mark.parametrize("path", ROWS)
def test_a_setting_matters(path: str, tmp_path: Path) -> None:
    """With each of its values the product does what the table says."""
    row = ROWS[path]
    if row.beside is BOX and row.observe is not runners.is_put_into_a_sandbox and (why := why_no_bubblewrap()):
        pytest.skip(why)
    for number, value in enumerate(row.values):
        flip = flipped(path, value, row.beside, tmp_path / str(number))
        expected = flip.value if row.seen is None else rendered(row.seen[number], flip.directory)
        assert row.observe(flip) == expected, f"{path}: {flip.value!r}"
