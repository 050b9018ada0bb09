"""Log lines: a name and fields."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from adjourn.eventlog import JsonFormatter, get_logger
from tests.documented import documented_rows

ROOT = Path(__file__).parents[1]
OPERATE = ROOT / "docs" / "howto" / "operate.md"

_CALL = re.compile(r"\b_log(?:ger)?\.(info|warning|error|exception)\(\s*\"(\w+)\"")


def test_every_log_line_is_documented() -> None:
    """docs/howto/operate.md lists the name and level of each line that the source logs, and no other."""
    logged = {
        (name, "error" if level == "exception" else level)
        for path in (ROOT / "src" / "adjourn").rglob("*.py")
        for level, name in _CALL.findall(path.read_text("utf-8"))
    }
    page = documented_rows(OPERATE, section="Log lines")
    spans = {"info to error": ("info", "warning", "error")}
    assert logged == {(name, level) for name, cells in page.items() for level in spans.get(cells[1], (cells[1],))}


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def test_a_line_has_a_name_and_fields() -> None:
    """As text they stand behind each other; as JSON each is a key; values of any type are written, never an error."""
    handler, logger = Kept(), logging.getLogger("adjourn.test")
    logger.addHandler(handler)
    try:
        get_logger("adjourn.test").warning("pump_waits", producer="p", error=ValueError("no"), percent="100%s")
        try:
            raise KeyError("k")
        except KeyError:
            get_logger("adjourn.test").exception("pump_failed")
    finally:
        logger.removeHandler(handler)
    waits, failed = handler.records
    assert waits.getMessage() == "pump_waits producer=p error=no percent=100%s"
    line = json.loads(JsonFormatter().format(waits))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "adjourn.test",
        "event": "pump_waits",
        "producer": "p",
        "error": "no",
        "percent": "100%s",
    }
    assert "KeyError" in json.loads(JsonFormatter().format(failed))["traceback"]
