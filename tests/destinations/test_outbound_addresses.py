"""Which addresses may be connected to: every range that leads inside is refused, however it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adjourn.destinations.outbound_addresses import networks_of, why_forbidden

FORBIDDEN = {
    "0.0.0.0": "unspecified",
    "0.1.2.3": "private",
    "10.0.0.1": "private",
    "100.64.0.1": "carrier-grade NAT",
    "100.100.100.200": "carrier-grade NAT",
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "168.63.129.16": "metadata",
    "169.254.169.254": "link-local",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.0.0.192": "reserved",
    "192.0.2.1": "private",
    "192.88.99.1": "reserved",
    "192.168.1.1": "private",
    "198.18.0.1": "private",
    "198.51.100.1": "private",
    "203.0.113.1": "private",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "240.0.0.1": "private",
    "255.255.255.255": "private",
    "::": "unspecified",
    "::1": "loopback",
    "::127.0.0.1": "reserved",
    "::ffff:0:127.0.0.1": "reserved",
    "4000::1": "reserved",
    "::ffff:127.0.0.1": "loopback",
    "::ffff:7f00:1": "loopback",
    "::ffff:169.254.169.254": "link-local",
    "64:ff9b::127.0.0.1": "loopback",
    "64:ff9b::a00:1": "private",
    "64:ff9b:1::1": "private",
    "100::1": "reserved",
    "2001::1": "reserved",
    "2001:db8::1": "reserved",
    "2002:7f00:1::": "loopback",
    "2002:a9fe:a9fe::": "link-local",
    "3fff::1": "reserved",
    "5f00::1": "reserved",
    "fc00::1": "private",
    "fd00:ec2::254": "private",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "fec0::1": "private",
    "ff02::1": "multicast",
    "ff0e::1": "multicast",
    "localhost": "unreadable",
    "": "unreadable",
}
PUBLIC = (
    "1.1.1.1",
    "8.8.8.8",
    "172.32.0.1",
    "100.128.0.1",
    "2606:4700:4700::1111",
    "64:ff9b::808:808",
    "2002:808:808::",
)


@pytest.mark.parametrize("address", FORBIDDEN)
def test_what_leads_inside_is_refused(address: str) -> None:
    """Private, loopback, link-local, shared, reserved, multicast and metadata ones, and IPv6 ones that carry one."""
    assert why_forbidden(address) == FORBIDDEN[address]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_connected_to(address: str) -> None:
    """A destination on the public network is reached, through NAT64 and 6to4 too."""
    assert why_forbidden(address) == ""


def test_networks_can_be_allowed() -> None:
    """What the settings allow is reached although it is private, and nothing beside it; mapped ones count as what they
    carry."""
    allowed = networks_of(["10.1.0.0/16", "::1/128", "127.0.0.1"])
    for address in ("10.1.2.3", "::1", "127.0.0.1", "::ffff:10.1.2.3"):
        assert why_forbidden(address, allowed) == ""
    for address in ("10.2.0.1", "127.0.0.2", "::ffff:10.2.0.1", "64:ff9b::a01:203"):
        assert why_forbidden(address, allowed)


@given(st.ip_addresses(v=4))
def test_carrying_an_address_hides_nothing(address: object) -> None:
    """An IPv4 address is judged alike on its own, mapped, and through NAT64."""
    alone = why_forbidden(str(address))
    assert why_forbidden(f"::ffff:{address}") == alone
    assert why_forbidden(f"64:ff9b::{address}") == alone
