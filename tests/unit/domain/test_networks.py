"""Which addresses are public, and which hosts an operator has named."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.domain.networks import Reach, is_public, sounds_private


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1"),
        *("2606:4700:4700::1111", "2a00:1450:4001:82a::200e"),
        *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"),
    ],
)
def test_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.0.9", "169.254.169.254"),  # noqa: S104 -- judged only
        *("172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.168.1.1", "198.19.0.1"),
        *("198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"),
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:0:127.0.0.1", "fd00:ec2::254"),
        *("fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "2001:db8::1", "100::1"),
        *("64:ff9b::169.254.169.254", "64:ff9b::10.0.0.1", "64:ff9b:1::8.8.8.8"),
        *("2002:7f00:1::", "2002:a9fe:a9fe::1", "2001::1", "3fff::1"),
        *("", "localhost", "127.1", "0x7f000001", "2130706433", "1.2.3.4.5", "[::1]"),
    ],
)
def test_not_public(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_ipv6_that_carries_ipv4_is_judged_by_it(address: IPv4Address) -> None:
    number = int(address)
    sixtofour = IPv6Address(0x2002 << 112 | number << 80 | 1)
    for written in (f"::ffff:{address}", f"64:ff9b::{address}", str(sixtofour)):
        assert is_public(written) is is_public(str(address))


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public(
    address: IPv4Address | IPv6Address,
) -> None:
    if is_public(str(address)):
        assert not any((address.is_loopback, address.is_link_local, address.is_multicast))


@pytest.mark.parametrize(
    ("host", "private"),
    [
        *((name, True) for name in ("localhost", "a.localhost", "metadata", "kubernetes")),
        *((name, True) for name in ("metadata.google.internal", "kubernetes.default.svc")),
        *((name, True) for name in ("api.default.svc.cluster.local", "printer.local", "intranet")),
        *((name, True) for name in ("10.0.0.1", "169.254.169.254", "::1")),
        *((name, True) for name in ("127.1", "169.254.43518", "0x7f.1", "2130706433", "1.2.3.4.5")),
        *((name, True) for name in ("0177.0.0.1", "0x7f.0.0.0x1", "127.0.0.0x1", "0xa9fea9fe")),
        *((name, False) for name in ("1.example", "127.0.0.1.example.com", "0x7f.1.example.com")),
        *((name, False) for name in ("a.1b", "a.b1", "93.184.216.34", "2a00:1450:4001:82a::200e")),
        *((name, False) for name in ("cdn.example.com", "internal.example.com", "8.8.8.8")),
    ],
)
def test_names_that_a_proxy_is_not_asked_for(host: str, *, private: bool) -> None:
    assert sounds_private(host) is private


def test_an_operator_names_hosts_ports_and_networks() -> None:
    reach = Reach.of(
        ["http://registry.corp:5000", "https://[fd00::1]", "http://10.9.9.9"],
        ["auth.corp", "tokens.corp:8443"],
        ["minio.corp", "cdn.corp:9000", "10.1.0.0/16", "fd00:1::/64", "192.168.7.7"],
    )
    for host, port in (
        ("registry.corp", 5000),
        ("fd00::1", 443),
        ("10.9.9.9", 80),
        ("auth.corp", 1),
        ("tokens.corp", 8443),
        ("minio.corp", 1),
        ("cdn.corp", 9000),
    ):
        assert reach.names(host, port)
    for host, port in (
        ("registry.corp", 80),
        ("fd00::1", 80),
        ("10.9.9.9", 6443),
        ("tokens.corp", 443),
        ("cdn.corp", 443),
        ("corp", 443),
        ("10.1.0.1", 80),
    ):
        assert not reach.names(host, port)
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00:1::5", "192.168.7.7", "8.8.8.8"):
        assert reach.allows(address)
    for address in ("10.2.0.1", "::ffff:10.2.0.1", "fd00:2::5", "192.168.7.8", "127.0.0.1"):
        assert not reach.allows(address)
