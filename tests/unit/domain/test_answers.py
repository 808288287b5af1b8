"""Error classes survive: each status means what it means."""

import pytest

from mirror.domain.answers import HUB, Answer, access_refused, refusal
from mirror.domain.errors import (
    BlobUnknownError,
    DeniedError,
    ManifestUnknownError,
    MirrorError,
    NameUnknownError,
    NotFoundError,
    RateLimitedError,
    TroubleError,
    UpstreamTimeoutError,
    UpstreamTroubleError,
)
from mirror.domain.routing import Kind


def answer(status: int, **more: object) -> Answer:
    fields: dict[str, object] = {"upstream": "ghcr.io", "kind": Kind.MANIFEST, "what": "x", **more}
    return Answer(status=status, **fields)  # type: ignore[arg-type]  # fields of Answer


@pytest.mark.parametrize("status", [200, 206])
def test_what_delivers(status: int) -> None:
    assert refusal(answer(status)) is None


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, ManifestUnknownError),
        (401, DeniedError),
        (403, DeniedError),
        (429, RateLimitedError),
        (408, UpstreamTimeoutError),
        (504, UpstreamTimeoutError),
        *((status, UpstreamTroubleError) for status in (204, 300, 304, 400, 405, 406, 410, 451)),
        *((status, UpstreamTroubleError) for status in (500, 502, 503, 508, 522, 599)),
    ],
)
def test_what_does_not(status: int, error: type[MirrorError]) -> None:
    assert type(refusal(answer(status))) is error


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (Kind.MANIFEST, ManifestUnknownError),
        (Kind.BLOB, BlobUnknownError),
        (Kind.TAGS, NameUnknownError),
        (Kind.REFERRERS, NameUnknownError),
    ],
)
def test_what_is_missing_has_a_name(kind: Kind, error: type[NotFoundError]) -> None:
    assert type(refusal(answer(404, kind=kind))) is error
    assert type(refusal(answer(401, kind=kind, upstream=HUB))) is error
    assert type(access_refused(HUB, kind, "x")) is error
    assert type(access_refused("ghcr.io", kind, "x")) is DeniedError


def test_the_hub_says_denied_when_it_means_it() -> None:
    assert type(refusal(answer(403, upstream=HUB))) is DeniedError


@pytest.mark.parametrize(
    "more", [{"foreign": True}, {"is_html": True}, {"foreign": True, "is_html": True}]
)
def test_a_cdn_or_a_bot_wall_denies_nobody(more: dict[str, object]) -> None:
    assert type(refusal(answer(403, **more))) is UpstreamTroubleError
    assert type(refusal(answer(403, upstream=HUB, **more))) is UpstreamTroubleError


def test_a_cdn_never_says_that_an_image_of_the_hub_is_missing() -> None:
    assert type(refusal(answer(401, upstream=HUB, foreign=True))) is UpstreamTroubleError


def test_a_login_page_of_a_proxy_is_still_a_refusal() -> None:
    assert type(refusal(answer(401, is_html=True))) is DeniedError


def test_the_rate_limit_says_how_long() -> None:
    error = refusal(answer(429, retry_after_seconds=7))
    assert isinstance(error, RateLimitedError)
    assert (error.upstream, error.retry_after_seconds) == ("ghcr.io", 7)


@pytest.mark.parametrize("upstream", [HUB, "quay.io"])
@pytest.mark.parametrize("foreign", [True, False])
@pytest.mark.parametrize("is_html", [True, False])
def test_no_outage_looks_like_an_answer(upstream: str, *, foreign: bool, is_html: bool) -> None:
    for status in (408, 429, *range(500, 600)):
        error = refusal(answer(status, upstream=upstream, foreign=foreign, is_html=is_html))
        assert isinstance(error, TroubleError)
