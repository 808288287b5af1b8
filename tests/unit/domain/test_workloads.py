"""Which images Kubernetes objects, compose files and lists name."""

import yaml

from mirror.domain.workloads import images_in, images_listed, platforms_of_nodes

MANIFESTS = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {image: "not:this"}}
spec:
  template:
    spec:
      initContainers: [{name: init, image: "busybox:1.37"}]
      containers:
        - {name: web, image: "ghcr.io/org/web@sha256:aa"}
        - {name: proxy, image: "nginx"}
      volumes: [{name: model, image: {reference: "quay.io/models/m:1", pullPolicy: Always}}]
---
apiVersion: batch/v1
kind: CronJob
spec: {jobTemplate: {spec: {template: {spec: {containers: [{image: "busybox:1.37"}]}}}}}
---
apiVersion: v1
kind: ConfigMap
data: {image: "nor:this"}
---
kind: Prometheus
spec: {image: "quay.io/prometheus/prometheus:v3", thanos: {image: ""}}
---
services: {db: {image: "postgres:17"}, app: {image: "${APP_IMAGE}"}, other: {image: null}}
---
"""


def test_images_of_manifests_are_found_wherever_they_stand() -> None:
    assert images_in(list(yaml.safe_load_all(MANIFESTS))) == [
        "busybox:1.37",
        "ghcr.io/org/web@sha256:aa",
        "nginx",
        "quay.io/models/m:1",
        "quay.io/prometheus/prometheus:v3",
        "postgres:17",
    ]


def test_a_document_that_contains_itself_ends() -> None:
    document: dict[str, object] = {"image": "alpine"}
    document["again"] = document
    assert images_in(document) == ["alpine"]


def test_a_list_has_comments_and_empty_lines() -> None:
    text = "alpine:3.20\n\n# later\n  nginx # the web\r\nalpine:3.20\n"
    assert images_listed(text) == ["alpine:3.20", "nginx"]


def test_the_platforms_of_a_cluster_are_those_of_its_nodes() -> None:
    def node(cpu: object) -> object:
        return {"status": {"nodeInfo": {"operatingSystem": "linux", "architecture": cpu}}}

    nodes = [node("arm64"), node("amd64"), node("amd64"), node(7), "?", {}]
    assert platforms_of_nodes({"items": nodes}) == ("linux/amd64", "linux/arm64")
    assert platforms_of_nodes({"items": None}) == platforms_of_nodes(None) == ()
