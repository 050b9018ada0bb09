"""Which network addresses a destination may be at: public ones, and those that its settings allow. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# What the ipaddress module of some Python version calls global, and no destination is at.
_KINDS: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(network), kind)
    for network, kind in (
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("168.63.129.16/32", "metadata"),
        ("192.0.0.0/24", "reserved"),
        ("192.88.99.0/24", "reserved"),
        ("::/96", "reserved"),
        ("64:ff9b:1::/48", "private"),
        ("100::/64", "reserved"),
        ("2001::/23", "reserved"),
        ("2001:db8::/32", "reserved"),
        ("3fff::/20", "reserved"),
        ("5f00::/16", "reserved"),
        ("fec0::/10", "private"),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All of IPv6 that is handed out to anybody; the rest is not, or is translated to IPv4 on the way."""


def networks_of(texts: Iterable[str]) -> tuple[Network, ...]:
    """`10.0.0.0/8`, `fd00::/8`, or one address. Raises ValueError."""
    return tuple(ip_network(text) for text in texts)


def why_forbidden(text: str, allowed: Iterable[Network] = ()) -> str:
    """What kind of address it is that must not be connected to, such as `loopback`; empty if it may be."""
    try:
        # The scope of `fe80::1%eth0` says nothing about what the address is.
        address: Address = ip_address(text.partition("%")[0])
    except ValueError:
        return "unreadable"
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if mapped is not None:
        address = mapped
    if any(address in network for network in allowed):
        return ""
    inner = _carried(address)
    return _kind(address) if inner is None else _kind(inner)


def _carried(address: Address) -> IPv4Address | None:
    """The IPv4 address that a gateway would take out of it: 6to4 and NAT64."""
    if isinstance(address, IPv6Address):
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def _kind(address: Address) -> str:
    if address.is_unspecified:
        return "unspecified"
    if address.is_loopback:
        return "loopback"
    if address.is_link_local:
        return "link-local"
    if address.is_multicast:
        return "multicast"
    for network, kind in _KINDS:
        if address in network:
            return kind
    if not address.is_global:
        return "private" if address.is_private else "reserved"
    return "reserved" if isinstance(address, IPv6Address) and address not in _GLOBAL_UNICAST else ""
