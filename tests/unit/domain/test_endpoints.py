"""Which endpoint is the registry itself, and which of several errors counts."""

from itertools import permutations

import pytest

from mirror.domain.endpoints import Endpoint, Refusal, combined
from mirror.domain.errors import (
    DeniedError,
    ManifestInvalidError,
    ManifestUnknownError,
    MirrorError,
    RateLimitedError,
    UpstreamTimeoutError,
)

NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io", "local:5000", "[::1]:5000")
REGISTRY = Endpoint("https://registry-1.docker.io", is_registry=True)
MIRROR = Endpoint("https://mirror.example", is_registry=False)
OTHER = Endpoint("https://other.example", is_registry=False)
MISSING, DENIED = ManifestUnknownError("x"), DeniedError("x")
TIMEOUT, LIMITED = UpstreamTimeoutError("x"), RateLimitedError("docker.io", 3)


@pytest.mark.parametrize(
    ("url", "is_registry"),
    [
        ("https://registry-1.docker.io", True),
        ("https://DOCKER.io:443", True),
        ("http://local:5000/", True),
        ("http://local:5001", False),
        ("http://[::1]:5000", True),
        ("http://[::2]:5000", False),
        ("https://docker.io.mirror.example", False),
        ("https://mirror.example/docker.io", False),
        ("nonsense", False),
    ],
)
def test_an_endpoint_is_the_registry_by_its_host(url: str, *, is_registry: bool) -> None:
    assert Endpoint.of(url, NAMES).is_registry is is_registry


@pytest.mark.parametrize("tail", ["", "/", "/v2", "/v2/"])
def test_the_api_is_appended_once(tail: str) -> None:
    assert Endpoint.of(f"https://h/hub{tail}", ()).url == "https://h/hub"


@pytest.mark.parametrize(
    ("refusals", "counts"),
    [
        ([(REGISTRY, MISSING)], MISSING),
        ([(MIRROR, MISSING)], MISSING),
        ([(MIRROR, TIMEOUT), (REGISTRY, MISSING)], MISSING),
        ([(MIRROR, DENIED), (REGISTRY, MISSING)], MISSING),
        ([(MIRROR, MISSING), (REGISTRY, DENIED)], DENIED),
        ([(MIRROR, MISSING), (REGISTRY, TIMEOUT)], TIMEOUT),
        ([(MIRROR, MISSING), (REGISTRY, LIMITED)], LIMITED),
        ([(MIRROR, MISSING), (OTHER, TIMEOUT)], TIMEOUT),
    ],
)
def test_the_registrys_word_then_trouble_then_a_mirrors_word(
    refusals: list[tuple[Endpoint, MirrorError]], counts: MirrorError
) -> None:
    for order in permutations(refusals):
        assert combined([Refusal(*each) for each in order]) is counts


def test_of_two_alike_the_first_counts() -> None:
    invalid = ManifestInvalidError("x")
    assert combined([Refusal(MIRROR, invalid), Refusal(OTHER, TIMEOUT)]) is invalid
    assert combined([Refusal(MIRROR, MISSING), Refusal(OTHER, DENIED)]) is MISSING
