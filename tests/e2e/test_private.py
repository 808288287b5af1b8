"""A registry that wants tokens, for clients that have no password."""

from __future__ import annotations

import pytest

from . import oci
from . import seed as names
from .clients import Client, Containerd, Cri, Podman, Skopeo
from .conftest import StartClient, Upstreams
from .mirror_process import Mirror
from .registry import Registry
from .seed import Seed
from .token_server import PASSWORD, TokenServer


def test_the_registry_lets_nobody_in_without_a_token(
    token_registry: Registry, token_server: TokenServer
) -> None:
    answer = oci.request(f"{token_registry.url}/v2/team/secret/manifests/v1")

    assert answer.status == 401
    assert token_server.realm in answer.headers["www-authenticate"]


@pytest.mark.parametrize("kind", [Containerd, Cri, Podman, Skopeo], ids=lambda kind: kind.name)
def test_a_private_image_is_pulled_with_the_mirrors_credentials(
    *,
    kind: type[Client],
    mirror: Mirror,
    upstreams: Upstreams,
    token_server: TokenServer,
    seed: Seed,
    start_client: StartClient,
) -> None:
    client, image = start_client(kind, mirror), seed.images[names.SECRET]
    given, refused = token_server.given, token_server.refused

    assert image.digest in client.pull(image)
    client.wipe()
    upstreams.token.forget()
    assert image.digest in client.pull(image)

    assert upstreams.token.object_gets() == []
    assert token_server.given == given + 1, "one token is enough for one repository"
    assert token_server.refused == refused
    assert upstreams.plain.records == []


def test_the_credentials_stay_where_they_belong(
    mirror: Mirror, upstreams: Upstreams, seed: Seed
) -> None:
    image = seed.images[names.SECRET]

    answer = mirror.get("/v2/private.example/team/secret/manifests/v1")
    public = mirror.get("/v2/library/hello/manifests/v1")
    by_digest = mirror.get(f"/v2/library/hello/manifests/{image.digest}")

    assert answer.status == public.status == 200
    assert by_digest.status == 404, "a digest is not a capability"
    assert "www-authenticate" not in answer.headers
    assert not any(record.authorized for record in upstreams.plain.records)
    assert PASSWORD not in mirror.log_text()
