"""From the settings to what delivers: each configured destination as a channel. No I/O: nothing is opened here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from adjourn.delivery.channel import Channel
from adjourn.delivery.route import ALL, wants_of
from adjourn.delivery.transform import Shaping, TransformCallable, shaping_of
from adjourn.destination import Destination
from adjourn.destinations.database import DatabaseDestination
from adjourn.destinations.logfile import LogfileDestination
from adjourn.errors import ConfigInvalid
from adjourn.events import STATUS_CHANGED
from adjourn.secret import reveal
from adjourn.settings import DestinationSettings, RoutingSettings, Settings

MB = 1_000_000

Installation = Callable[[], str]
"""What the node's database is known by to others; asked once it is open."""


def channels_of(
    settings: Settings,
    callables: Mapping[str, TransformCallable],
    installation: Installation,
    before: tuple[Settings, Sequence[Channel]] | None = None,
) -> list[Channel]:
    """One for each destination that is enabled. What is configured as it was `before` keeps its channel, and so goes on
    undisturbed. Raises ConfigInvalid."""
    kept: dict[str, Channel] = {}
    if before is not None:
        old, channels = before
        same = {d.name for d in settings.routing.destinations if d in old.routing.destinations}
        if _defaults(old) == _defaults(settings):
            kept = {channel.name: channel for channel in channels if channel.name in same}
    return [
        kept[d.name] if d.name in kept else channel_of(settings, d, callables, installation)
        for d in settings.routing.destinations
        if d.enabled
    ]


def _defaults(settings: Settings) -> object:
    """What destinations have in common."""
    return msgspec.structs.replace(settings.routing, destinations=()), settings.server.public_url


def channel_of(
    settings: Settings,
    destination: DestinationSettings,
    callables: Mapping[str, TransformCallable] = {},
    installation: Installation = str,
) -> Channel:
    """Raises ConfigInvalid."""
    return Channel(
        name=destination.name,
        type=destination.type,
        destination=destination_of(settings, destination, installation),
        wants=wants_of(destination.events),
        shapes=shapes_of(destination, callables),
        sampling_rate=destination.sampling_rate,
        batch_size=at_once(settings.routing, destination),
        gather=destination.type not in SINGLY,
        attempts=settings.routing.attempts_of(destination),
        delay_ms=settings.routing.delay_ms_of(destination),
        delay_ms_max=settings.routing.retry_delay_ms_max,
    )


def shapes_of(destination: DestinationSettings, callables: Mapping[str, TransformCallable] = {}) -> Shaping | None:
    """Raises ConfigInvalid that names the destination, and ExtraMissing."""
    try:
        return shaping_of(filter=destination.filter, transform=destination.transform, callables=callables)
    except ConfigInvalid as error:
        fact = f"destination '{destination.name}': {error.message}"
        raise ConfigInvalid(fact, path="routing.destinations") from None


SINGLY = ("webhook",)
"""Types of destination that send many requests side by side, each of few events."""


def at_once(routing: RoutingSettings, destination: DestinationSettings) -> int:
    """How many events a destination is handed at once: enough that each of its requests under way is followed by
    others."""
    side_by_side = destination.concurrency if destination.type in (*SINGLY, "analytics") else 1
    requests = 4 * side_by_side if destination.type in SINGLY else side_by_side
    return requests * routing.batch_size_of(destination)


def destination_of(whole: Settings, settings: DestinationSettings, installation: Installation = str) -> Destination:
    """Raises ConfigInvalid."""
    if settings.type == "database":
        return DatabaseDestination(
            name=settings.name,
            connection_string=reveal(settings.connection_string),
            table=settings.table,
            timeout_ms=whole.routing.timeout_ms_of(settings),
            status_changes=STATUS_CHANGED in settings.events or ALL in settings.events,
        )
    if settings.type == "webhook":
        from adjourn.destinations.webhook import WebhookDestination  # late: aiohttp costs megabytes

        return WebhookDestination(
            name=settings.name,
            url=reveal(settings.url),
            headers={name: reveal(value) for name, value in settings.headers.items()},
            signing_secrets=[reveal(secret) for secret in settings.signing_secrets],
            batch_size=whole.routing.batch_size_of(settings),
            concurrency=settings.concurrency,
            timeout_ms=whole.routing.timeout_ms_of(settings),
            compression=settings.compression,
            payload_bytes_max=settings.payload_bytes_max,
            public_url=whole.server.public_url,
            allow_http=settings.allow_http,
            allow_networks=settings.allow_networks,
        )
    if settings.type == "analytics":
        return _analytics(whole, settings)
    if settings.type == "upstream":
        return _upstream(whole, settings, installation)
    return LogfileDestination(
        name=settings.name,
        path=settings.log_path or None,
        level=settings.log_level or None,
        rotate_bytes=settings.rotate_mb * MB,
        rotate_keep=settings.rotate_keep,
    )


def _analytics(whole: Settings, settings: DestinationSettings) -> Destination:
    from adjourn.destinations.analytics import AnalyticsDestination  # late: aiohttp costs megabytes

    return AnalyticsDestination(
        name=settings.name,
        url=reveal(settings.url),
        headers={name: reveal(value) for name, value in settings.headers.items()},
        format=settings.format,
        key=reveal(settings.key),
        batch_size=whole.routing.batch_size_of(settings),
        concurrency=settings.concurrency,
        timeout_ms=whole.routing.timeout_ms_of(settings),
        compression=settings.compression,
        payload_bytes_max=settings.payload_bytes_max,
        public_url=whole.server.public_url,
        allow_http=settings.allow_http,
        allow_networks=settings.allow_networks,
    )


def _upstream(whole: Settings, settings: DestinationSettings, installation: Installation) -> Destination:
    from adjourn.destinations.upstream import UpstreamDestination  # late: aiohttp costs megabytes

    return UpstreamDestination(
        name=settings.name,
        url=reveal(settings.url),
        headers={name: reveal(value) for name, value in settings.headers.items()},
        key=reveal(settings.key),
        installation=installation,
        timeout_ms=whole.routing.timeout_ms_of(settings),
        allow_http=settings.allow_http,
        allow_networks=settings.allow_networks,
    )
