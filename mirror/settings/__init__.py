"""The configuration as frozen values with units in their names."""

from mirror.settings.policy import Policy, RateLimit, TagRule, Timeouts
from mirror.settings.root import Cache, Fill, Log, Pin, Prefetch, Settings, Webhook
from mirror.settings.server import (
    Admin,
    Auth,
    AuthFile,
    AuthRule,
    KubernetesAuth,
    Limits,
    Oidc,
    Server,
    ServerTls,
)
from mirror.settings.units import ListenAddress, SizeOrShare
from mirror.settings.upstreams import Credential, Upstream, UpstreamTls, routing_table

__all__ = [
    "Admin",
    "Auth",
    "AuthFile",
    "AuthRule",
    "Cache",
    "Credential",
    "Fill",
    "KubernetesAuth",
    "Limits",
    "ListenAddress",
    "Log",
    "Oidc",
    "Pin",
    "Policy",
    "Prefetch",
    "RateLimit",
    "Server",
    "ServerTls",
    "Settings",
    "SizeOrShare",
    "TagRule",
    "Timeouts",
    "Upstream",
    "UpstreamTls",
    "Webhook",
    "routing_table",
]
