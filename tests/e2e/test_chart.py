"""The Helm chart: what it renders is valid, allowed under *restricted*, and fits together."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mirror import config

from .conftest import tool
from .daemon import CommandError, run
from .mirror_process import PROJECT

CHART = PROJECT / "k8s/chart"
KUBERNETES = ("1.30", "1.37")
NOT_BUILT_IN = {"ServiceMonitor", "PrometheusRule"}
DOWNWARD = {"Deployment", "DaemonSet", "StatefulSet"}
Document = dict[str, Any]

VALUES: dict[str, Document] = {
    "default": {},
    "several-without-claim": {
        "replicas": 3,
        "persistence": {"enabled": False},
        "service": {"trafficDistribution": "PreferClose"},
    },
    "stateful": {"kind": "StatefulSet", "replicas": 3, "persistence": {"storageClass": "fast"}},
    "stateful-without-claim": {"kind": "StatefulSet", "persistence": {"enabled": False}},
    "daemon": {"kind": "DaemonSet", "tolerations": [{"operator": "Exists"}]},
    "daemon-on-the-host": {
        "kind": "DaemonSet",
        "persistence": {"hostPath": "/var/lib/mirror"},
        "hostPort": 5000,
        "priorityClassName": "system-node-critical",
    },
    "central": {"service": {"type": "ClusterIP"}, "fullnameOverride": "central"},
    "accounts": {
        "secrets": {"hub": "hunter2"},
        "config": {
            "upstreams": {
                "docker.io": {
                    "credentials": {"username": "ci", "password_file": "/etc/mirror/secrets/hub"}
                },
                "quay.io": None,
            },
            "policy": {"tag_rules": [{"match": "**:v*", "immutable": True}]},
        },
    },
    "all-there-already": {
        "admin": {"existingSecret": "token"},
        "existingSecret": "accounts",
        "persistence": {"existingClaim": "disk"},
        "serviceAccount": {"create": False, "name": "puller"},
        "image": {"repository": "registry.example/mirror", "digest": f"sha256:{'a' * 64}"},
        "imagePullSecrets": [{"name": "pull"}],
    },
    "secure": {
        "tls": {"secretName": "mirror-tls", "admin": True},
        "serviceMonitor": {"enabled": True},
    },
    "watched": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "runbookBaseUrl": "https://runbooks.example/"},
        "dashboard": {"enabled": True},
    },
    "walled-in": {
        "networkPolicy": {
            "adminFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}],
            "egress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}],
        },
        "commonLabels": {"team": "platform"},
        "podAnnotations": {"example.com/a": "b"},
        "podLabels": {"example.com/c": "d"},
        "nodeSelector": {"disk": "ssd"},
        "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example:3128"}],
        "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
        "extraVolumeMounts": [{"name": "ca", "mountPath": "/etc/mirror/ca"}],
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
        ],
    },
}


def helm(*arguments: str | Path) -> str:
    return run(tool("helm"), *arguments, "--kube-version", "1.34.0")


def rendered(values: Document, directory: Path, release: str = "mirror") -> list[Document]:
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    text = helm("template", release, CHART, "--namespace", "cache", "--values", file)
    return [document for document in yaml.safe_load_all(text) if document]


@pytest.fixture(params=VALUES)
def documents(request: pytest.FixtureRequest, tmp_path: Path) -> list[Document]:
    return rendered(VALUES[request.param], tmp_path)


def kind(documents: list[Document], *names: str) -> list[Document]:
    return [each for each in documents if each["kind"] in names]


def pods(documents: list[Document]) -> Iterator[Document]:
    """Yield the specifications of all Pods that the documents lead to."""
    for each in documents:
        if each["kind"] in DOWNWARD:
            yield each["spec"]["template"]["spec"]
        elif each["kind"] == "Pod":
            yield each["spec"]


def assert_valid(documents: list[Document], version: str) -> None:
    """Raise if one does not keep to the schema of its kind, or has a field that this lacks.

    A field that a version does not have yet is for those who set it.
    """
    known = [each for each in documents if each["kind"] not in NOT_BUILT_IN]
    assert known or documents, "nothing was rendered"
    for document in known:
        kubernetes_validate.validate(document, version, strict=True)


def test_what_is_not_valid_is_found(tmp_path: Path) -> None:
    documents = rendered({}, tmp_path)
    kind(documents, *DOWNWARD)[0]["spec"]["replicsa"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        assert_valid(documents, KUBERNETES[-1])


@pytest.mark.parametrize("name", VALUES)
def test_lint_has_nothing_to_say(name: str, tmp_path: Path) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(VALUES[name]), encoding="utf-8")
    said = helm("lint", "--strict", CHART, "--values", file)
    assert re.findall(r"\[(?:WARNING|ERROR)\].*", said) == []


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_document_is_valid(documents: list[Document], version: str) -> None:
    assert len(documents) >= 6
    assert_valid(documents, version)


def test_the_configuration_is_one_that_mirror_accepts(
    documents: list[Document], tmp_path: Path
) -> None:
    maps = [each for each in kind(documents, "ConfigMap") if "mirror.yaml" in each["data"]]
    # The Secrets' files, where a test may write.
    secrets = tmp_path / "etc"
    for path in ("admin/token", "secrets/hub", "tls/tls.crt", "tls/tls.key"):
        (secrets / path).parent.mkdir(parents=True, exist_ok=True)
        (secrets / path).write_text("hunter2", encoding="utf-8")
    file = tmp_path / "mirror.yaml"
    text = maps[0]["data"]["mirror.yaml"].replace("/etc/mirror", str(secrets))
    file.write_text(text, encoding="utf-8")
    (workload,) = kind(documents, *DOWNWARD)
    container = workload["spec"]["template"]["spec"]["containers"][0]
    environment = {
        each["name"]: each["value"].replace("/etc/mirror", str(secrets))
        for each in container["env"]
    }
    settings = config.load(file, environment).settings
    assert str(settings.cache.directory) == "/var/lib/mirror"
    assert settings.server.listen.port == 5000
    assert settings.server.admin_listen.port == 5001
    assert settings.server.admin.token_file == secrets / "admin/token"
    spec = workload["spec"]["template"]["spec"]
    grace = spec["terminationGracePeriodSeconds"]
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert grace > before + settings.server.shutdown_grace_seconds


def test_pods_are_restricted(request: pytest.FixtureRequest, documents: list[Document]) -> None:
    # https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
    allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
    on_the_host = "daemon-on-the-host" in request.node.name
    assert len([*pods(documents)]) >= 2, "the mirror, and Helm's test"
    for spec in pods(documents):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        kinds = {name for each in spec.get("volumes", ()) for name in each.keys() - {"name"}}
        assert kinds <= allowed | ({"hostPath"} if on_the_host else set())
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            ports = container.get("ports", ())
            assert on_the_host == any("hostPort" in port for port in ports) or not ports
            assert "memory" in container["resources"]["limits"]


def test_no_pod_but_the_mirrors_is_taken_for_one(documents: list[Document]) -> None:
    """A DaemonSet adopts, and removes, what has the labels of its own."""
    workloads = kind(documents, "DaemonSet", "Deployment", "StatefulSet")
    for pod in kind(documents, "Pod"):
        labels = pod["metadata"]["labels"].items()
        assert not any(
            each["spec"]["selector"]["matchLabels"].items() <= labels for each in workloads
        )


def test_what_is_named_is_there(documents: list[Document], request: pytest.FixtureRequest) -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in documents}
    if "all-there-already" in request.node.name:
        there |= {("Secret", "token"), ("Secret", "accounts"), ("ServiceAccount", "puller")}
        there |= {("PersistentVolumeClaim", "disk")}
    if "secure" in request.node.name:
        there |= {("Secret", "mirror-tls")}
    (workload,) = kind(documents, *DOWNWARD)
    spec = workload["spec"]["template"]["spec"]
    for volume in spec["volumes"]:
        if "configMap" in volume and volume["name"] == "config":
            assert ("ConfigMap", volume["configMap"]["name"]) in there
        if "secret" in volume:
            assert ("Secret", volume["secret"]["secretName"]) in there
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]["claimName"]
            assert ("PersistentVolumeClaim", claim) in there
    assert ("ServiceAccount", spec["serviceAccountName"]) in there
    volumes = {each["name"] for each in spec["volumes"]}
    volumes |= {
        each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", ())
    }
    assert {each["name"] for each in spec["containers"][0]["volumeMounts"]} == volumes
    (test,) = kind(documents, "Pod")
    mounted = {each["name"] for each in test["spec"]["containers"][0]["volumeMounts"]}
    assert mounted == {each["name"] for each in test["spec"]["volumes"]} == volumes - {"cache"}
    assert test["spec"]["containers"][0]["env"] == spec["containers"][0]["env"]
    selected = workload["spec"]["selector"]["matchLabels"]
    assert selected.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    for service in kind(documents, "Service"):
        assert service["spec"]["selector"] == selected
    if workload["kind"] == "StatefulSet":
        assert ("Service", workload["spec"]["serviceName"]) in there


def test_a_budget_never_blocks_a_drain(documents: list[Document]) -> None:
    (workload,) = kind(documents, *DOWNWARD)
    budgets = kind(documents, "PodDisruptionBudget")
    assert bool(budgets) == (workload["spec"].get("replicas", 1) > 1)
    for budget in budgets:
        assert budget["spec"]["maxUnavailable"] == 1
        assert "minAvailable" not in budget["spec"]
    assert not kind(documents, "HorizontalPodAutoscaler")


def test_one_claim_has_one_process(tmp_path: Path) -> None:
    (deployment,) = kind(rendered({}, tmp_path), "Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    with pytest.raises(CommandError, match="a Deployment with a claim has one replica"):
        rendered({"replicas": 2}, tmp_path)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"kind": "Job"}, "/kind"),
        ({"imaeg": {}}, "additional properties 'imaeg' not allowed"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"config": {"cache": {"max_sise": "1GiB"}}}, "additional properties 'max_sise'"),
        ({"config": {"log": {"level": "loud"}}}, "/config/log/level"),
        ({"persistence": {"size": "much"}}, "/persistence/size"),
    ],
    ids=str,
)
def test_a_mistake_is_refused(values: Document, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=re.escape(complaint)):
        rendered(values, tmp_path)


def test_a_change_of_the_configuration_restarts_the_pods(tmp_path: Path) -> None:
    def annotations(values: Document) -> Document:
        (workload,) = kind(rendered(values, tmp_path), "Deployment")
        found: Document = workload["spec"]["template"]["metadata"]["annotations"]
        return found

    assert annotations({}) == annotations({"replicas": 1})
    assert annotations({}) != annotations({"config": {"cache": {"max_size": "1GiB"}}})


def test_a_daemon_answers_its_own_node(tmp_path: Path) -> None:
    documents = rendered(VALUES["daemon"], tmp_path)
    registry = kind(documents, "Service")[0]["spec"]
    assert registry["internalTrafficPolicy"] == registry["externalTrafficPolicy"] == "Local"


def test_traffic_goes_where_the_values_say(tmp_path: Path) -> None:
    several = kind(rendered(VALUES["several-without-claim"], tmp_path), "Service")[0]["spec"]
    assert several["trafficDistribution"] == "PreferClose"
    assert several["internalTrafficPolicy"] == several["externalTrafficPolicy"] == "Cluster"
    values = {"service": {"internalTrafficPolicy": "Local", "type": "ClusterIP"}}
    central = kind(rendered(values, tmp_path), "Service")[0]["spec"]
    assert central["internalTrafficPolicy"] == "Local"
    assert not {"trafficDistribution", "externalTrafficPolicy", "nodePort"} & central.keys()


def test_alerts_and_dashboard_are_the_files(tmp_path: Path) -> None:
    documents = rendered(VALUES["watched"], tmp_path)
    (rule,) = kind(documents, "PrometheusRule")
    wanted = yaml.safe_load((CHART / "files/alerts.yaml").read_text(encoding="utf-8"))
    for group in wanted["groups"]:
        for each in group["rules"]:
            page = f"https://runbooks.example/{each['alert']}.md"
            each["annotations"]["runbook_url"] = page
    assert rule["spec"] == wanted
    (board,) = (each for each in kind(documents, "ConfigMap") if "mirror.json" in each["data"])
    text = (CHART / "files/dashboard.json").read_text(encoding="utf-8")
    assert json.loads(board["data"]["mirror.json"]) == json.loads(text)
    (monitor,) = kind(documents, "ServiceMonitor")
    admin = kind(documents, "Service")[1]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= admin["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == admin["spec"]["ports"][0]["name"]


def test_the_rules_do_what_their_tests_say() -> None:
    """Promtool's exit code says so; a command that fails raises CommandError."""
    checked = run("promtool", "check", "rules", CHART / "files/alerts.yaml")
    assert re.search(r"SUCCESS: \d+ rules found", checked)
    tested = run("promtool", "test", "rules", PROJECT / "tests/observability/alerts_test.yaml")
    assert "SUCCESS" in tested


def test_hadolint_has_nothing_to_say() -> None:
    assert run(PROJECT / ".venv/bin/hadolint", PROJECT / "Dockerfile") == ""
