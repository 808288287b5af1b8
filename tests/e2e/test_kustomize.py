"""The overlays say what the chart says, for those without Helm."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mirror import config

from .conftest import tool
from .daemon import run
from .mirror_process import PROJECT
from .test_chart import (
    DOWNWARD,
    KUBERNETES,
    NOT_BUILT_IN,
    Document,
    assert_valid,
    kind,
    pods,
    rendered,
)

OVERLAYS = ("deployment", "daemonset", "tiered", "airgap", "monitoring")
HELM_ONLY = ("helm.sh/chart", "app.kubernetes.io/managed-by")
TIERS = ("central", "node")


def built(overlay: str) -> list[Document]:
    text = run(tool("kustomize"), "build", PROJECT / "k8s/overlays" / overlay)
    return [document for document in yaml.safe_load_all(text) if document]


def configuration(documents: list[Document], instance: str = "mirror") -> str:
    (found,) = (
        each
        for each in kind(documents, "ConfigMap")
        if "mirror.yaml" in each["data"]
        and each["metadata"]["labels"]["app.kubernetes.io/instance"] == instance
    )
    text: str = found["data"]["mirror.yaml"]
    return text


def comparable(documents: list[Document]) -> dict[tuple[str, str], Any]:
    """Return the documents by kind and name, without what only one of the two tools writes."""
    found = {}
    text = re.sub(r'"(mirror(?:-node-agent)?)-[a-z0-9]{10}"', r'"\1"', json.dumps(documents))
    for document in json.loads(text):
        metadata = document["metadata"]
        for label in HELM_ONLY:
            metadata["labels"].pop(label, None)
        assert metadata.pop("namespace") in {"cache", "mirror", "mirror-node-agent"}
        if document["kind"] in DOWNWARD:
            # kustomize restarts Pods by the name of the ConfigMap instead.
            document["spec"]["template"]["metadata"].pop("annotations", None)
        if "mirror.yaml" in document.get("data", {}):
            document["data"] = yaml.safe_load(document["data"]["mirror.yaml"])
        if document["kind"] == "ServiceMonitor":
            # The overlay watches all mirrors of the namespace.
            document["spec"]["selector"]["matchLabels"].pop("app.kubernetes.io/instance", None)
        found[document["kind"], metadata["name"]] = document
    return found


@pytest.mark.parametrize("name", ["Deployment", "DaemonSet"])
def test_an_overlay_is_what_the_chart_renders(name: str, tmp_path: Path) -> None:
    chart = comparable(rendered({"kind": name}, tmp_path))
    # The one is made by the chart, and by hand for kustomize; the other is Helm's alone.
    del chart["Secret", "mirror-admin"], chart["Pod", "mirror-test"]
    assert comparable(built(name.lower())) == chart


def test_monitoring_is_what_the_chart_renders(tmp_path: Path) -> None:
    enabled = {"enabled": True}
    values = {"serviceMonitor": enabled, "prometheusRule": enabled, "dashboard": enabled}
    chart, overlay = comparable(rendered(values, tmp_path)), comparable(built("monitoring"))
    assert overlay == {key: chart[key] for key in overlay}
    assert {key[0] for key in overlay} == NOT_BUILT_IN | {"ConfigMap"}


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_document_is_valid(overlay: str, version: str) -> None:
    documents = built(overlay)
    assert_valid(documents, version)
    assert kind(documents, *DOWNWARD) or overlay == "monitoring"


@pytest.mark.parametrize(
    ("overlay", "instance"),
    [("deployment", "mirror"), ("daemonset", "mirror"), ("airgap", "mirror")]
    + [("tiered", tier) for tier in TIERS],
)
def test_the_configuration_is_one_that_mirror_accepts(
    overlay: str, instance: str, tmp_path: Path
) -> None:
    file = tmp_path / "mirror.yaml"
    file.write_text(configuration(built(overlay), instance), encoding="utf-8")
    settings = config.load(file, {}).settings
    assert str(settings.cache.directory) == "/var/lib/mirror"
    assert settings.upstreams


def test_the_tiers_do_not_meddle_with_each_other() -> None:
    documents = built("tiered")
    for each in kind(documents, *DOWNWARD, "Service", "NetworkPolicy"):
        spec = each["spec"]
        selector = spec.get("selector") or spec["podSelector"]
        labels = selector.get("matchLabels", selector)
        instance = each["metadata"]["labels"]["app.kubernetes.io/instance"]
        assert labels["app.kubernetes.io/instance"] == instance
        assert instance in TIERS
    ports = [
        port["nodePort"]
        for service in kind(documents, "Service")
        for port in service["spec"]["ports"]
        if "nodePort" in port
    ]
    assert ports == [30500]


def test_the_nodes_ask_the_one_of_the_cluster_first(tmp_path: Path) -> None:
    documents = built("tiered")
    file = tmp_path / "mirror.yaml"
    file.write_text(configuration(documents, "node"), encoding="utf-8")
    nodes, alone = config.load(file, {}).settings, config.load(None, {}).settings
    assert nodes.upstreams.keys() == alone.upstreams.keys()
    for name, upstream in nodes.upstreams.items():
        first, *rest = upstream.endpoints
        assert str(first) == "http://mirror-central:5000"
        assert rest == list(alone.upstreams[name].endpoints)
    services = {each["metadata"]["name"]: each["spec"] for each in kind(documents, "Service")}
    assert services["mirror-central"]["ports"][0]["port"] == 5000


def test_in_an_air_gap_nobody_outside_is_asked(tmp_path: Path) -> None:
    documents = built("airgap")
    file = tmp_path / "mirror.yaml"
    file.write_text(configuration(documents), encoding="utf-8")
    upstreams = config.load(file, {}).settings.upstreams
    endpoints = {str(each) for upstream in upstreams.values() for each in upstream.endpoints}
    assert endpoints == {"https://registry.corp.example"}
    (policy,) = kind(documents, "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"]
    blocks = [
        peer["ipBlock"]["cidr"] for rule in policy["spec"]["egress"] for peer in rule.get("to", ())
    ]
    assert blocks == ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_is_written_down_and_no_pod_has_a_port_of_its_node(overlay: str) -> None:
    documents = built(overlay)
    assert not kind(documents, "Secret")
    for spec in pods(documents):
        assert all("hostPath" not in volume for volume in spec["volumes"])
        assert all("hostPort" not in port for port in spec["containers"][0]["ports"])
