"""Adjourn's own log lines: an event's name and its fields, through the standard library's logging.

A program that embeds Adjourn configures logging as it likes and reads `batch_failed lane=… error=…`; the server
installs `configure`, which writes them for a person or as one JSON object a line.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal


class EventLogger:
    """`get_logger("adjourn.pump").warning("pump_waits", producer=…)`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def info(self, event: str, **fields: object) -> None:
        self._write(logging.INFO, event, fields, exc_info=False)

    def warning(self, event: str, **fields: object) -> None:
        self._write(logging.WARNING, event, fields, exc_info=False)

    def error(self, event: str, **fields: object) -> None:
        self._write(logging.ERROR, event, fields, exc_info=False)

    def exception(self, event: str, **fields: object) -> None:
        """With the traceback of the exception that is being handled."""
        self._write(logging.ERROR, event, fields, exc_info=True)

    def _write(self, level: int, event: str, fields: dict[str, object], *, exc_info: bool) -> None:
        if self._logger.isEnabledFor(level):
            text = " ".join([event, *(f"{name}={value}" for name, value in fields.items())])
            self._logger.log(level, "%s", text, exc_info=exc_info, extra={"event": event, "fields": fields})


def get_logger(name: str) -> EventLogger:
    return EventLogger(name)


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, event, and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": getattr(record, "event", record.getMessage()),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(level: str, form: Literal["console", "json"]) -> None:
    """For the server and the command line: everything to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if form == "json" else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("adjourn").setLevel(level.upper())
