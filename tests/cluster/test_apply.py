"""Every overlay by server-side apply, and the chart by ``helm install``, on a real API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.api import Cluster, Document, RefusedError, cluster
from tests.e2e.conftest import tool
from tests.e2e.daemon import run
from tests.e2e.mirror_process import PROJECT
from tests.e2e.test_chart import CHART, VALUES

OVERLAYS = sorted(path.name for path in (PROJECT / "k8s/overlays").iterdir())
OPERATOR = {"servicemonitors": "ServiceMonitor", "prometheusrules": "PrometheusRule"}
PRIVILEGED = {"node-agent"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("cluster")) as running:
        for plural, kind in OPERATOR.items():
            running.apply(definition(plural, kind))
        yield running


def definition(plural: str, kind: str) -> Document:
    """Return a stand-in for a definition of the Prometheus operator: it takes any fields."""
    group = "monitoring.coreos.com"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": kind.lower(), "kind": kind},
            "versions": [version],
        },
    }


def namespace(name: str) -> Document:
    """Return a namespace whose API warns of Pods that are not *restricted*."""
    labels = {"pod-security.kubernetes.io/warn": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_taken(up: Cluster, overlay: str) -> None:
    text = run(tool("kustomize"), "build", PROJECT / "k8s/overlays" / overlay)
    documents = [each for each in yaml.safe_load_all(text) if each]
    for name in sorted({each["metadata"].get("namespace", "") for each in documents} - {""}):
        up.apply(namespace(name), "administrator")
    up.warnings.clear()
    for document in documents:
        up.apply(document)
        up.apply(document)  # a second time changes nothing, and is no conflict
    for document in documents:
        if document["kind"] != "Namespace":  # which only a controller could bring to its end
            up.delete(document)
    assert bool(up.warnings) == (overlay in PRIVILEGED), up.warnings


def test_what_is_not_restricted_is_warned_of(up: Cluster) -> None:
    """Or the tests above could not fail."""
    up.apply(namespace("warned"))
    pod = {"containers": [{"name": "a", "image": "a"}], "hostNetwork": True}
    up.warnings.clear()
    up.apply(a_pod(pod))
    assert any("restricted" in each for each in up.warnings)
    with pytest.raises(RefusedError, match="contaners"):
        up.apply(a_pod({**pod, "contaners": []}))


def a_pod(spec: Document) -> Document:
    metadata = {"name": "a", "namespace": "warned"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("name", VALUES)
def test_helm_installs_upgrades_and_takes_it_back(up: Cluster, name: str, tmp_path: Path) -> None:
    space = f"helm-{name}"
    up.apply(namespace(space))
    values = tmp_path / "values.yaml"
    # One node port for each cluster: the releases here are many.
    given = {**VALUES[name], "service": {**VALUES[name].get("service", {}), "nodePort": 0}}
    values.write_text(yaml.safe_dump(given))
    at = ("--namespace", space, "--kubeconfig", up.kubeconfig)
    run(tool("helm"), "install", "mirror", CHART, *at, "--values", values)
    base = f"/apis/apps/v1/namespaces/{space}"
    kind = f"{given.get('kind', 'Deployment').lower()}s"
    assert len(up.names(f"{base}/{kind}")) == 1
    core = f"/api/v1/namespaces/{space}"
    tokens = secret_data(up, core)
    run(tool("helm"), "upgrade", "mirror", CHART, *at, "--values", values)
    assert secret_data(up, core) == tokens, "an upgrade keeps the admin token"
    run(tool("helm"), "uninstall", "mirror", *at)
    for path in (f"{base}/{kind}", f"{core}/services", f"{core}/secrets", f"{core}/configmaps"):
        assert [each for each in up.names(path) if each != "kube-root-ca.crt"] == []


def secret_data(up: Cluster, core: str) -> dict[str, Document]:
    secrets = up.request("GET", f"{core}/secrets")["items"]
    return {
        each["metadata"]["name"]: each["data"]
        for each in secrets
        if not each["type"].startswith("helm.sh")
    }
