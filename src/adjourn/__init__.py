"""Adjourn: sessions of AI agents, completed exactly once."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adjourn.capture import current_session, get_runtime, session, set_runtime
    from adjourn.completion.receipts import Receipt
    from adjourn.errors import AdjournError
    from adjourn.events import Completion
    from adjourn.finished import capture_chat_session, capture_realtime_session
    from adjourn.runtime import Runtime
    from adjourn.settings import Settings, default_settings
    from adjourn.version import __version__

__all__ = [
    "AdjournError",
    "Completion",
    "Receipt",
    "Runtime",
    "Settings",
    "__version__",
    "capture_chat_session",
    "capture_realtime_session",
    "current_session",
    "default_settings",
    "get_runtime",
    "session",
    "set_runtime",
]

_HOMES = {
    "AdjournError": "errors",
    "Completion": "events",
    "Receipt": "completion.receipts",
    "Runtime": "runtime",
    "Settings": "settings",
    "__version__": "version",
    "capture_chat_session": "finished",
    "capture_realtime_session": "finished",
    "current_session": "capture",
    "default_settings": "settings",
    "get_runtime": "capture",
    "session": "capture",
    "set_runtime": "capture",
}


def __getattr__(name: str) -> object:
    """Imported when it is first used: a program that needs one small module of Adjourn does not load the server."""
    if name not in _HOMES:
        raise AttributeError(f"module 'adjourn' has no attribute {name!r}")
    found: object = getattr(importlib.import_module(f"adjourn.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
