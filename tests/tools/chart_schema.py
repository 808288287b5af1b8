"""Writes k8s/chart/values.schema.json: ``python -m tests.tools.chart_schema``.

The key ``config`` has the schema of the configuration itself, so that Helm refuses what
``mirror config check`` would.
"""

import json
import sys
from typing import Any, Final

from mirror import config

Schema = dict[str, Any]
TEXT: Final[Schema] = {"type": "string"}
SWITCH: Final[Schema] = {"type": "boolean"}
STRINGS: Final[Schema] = {"type": "object", "additionalProperties": TEXT}
ANYTHING: Final[Schema] = {"type": "object"}
MANY: Final[Schema] = {"type": "array", "items": ANYTHING}
QUANTITY: Final[Schema] = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?([KMGTPE]i?|k|m)?$"}
PORT: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 65535}


def choice(*names: str) -> Schema:
    """Return the schema of one of some names."""
    return {"enum": list(names)}


def closed(**properties: Schema) -> Schema:
    """Return the schema of a mapping that knows these keys only."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


TRAFFIC_POLICY: Final = choice("", "Local", "Cluster")
VALUES: Final[dict[str, Schema]] = {
    "global": ANYTHING,
    "kind": choice("Deployment", "DaemonSet", "StatefulSet"),
    "replicas": {"type": "integer", "minimum": 0},
    "nameOverride": TEXT,
    "fullnameOverride": TEXT,
    "image": closed(
        repository={"type": "string", "minLength": 1},
        tag=TEXT,
        digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
        pullPolicy=choice("Always", "IfNotPresent", "Never"),
    ),
    "imagePullSecrets": MANY,
    "config": {"$ref": "#/$defs/configuration"},
    "secrets": STRINGS,
    "existingSecret": TEXT,
    "admin": closed(existingSecret=TEXT),
    "tls": closed(secretName=TEXT, admin=SWITCH),
    "persistence": closed(
        enabled=SWITCH,
        existingClaim=TEXT,
        storageClass=TEXT,
        accessModes={"type": "array", "items": TEXT, "minItems": 1},
        size=QUANTITY,
        hostPath={"type": "string", "pattern": "^(/.*)?$"},
        emptyDirSize=QUANTITY,
    ),
    "service": closed(
        type=choice("ClusterIP", "NodePort", "LoadBalancer"),
        port=PORT,
        nodePort=PORT,
        internalTrafficPolicy=TRAFFIC_POLICY,
        externalTrafficPolicy=TRAFFIC_POLICY,
        trafficDistribution=choice("", "PreferClose", "PreferSameZone", "PreferSameNode"),
        annotations=STRINGS,
    ),
    "hostPort": PORT,
    "nodeAgent": closed(
        enabled=SWITCH,
        namespace=TEXT,
        mirror={"type": "string", "pattern": "^(https?://.*)?$"},
        certsDir={"type": "string", "pattern": "^/.*"},
        **{"except": {"type": "array", "items": TEXT}},
        catchAll=SWITCH,
        airGap=SWITCH,
        extraArgs={"type": "array", "items": TEXT},
        cleanup=SWITCH,
        seLinuxOptions=STRINGS,
        resources=ANYTHING,
        priorityClassName=TEXT,
        nodeSelector=STRINGS,
        tolerations=MANY,
    ),
    "serviceAccount": closed(create=SWITCH, name=TEXT, annotations=STRINGS),
    "podDisruptionBudget": closed(enabled=SWITCH),
    "networkPolicy": closed(enabled=SWITCH, adminFrom=MANY, egress=MANY),
    "test": closed(pull=SWITCH, image=TEXT),
    "resources": ANYTHING,
    "terminationGracePeriodSeconds": {"type": "integer", "minimum": 0},
    "preStopSeconds": {"type": "integer", "minimum": 1},
    "priorityClassName": TEXT,
    "podAnnotations": STRINGS,
    "podLabels": STRINGS,
    "commonLabels": STRINGS,
    "nodeSelector": STRINGS,
    "tolerations": MANY,
    "affinity": ANYTHING,
    "topologySpreadConstraints": MANY,
    "extraEnv": MANY,
    "extraVolumes": MANY,
    "extraVolumeMounts": MANY,
    "serviceMonitor": closed(enabled=SWITCH, interval=TEXT, labels=STRINGS),
    "prometheusRule": closed(enabled=SWITCH, labels=STRINGS, runbookBaseUrl=TEXT),
    "dashboard": closed(enabled=SWITCH, labels=STRINGS),
}


def schema() -> str:
    """Return the file."""
    configuration = config.schema()
    shared = configuration.pop("$defs")
    whole = {
        "$schema": configuration.pop("$schema"),
        **closed(**VALUES),
        "$defs": {**shared, "configuration": configuration},
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(schema())
