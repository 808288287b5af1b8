"""Addresses of a mirror as clients want them."""

import pytest

from mirror.clients.address import MirrorAddress


@pytest.mark.parametrize(
    ("given", "url", "netloc", "scope"),
    [
        ("http://mirror.example:5000", "http://mirror.example:5000", "mirror.example:5000", "net"),
        ("HTTPS://Mirror.Example/", "https://mirror.example", "mirror.example", "net"),
        ("http://[fd00::1]:30500", "http://[fd00::1]:30500", "[fd00::1]:30500", "net"),
        ("http://[10.0.0.1]:30500", "http://10.0.0.1:30500", "10.0.0.1:30500", "net"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000", "127.0.0.1:5000", "host"),
        ("http://localhost", "http://localhost", "localhost", "host"),
        ("http://[::1]:1", "http://[::1]:1", "[::1]:1", "host"),
    ],
)
def test_an_address_is_read_and_written(given: str, url: str, netloc: str, scope: str) -> None:
    address = MirrorAddress.parse(given)
    assert (str(address), address.netloc) == (url, netloc)
    assert address.is_loopback is (scope == "host")
    assert MirrorAddress.parse(url) == address


def test_a_port_that_is_not_written_is_known() -> None:
    assert MirrorAddress.parse("http://m").connection_port == 80
    assert MirrorAddress.parse("https://m").connection_port == 443


@pytest.mark.parametrize(
    "given",
    [
        *("", "mirror:5000", "ftp://m", "http://", "http://m:x", "http://m:99999", "http://u@m"),
        *("http://m/path", "http://m?q", "http://m#f", 'http://m"', "http://a b", "http://[x]"),
    ],
)
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        MirrorAddress.parse(given)
