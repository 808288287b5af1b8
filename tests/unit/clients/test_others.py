"""What Docker, Podman, CRI-O, k3s, RKE2, BuildKit and Talos are told."""

import json
import tomllib
from collections.abc import Callable
from pathlib import PurePath

import pytest
import yaml

from mirror.clients.buildkit import plan_buildkit
from mirror.clients.containerd import plan_nerdctl
from mirror.clients.containers import plan_crio, plan_podman
from mirror.clients.docker import plan_docker
from mirror.clients.plan import CannotMergeError, Files, Plan, Wish
from mirror.clients.rancher import plan_k3s, plan_rke2
from mirror.clients.talos import plan_talos
from mirror.domain.client_mirrors import mirrors_in
from tests.unit.clients.machines import MIRROR, Machine, wish

DAEMON = "/etc/docker/daemon.json"
K3S = "/etc/rancher/k3s/registries.yaml"
BUILDKIT = "/etc/buildkit/buildkitd.toml"
CONTAINERS = "/etc/containers"


def test_docker_keeps_what_it_was_told() -> None:
    old = '{\n    "debug": true,\n    "registry-mirrors": ["https://x"]\n}'
    plan = plan_docker(wish(), Machine({DAEMON: old}))
    new = plan.files[DAEMON]
    assert json.loads(new) == {
        "debug": True,
        "registry-mirrors": [MIRROR, "https://x"],
        "insecure-registries": ["mirror.example:5000"],
    }
    assert '\n    "debug"' in new
    assert plan_docker(wish(), Machine({DAEMON: new})).files[DAEMON] == new
    assert "mirror.example:5000/ghcr.io/" in plan.notes[0]


def test_docker_trusts_its_own_machine() -> None:
    plan = plan_docker(wish("docker.io", mirror="http://127.0.0.1:5000"), Machine({DAEMON: " "}))
    assert json.loads(plan.files[DAEMON]) == {"registry-mirrors": ["http://127.0.0.1:5000"]}
    assert plan.notes == ()
    gap = plan_docker(wish("docker.io", fallback=False, ca="/x", home="/home/me"), Machine({}))
    assert list(gap.files) == ["/home/me/.config/docker/daemon.json"]
    assert len(gap.notes) == 2
    assert gap.activate == "systemctl --user reload docker"


@pytest.mark.parametrize("old", ["{", "[]", '{"registry-mirrors": "x"}'])
def test_what_docker_could_not_read_is_left_alone(old: str) -> None:
    with pytest.raises(CannotMergeError):
        plan_docker(wish(), Machine({DAEMON: old}))


def test_docker_alone_knows_the_hub() -> None:
    with pytest.raises(CannotMergeError, match=r"docker\.io only"):
        plan_docker(wish("ghcr.io"), Machine({}))


def test_podman_has_a_file_of_its_own() -> None:
    ((path, text),) = plan_podman(wish(), Machine({})).files.items()
    assert path == f"{CONTAINERS}/registries.conf.d/10-mirror.conf"
    ghcr, hub = tomllib.loads(text)["registry"]
    mirror = {"location": "mirror.example:5000/docker.io", "insecure": True}
    assert hub == {"prefix": "docker.io", "location": "docker.io", "mirror": [mirror]}
    assert ghcr["prefix"] == "ghcr.io"
    assert plan_podman(wish(), Machine({})).activate is None
    assert plan_crio(wish(), Machine({})).activate == "systemctl reload crio"


def test_podman_asks_nobody_else_in_an_air_gap_and_a_registry_on_plain_http_as_it_is() -> None:
    plan = plan_podman(wish("docker.io", fallback=False, mirror="https://m"), Machine({}))
    (gap,) = tomllib.loads(next(iter(plan.files.values())))["registry"]
    assert gap == {"prefix": "docker.io", "location": "m/docker.io"}
    plan = plan_podman(wish("docker.io", servers={"docker.io": "http://10.0.0.9:1"}), Machine({}))
    (hub,) = tomllib.loads(next(iter(plan.files.values())))["registry"]
    assert (hub["location"], hub["insecure"]) == ("10.0.0.9:1", True)


def test_what_another_file_says_of_a_registry_stays() -> None:
    entry = '[[registry]]\nlocation = "ghcr.io"\n'
    machine = Machine({f"{CONTAINERS}/registries.conf": entry, f"{CONTAINERS}/x": "["})
    plan = plan_podman(wish("docker.io", "ghcr.io", "a.example:1", ca="/c"), machine)
    (only,) = tomllib.loads(next(iter(plan.files.values())))["registry"]
    assert only["prefix"] == "docker.io"
    left_out, taken, authority = sorted(plan.notes)
    assert "a name with a port" in left_out
    assert "registries.conf has its own entry" in taken
    assert authority.startswith("the authority")


@pytest.mark.parametrize(
    "old",
    [
        None,
        "# nothing yet\n---\n",
        "mirrors:\n  # mine\n  quay.io:\n    endpoint: [https://q]\nconfigs: {}\n",
        "configs: {}  # mine",
        "mirrors:\n  docker.io:\n    endpoint: [https://q]\n    rewrite: {a: b}\n",
        "mirrors: {}\n",
    ],
)
def test_registries_yaml_keeps_what_it_said(old: str | None) -> None:
    plan = plan_k3s(wish(), Machine({} if old is None else {K3S: old}))
    new = plan.files[K3S]
    told, before = yaml.safe_load(new), yaml.safe_load(old or "") or {}
    assert told["mirrors"]["ghcr.io"] == {"endpoint": [MIRROR]}
    assert told["mirrors"]["docker.io"]["endpoint"][0] == MIRROR
    for name, entry in (before.get("mirrors") or {}).items():
        assert told["mirrors"][name]["endpoint"][-1] == entry["endpoint"][-1]
        assert told["mirrors"][name].get("rewrite") == entry.get("rewrite")
    assert told.get("configs") == before.get("configs")
    assert new.count("# mine") == (old or "").count("# mine")
    assert plan_k3s(wish(), Machine({K3S: new})).files[K3S] == new


@pytest.mark.parametrize(
    ("old", "reason"),
    [
        ("mirrors: [", "no YAML"),
        ("- x\n", "no YAML"),
        ("mirrors: {docker.io: 3}\n", "unknown about docker"),
        ("mirrors: {docker.io: {endpoint: x}}\n", "unknown about docker"),
        ("mirrors: {docker.io: {endpoint: [x]}} # mine\n", "comments that would be lost"),
    ],
)
def test_registries_yaml_that_cannot_be_merged_is_left_alone(old: str, reason: str) -> None:
    with pytest.raises(CannotMergeError, match=reason):
        plan_k3s(wish(), Machine({K3S: old}))


def test_rke2_in_an_air_gap_has_no_other_endpoint() -> None:
    gap = wish(
        "docker.io", fallback=False, ca="/c", catch_all=True, servers={"docker.io": "http://x"}
    )
    plan = plan_rke2(gap, Machine({}))
    told = yaml.safe_load(plan.files["/etc/rancher/rke2/registries.yaml"])
    assert told["mirrors"].keys() == {"docker.io", "*"}
    assert told["configs"] == {"mirror.example:5000": {"tls": {"ca_file": "/c"}}}
    more = plan.files["/etc/rancher/rke2/config.yaml.d/90-mirror.yaml"]
    assert yaml.safe_load(more) == {"disable-default-registry-endpoint": True}
    assert "no other address" in plan.notes[0]


@pytest.mark.parametrize(
    "old",
    ["", "debug = true  # mine\n", '[registry."docker.io"]  # mine\nhttp = false\n'],
)
def test_buildkit_keeps_what_it_was_told(old: str) -> None:
    new = plan_buildkit(wish(ca="/c"), Machine({BUILDKIT: old})).files[BUILDKIT]
    told, before = tomllib.loads(new), tomllib.loads(old)
    assert told["registry"]["docker.io"]["mirrors"] == ["mirror.example:5000"]
    assert told["registry"]["mirror.example:5000"] == {"http": True, "ca": ["/c"]}
    assert told.get("debug") == before.get("debug")
    assert new.count("# mine") == old.count("# mine")
    assert plan_buildkit(wish(ca="/c"), Machine({BUILDKIT: new})).files[BUILDKIT] == new


@pytest.mark.parametrize(
    ("old", "reason"),
    [
        ("[", "no TOML"),
        ('[registry."docker.io"]\nmirrors = ["x"]\n', "has mirrors for docker.io already"),
        ('registry = {"docker.io" = {}}\n', "has a form"),
        ("registry = 3\n", "no TOML"),
    ],
)
def test_buildkit_that_cannot_be_merged_is_left_alone(old: str, reason: str) -> None:
    with pytest.raises(CannotMergeError, match=reason):
        plan_buildkit(wish(), Machine({BUILDKIT: old}))


def test_talos_gets_a_patch() -> None:
    plan = plan_talos(wish("docker.io", fallback=False, catch_all=True, ca="/c"), Machine({}))
    entry = {"endpoints": [MIRROR], "skipFallback": True}
    mirrors = {"docker.io": entry, "*": entry}
    (text,) = plan.files.values()
    assert yaml.safe_load(text) == {"machine": {"registries": {"mirrors": mirrors}}}
    assert "&" not in text
    assert len(plan.notes) == 1


@pytest.mark.parametrize("fallback", [True, False])
@pytest.mark.parametrize("planner", [plan_docker, plan_podman, plan_k3s, plan_rke2, plan_nerdctl])
def test_the_doctor_sees_what_is_written(
    planner: Callable[[Wish, Files], Plan], *, fallback: bool
) -> None:
    ((path, text), *_) = planner(wish("docker.io", fallback=fallback), Machine({})).files.items()
    (told,) = mirrors_in(PurePath(path), text)
    assert told.removesuffix("/docker.io") == MIRROR
