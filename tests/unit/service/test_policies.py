"""What the configuration allows to be pulled."""

from pathlib import Path

import pytest

from mirror.settings import Policy, Upstream
from tests.fakes.content import image
from tests.fakes.registry import FakeRegistry
from tests.harness import QUICK, mirror_of
from tests.unit.web.wire import NOWHERE, blob_path, manifest_path

IMAGE = image()


@pytest.mark.parametrize(
    ("policy", "allowed"),
    [
        (Policy(timeouts=QUICK), {"team/app", "team/secret", "library/app"}),
        (Policy(timeouts=QUICK, allow=("team/*",)), {"team/app", "team/secret"}),
        (Policy(timeouts=QUICK, allow=("docker.io/team/**",)), {"team/app", "team/secret"}),
        (Policy(timeouts=QUICK, deny=("**/secret",)), {"team/app", "library/app"}),
        (Policy(timeouts=QUICK, allow=("team/**",), deny=("*/secret",)), {"team/app"}),
        (Policy(timeouts=QUICK, allow=()), set()),
        (Policy(timeouts=QUICK, mode="deny"), set()),
    ],
    ids=["all", "allow", "with upstream", "deny", "both", "none", "mode"],
)
async def test_s16_what_may_be_pulled(
    tmp_path: Path, upstream: FakeRegistry, policy: Policy, allowed: set[str]
) -> None:
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream}, policy=policy) as mirror:
        for repository in ("team/app", "team/secret", "library/app"):
            upstream.push(repository, IMAGE, ["v1"])
            upstream.clear()
            for path in (
                manifest_path("v1", repository),
                manifest_path(IMAGE.digest, repository),
                blob_path(IMAGE.layers[0].digest, repository),
                f"/v2/{repository}/tags/list",
                f"/v2/{repository}/tags/list?n=0",
                f"/v2/{repository}/referrers/{NOWHERE}",
            ):
                got, head = await mirror.get(path), await mirror.head(path)
                assert got.status == head.status == (200 if repository in allowed else 403), path
                assert repository in allowed or got.error_code == "DENIED"
            assert repository in allowed or not upstream.requests


async def test_a_rule_of_one_upstream_is_not_a_rule_of_another(
    tmp_path: Path, upstream: FakeRegistry
) -> None:
    upstream.push("team/app", IMAGE, ["v1"])
    closed = Upstream(endpoints=(upstream.url,), policy=Policy(mode="deny"))
    async with mirror_of(tmp_path / "cache", {"docker.io": upstream, "ghcr.io": closed}) as mirror:
        assert (await mirror.get(manifest_path("v1", "docker.io/team/app"))).status == 200
        assert (await mirror.get(manifest_path("v1", "ghcr.io/team/app"))).status == 403
