"""Adjourn: sessions of AI agents, completed exactly once."""

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
