"""Each profile has the habits of its registry, and a careful client can pull from it."""

import base64
import json
import re
from urllib.parse import urljoin, urlsplit

import pytest

from tests.fakes import content, profiles
from tests.fakes.auth import BasicGuard
from tests.fakes.clients import RawAnswer, get
from tests.fakes.profiles import PROFILES, Site
from tests.fakes.wire import Headers, Kind

IMAGE = content.image()
LAYER = IMAGE.layers[0]
MANIFEST_PATH = "/v2/a/manifests/latest"
BLOB_PATH = f"/v2/a/blobs/{LAYER.digest}"
AGENT = ("User-Agent", "test")
ACCEPT = ("Accept", f"{content.OCI_MANIFEST}, {content.OCI_INDEX}")


async def ask(url: str, *headers: tuple[str, str], method: str = "GET") -> RawAnswer:
    parts = urlsplit(url)
    target = url.removeprefix(f"{parts.scheme}://{parts.netloc}")
    assert parts.hostname is not None
    assert parts.port is not None
    lines = [AGENT, ACCEPT, *headers]
    return await get(parts.hostname, parts.port, target, lines, method=method)


async def token_for(url: str, answer: RawAnswer) -> tuple[str, str]:
    """Find the challenge, in *answer* or at the ping, and fetch a token."""
    line = answer.header("WWW-Authenticate")
    if line is None:
        line = (await ask(urljoin(url, "/v2/"))).header("WWW-Authenticate") or ""
    parameters = dict(re.findall(r'(\w+)="([^"]*)"', line))
    query = f"scope={parameters.get('scope', 'repository:a:pull')}"
    if "service" in parameters:
        query += f"&service={parameters['service']}"
    document = json.loads((await ask(f"{parameters['realm']}?{query}")).body)
    return "Authorization", f"Bearer {document.get('token') or document['access_token']}"


async def pull(url: str, site: Site, *, method: str = "GET") -> RawAnswer:
    """Pull as a careful client does: authorize for each host, follow redirects."""
    credentials: Headers = []
    for _ in range(10):
        answer = await ask(url, *credentials, method=method)
        if answer.status == 401 and isinstance(site.registry.guard, BasicGuard):
            pair = base64.b64encode(b"AWS:" + site.registry.guard.users["AWS"].encode())
            credentials = [("Authorization", f"Basic {pair.decode()}")]
        elif answer.status == 401 and not credentials:
            credentials = [await token_for(url, answer)]
        elif answer.status in {302, 307}:
            following = urljoin(url, answer.header("Location") or "")
            if urlsplit(following).netloc != urlsplit(url).netloc:
                credentials = []
            url = following
        else:
            return answer
    raise AssertionError(answer)


@pytest.mark.parametrize("name", PROFILES)
async def test_a_careful_client_pulls_from_every_registry(name: str) -> None:
    async with PROFILES[name]() as site:
        site.home.push("a", IMAGE, ["latest"])
        assert (await pull(site.url + MANIFEST_PATH, site)).body == IMAGE.content
        assert (await pull(site.url + BLOB_PATH, site)).body == LAYER.content
        if site.cdn is not None:
            assert site.cdn.bytes_sent(LAYER.digest) == LAYER.size_bytes
            assert site.cdn.requests[-1].authorization is None
        if site.tokens is not None and site.token_origin is not None:
            assert site.tokens.problems == []
            assert site.token_origin.count(kind=Kind.TOKEN) == len(site.tokens.grants) > 0


async def test_hub_counts_pulls_and_says_401_for_what_is_missing() -> None:
    async with profiles.hub() as site:
        site.home.push("a", IMAGE, ["latest"])
        assert site.budget is not None
        answer = await pull(site.url + MANIFEST_PATH, site, method="HEAD")
        assert answer.header("ratelimit-remaining") == "100;w=21600"
        answer = await pull(site.url + MANIFEST_PATH, site)
        assert answer.header("ratelimit-remaining") == "99;w=21600"
        site.budget.exhaust()
        site.budget.retry_after = "60"
        answer = await pull(site.url + MANIFEST_PATH, site)
        assert (answer.status, answer.header("Retry-After")) == (429, "60")
        assert b"pull rate limit" in answer.body
        assert (await pull(site.url + MANIFEST_PATH, site, method="HEAD")).status == 200
        assert (await pull(site.url + BLOB_PATH, site)).status == 200
        assert (await pull(f"{site.url}/v2/missing/manifests/x", site)).status == 401
        assert (await get(site.registry.host, site.registry.port, "/v2/")).status == 403


async def test_ghcr_refuses_a_token_and_a_type() -> None:
    async with profiles.ghcr() as site:
        refused = await ask(f"{site.url}/token?service=ghcr.io&scope=repository:missing:pull")
        assert refused.status == 403
        site.home.push("a", content.image(docker=True), ["latest"])
        assert (await pull(site.url + MANIFEST_PATH, site)).status == 404


async def test_quay_redirects_with_a_page_and_a_digest() -> None:
    async with profiles.quay() as site:
        site.home.push("a", IMAGE, ["latest"])
        site.registry.guard = None
        answer = await ask(site.url + BLOB_PATH)
        assert (answer.status, answer.header("Docker-Content-Digest")) == (302, LAYER.digest)
        assert answer.header("Content-Type") == "text/html; charset=utf-8"
        assert (await ask(f"{site.url}/v2/auth?service=quay.io")).status == 401
        answer = await ask(f"{site.url}/v2/auth?service=quay.io&scope=repository:a:pull")
        assert list(json.loads(answer.body)) == ["token"]


async def test_ecr_passwords_expire_with_403() -> None:
    async with profiles.ecr() as site:
        assert site.basic is not None
        site.home.push("a", IMAGE, ["latest"])
        site.basic.expire()
        assert (await pull(site.url + MANIFEST_PATH, site)).status == 403
        site.basic.users["AWS"] = "password-of-tomorrow"
        assert (await pull(site.url + MANIFEST_PATH, site)).status == 200
        assert (await pull(f"{site.url}/v2/a/tags/list?n=1001", site)).status == 400


async def test_ecr_public_refuses_head_of_a_blob() -> None:
    async with profiles.ecr_public() as site:
        site.home.push("a", IMAGE)
        assert (await pull(site.url + BLOB_PATH, site, method="HEAD")).status == 401
        assert (await pull(site.url + BLOB_PATH, site)).status == 200


async def test_acr_gives_an_access_token_only() -> None:
    async with profiles.acr() as site:
        url = f"{site.url}/oauth2/token?service={site.registry.authority}"
        assert (await ask(url)).status == 401
        assert (await ask(url, method="POST")).status == 400
        answer = await ask(f"{url}&scope=repository:a:pull")
        assert list(json.loads(answer.body)) == ["access_token"]


async def test_k8s_redirects_manifests_and_heads_and_drops_the_query() -> None:
    async with profiles.k8s() as site:
        assert site.backend is not None
        answer = await ask(f"{site.url}{MANIFEST_PATH}?ns=x", method="HEAD")
        assert answer.status == 307
        assert answer.header("Location") == site.backend.url + MANIFEST_PATH
        assert (await ask(f"{site.url}/v2/")).status == 200
        assert (await ask(answer.header("Location") or "")).status == 401


async def test_gcr_hides_its_challenge_and_redirects_relatively() -> None:
    async with profiles.gcr() as site:
        site.home.push("a", IMAGE, ["latest"])
        answer = await ask(site.url + MANIFEST_PATH)
        assert (answer.status, answer.header("WWW-Authenticate")) == (401, None)
        site.registry.guard = None
        location = (await ask(site.url + BLOB_PATH)).header("Location") or ""
        assert location.startswith("/v2/")


async def test_distribution_knows_neither_pages_nor_referrers() -> None:
    async with profiles.distribution() as site:
        site.home.push("a", IMAGE, ["x", "y"])
        answer = await ask(f"{site.url}/v2/a/tags/list?n=1")
        assert json.loads(answer.body)["tags"] == ["x", "y"]
        answer = await ask(f"{site.url}/v2/a/referrers/{IMAGE.digest}")
        assert (answer.status, answer.header("Content-Type")) == (404, "text/plain; charset=utf-8")


async def test_nvcr_names_no_service() -> None:
    async with profiles.nvcr() as site:
        line = (await ask(site.url + MANIFEST_PATH)).header("WWW-Authenticate")
        assert line == f'Bearer realm="{site.url}/proxy_auth",scope="repository:a:pull"'


async def test_all_of_them_run_at_once() -> None:
    async with profiles.every_profile() as sites:
        assert set(sites) == set(PROFILES)
        ports = [origin.port for site in sites.values() for origin in site.origins]
        assert len(set(ports)) == len(ports)
