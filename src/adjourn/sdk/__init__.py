"""Clients of an Adjourn server over HTTP."""

from adjourn.sdk._async import AsyncClient
from adjourn.sdk._sync import Client
from adjourn.sdk.models import (
    DestinationCounts,
    EventAnswer,
    EventResult,
    EventStatus,
    MetricsAnswer,
    SendAnswer,
)

__all__ = [
    "AsyncClient",
    "Client",
    "DestinationCounts",
    "EventAnswer",
    "EventResult",
    "EventStatus",
    "MetricsAnswer",
    "SendAnswer",
]
