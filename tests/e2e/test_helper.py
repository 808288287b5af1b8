"""The credential helper of Amazon ECR, the real one, between a mirror and an API that checks it.

Its SDK signs as AWS wants it, so it also shows that the fake API takes what AWS would take; the
mirror's own requests are then held to the same.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mirror.settings import Credential, Upstream
from tests.fakes.clouds import FakeAws, PasswordsOfAws
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import mirror_of

from .conftest import tool

ECR = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
IMAGE = image(11)


@pytest.mark.parametrize("way", ["helper", "cloud"])
async def test_ecr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    given = {"helper": str(tool("docker-credential-ecr-login"))}
    async with FakeAws(lambda: 2e9) as aws, FakeRegistry() as registry:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "AKIDTEST",
            "AWS_SECRET_ACCESS_KEY": "secret/of+test",
            "AWS_ENDPOINT_URL": aws.url,
            "AWS_REGION": "eu-west-1",
            "AWS_ECR_DISABLE_CACHE": "1",
            "HOME": str(tmp_path),
        }.items():
            monkeypatch.setenv(name, value)
        registry.push("team/app", IMAGE, tags=["v1"])
        registry.guard = PasswordsOfAws(aws.passwords)
        ours = Credential.model_validate(given if way == "helper" else {"cloud": "ecr"})
        upstream = Upstream(endpoints=(registry.url,), credentials=(ours,))
        async with mirror_of(tmp_path / "cache", {ECR: upstream}) as mirror:
            got = await mirror.get("/v2/team/app/manifests/v1")
    assert got.body == IMAGE.content
    assert aws.scopes == [("eu-west-1", "ecr")]
