"""Clients of an Adjourn server over HTTP."""

from adjourn.sdk._async import AsyncClient, AsyncWatch
from adjourn.sdk._sync import Client, Watch
from adjourn.sdk.models import (
    CompletedAnswer,
    DestinationCounts,
    EventAnswer,
    EventResult,
    EventStatus,
    MetricsAnswer,
    SendAnswer,
    WatchedAnswer,
    WatchedPage,
)

__all__ = [
    "AsyncClient",
    "AsyncWatch",
    "Client",
    "CompletedAnswer",
    "DestinationCounts",
    "EventAnswer",
    "EventResult",
    "EventStatus",
    "MetricsAnswer",
    "SendAnswer",
    "Watch",
    "WatchedAnswer",
    "WatchedPage",
]
