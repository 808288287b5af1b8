"""The node agent in the chart and as an overlay: apart from the mirror, with no right but one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from mirror import cli, config

from .daemon import CommandError
from .test_chart import CHART as CHART_DIRECTORY
from .test_chart import KUBERNETES, Document, assert_valid, helm, kind, rendered
from .test_kustomize import built, comparable

NAMESPACE = "mirror-node-agent"
VALUES: dict[str, Document] = {
    "default": {},
    "apart": {"namespace": NAMESPACE},
    "everything": {
        "namespace": NAMESPACE,
        "mirror": "https://mirror.example",
        "certsDir": "/var/lib/rancher/k3s/agent/etc/containerd/certs.d",
        "except": ["quay.io"],
        "catchAll": True,
        "airGap": True,
        "extraArgs": ["--ca=/etc/containerd/certs.d/ca.pem", "--every=2s"],
        "seLinuxOptions": {"type": "spc_t"},
        "nodeSelector": {},
    },
    "without-hook": {"cleanup": False},
}
MORE: Document = {
    "config": {
        "upstreams": {
            "docker.io": {
                "credentials": {"username": "ci", "password_file": "/etc/mirror/secrets/hub"}
            },
            "gcr.io": None,
            "corp.example": {"endpoints": ["http://10.0.0.9"]},
        }
    },
    "secrets": {"hub": "hunter2"},
    "imagePullSecrets": [{"name": "pull"}],
}


def with_agent(values: Document, directory: Path, more: Document = MORE) -> list[Document]:
    return rendered({**more, "nodeAgent": {"enabled": True, **values}}, directory)


def agents(documents: list[Document]) -> list[Document]:
    """Return what belongs to the node agent, and not to its clean-up."""
    return [
        each
        for each in documents
        if each["metadata"]["labels"]["app.kubernetes.io/name"] == NAMESPACE
        and "annotations" not in each["metadata"]
    ]


def hooks(documents: list[Document]) -> list[Document]:
    found = (each for each in documents if "annotations" in each["metadata"])
    return [
        each
        for each in found
        if each["metadata"]["annotations"].get("helm.sh/hook") == "post-delete"
    ]


@pytest.fixture(params=VALUES)
def documents(request: pytest.FixtureRequest, tmp_path: Path) -> list[Document]:
    return with_agent(VALUES[request.param], tmp_path)


@pytest.mark.parametrize("name", VALUES)
def test_lint_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    values = {**MORE, "nodeAgent": {"enabled": True, **VALUES[name]}}
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    said = helm("lint", "--strict", CHART_DIRECTORY, "--values", file)
    assert re.findall(r"\[(?:WARNING|ERROR)\].*", said) == []


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_document_is_valid(documents: list[Document], version: str) -> None:
    assert agents(documents)
    assert_valid([*agents(documents), *hooks(documents)], version)
    assert_valid(built("node-agent"), version)


def test_it_is_not_there_unless_it_is_asked_for(tmp_path: Path) -> None:
    assert not agents(rendered({}, tmp_path))
    assert not hooks(rendered({}, tmp_path))


def test_it_may_do_nothing_but_write_one_directory(documents: list[Document]) -> None:
    for each in [*kind(agents(documents), "DaemonSet"), *kind(hooks(documents), "DaemonSet")]:
        spec = each["spec"]["template"]["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & spec.keys()
        assert spec["automountServiceAccountToken"] is False
        assert spec["imagePullSecrets"] == [{"name": "pull"}]
        hosts = [each["hostPath"] for each in spec["volumes"] if "hostPath" in each]
        assert [host["type"] for host in hosts] == ["DirectoryOrCreate"]
        assert hosts[0]["path"].endswith("/certs.d")
        for container in [*spec["containers"], *spec.get("initContainers", ())]:
            context = container["securityContext"]
            assert context["runAsUser"] == 0
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "ports" not in container
            assert "memory" in container["resources"]["limits"]
    assert not kind(documents, "Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")


def test_the_mirror_stays_apart(documents: list[Document]) -> None:
    (agent,) = kind(agents(documents), "DaemonSet")
    labels = agent["spec"]["template"]["metadata"]["labels"].items()
    assert kind(documents, "Service")
    assert kind(documents, "Deployment")
    for each in kind(documents, "Service", "NetworkPolicy", "Deployment"):
        selector = each["spec"].get("selector") or each["spec"]["podSelector"]
        assert not selector.get("matchLabels", selector).items() <= labels
    for each in kind(documents, "Deployment"):
        assert "hostPath" not in yaml.safe_dump(each)
        assert each["metadata"]["namespace"] == "cache"


def test_no_secret_gets_to_a_node(documents: list[Document], tmp_path: Path) -> None:
    (shown,) = kind(agents(documents), "ConfigMap")
    file = tmp_path / "mirror.yaml"
    file.write_text(shown["data"]["mirror.yaml"], encoding="utf-8")
    assert "password" not in shown["data"]["mirror.yaml"]
    upstreams = config.load(file, {}).settings.upstreams
    assert "corp.example" in upstreams
    assert "gcr.io" not in upstreams
    assert "quay.io" in upstreams


def test_its_command_is_one_that_mirror_understands(
    documents: list[Document], tmp_path: Path
) -> None:
    (shown,) = kind(agents(documents), "ConfigMap")
    file = tmp_path / "mirror.yaml"
    file.write_text(shown["data"]["mirror.yaml"], encoding="utf-8")
    for each in [*kind(agents(documents), "DaemonSet"), *kind(hooks(documents), "DaemonSet")]:
        spec = each["spec"]["template"]["spec"]
        (container,) = spec.get("initContainers") or spec["containers"]
        given = [argument.replace("$(NODE_IP)", "10.0.0.1") for argument in container["args"]]
        given = [str(file) if each == "/etc/mirror/mirror.yaml" else each for each in given]
        # An authority that is not there is for the agent to complain of, and not looked at here.
        done = CliRunner().invoke(
            cli.app, [*given, "--uninstall", "--root", str(tmp_path / "node")]
        )
        assert done.exit_code == 0, done.output
        mounted = {each["mountPath"] for each in container["volumeMounts"]}
        assert given[given.index("--certs-dir") + 1] in mounted


def test_after_an_uninstallation_every_node_is_looked_at(tmp_path: Path) -> None:
    found = hooks(with_agent({"namespace": NAMESPACE}, tmp_path))
    order = {
        (each["kind"], each["metadata"]["name"]): each["metadata"]["annotations"][
            "helm.sh/hook-weight"
        ]
        for each in found
    }
    assert order.pop(("Job", "mirror-cleanup")) == "1"
    assert order.keys() == {
        ("DaemonSet", "mirror-cleanup"),
        ("Service", "mirror-cleanup-all"),
        ("Service", "mirror-cleanup-ready"),
    }
    assert set(order.values()) == {"0"}
    assert {each["metadata"]["namespace"] for each in found} == {NAMESPACE}
    (cleanup,) = kind(found, "DaemonSet")
    labels = cleanup["spec"]["template"]["metadata"]["labels"]
    services = {each["metadata"]["name"]: each["spec"] for each in kind(found, "Service")}
    assert all(service["selector"] == labels for service in services.values())
    assert services["mirror-cleanup-all"]["publishNotReadyAddresses"] is True
    assert services["mirror-cleanup-ready"]["publishNotReadyAddresses"] is False
    (job,) = kind(found, "Job")
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["node-agent", "--wait-for", *services]
    assert job["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert not hooks(with_agent({"cleanup": False}, tmp_path))


@pytest.mark.parametrize(
    ("more", "address"),
    [
        ({}, "http://[$(NODE_IP)]:30500"),
        ({"service": {"nodePort": 31000}}, "http://[$(NODE_IP)]:31000"),
        ({"kind": "DaemonSet", "hostPort": 5000}, "http://[$(NODE_IP)]:5000"),
        ({"tls": {"secretName": "tls"}}, "https://[$(NODE_IP)]:30500"),
    ],
    ids=str,
)
def test_a_node_goes_the_way_that_it_has(more: Document, address: str, tmp_path: Path) -> None:
    (agent,) = kind(agents(with_agent({}, tmp_path, more)), "DaemonSet")
    arguments = agent["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index("--mirror") + 1] == address


def test_without_a_way_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="nodes need a way to the mirror"):
        with_agent({}, tmp_path, {"service": {"type": "ClusterIP"}})


def test_a_change_of_the_registries_restarts_it(tmp_path: Path) -> None:
    def annotations(more: Document) -> Any:  # noqa: ANN401 -- YAML is anything
        (agent,) = kind(agents(with_agent({}, tmp_path, more)), "DaemonSet")
        return agent["spec"]["template"]["metadata"]["annotations"]

    assert annotations({}) == annotations({"config": {"cache": {"max_size": "1GiB"}}})
    assert annotations({}) != annotations(MORE)


def test_the_overlay_is_what_the_chart_renders(tmp_path: Path) -> None:
    chart = with_agent({"namespace": NAMESPACE, "cleanup": False}, tmp_path, {})
    overlay = built("node-agent")
    (namespace,) = kind(overlay, "Namespace")
    overlay.remove(namespace)
    assert namespace["metadata"]["name"] == NAMESPACE
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    assert comparable(overlay) == comparable(agents(chart))
    assert {each["kind"] for each in overlay} == {"ConfigMap", "DaemonSet"}
