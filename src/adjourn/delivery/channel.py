"""A destination and how to deliver to it; what is counted of it."""

from __future__ import annotations

import msgspec

from adjourn.delivery.latency import Latency
from adjourn.delivery.route import Shapes, Wants
from adjourn.destination import Destination


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """`wants`: which types of events; None: every one. `batch_size`: events that are sent at once. `gather`: a small
    batch costs the destination nearly what a full one does, so that it is better to wait a moment for more."""

    name: str
    type: str
    destination: Destination
    wants: Wants | None = None
    shapes: Shapes | None = None
    sampling_rate: float = 1.0
    batch_size: int = 2_000
    gather: bool = True
    attempts: int = 3
    delay_ms: int = 1_000
    delay_ms_max: int = 60_000


class ChannelStats(msgspec.Struct):
    """Since this process started; the durable counts are in `conservation`."""

    sent: int = 0
    success: int = 0
    failure: int = 0
    retries: int = 0
    waiting: str = ""
    """Why nothing is being delivered now; empty when all is well."""
    latency: Latency = msgspec.field(default_factory=Latency)
    """From an event's arrival to its delivery."""
