"""What a person reads when the mirror starts: where it is and how clients find it."""

from collections.abc import Collection
from typing import Final

import mirror
from mirror.settings import ListenAddress

_INSECURE: Final = "\n             insecure = true"


def banner(
    listen: ListenAddress,
    admin: ListenAddress,
    upstreams: Collection[str],
    *,
    tls: bool = False,
    admin_tls: bool = False,
) -> str:
    """Return the start-up text; *listen* has the port that is really bound."""
    place, admin_url = str(listen.local()), f"{_scheme(tls=admin_tls)}://{admin.local()}"
    kind = "any certificate" if tls else "plain HTTP"
    url = f"{_scheme(tls=tls)}://{place}"
    return f"""
mirror {mirror.__version__} serves {", ".join(upstreams)}
  registry   {url}/v2/
  dashboard  {admin_url}/
  metrics    {admin_url}/metrics   health  {admin_url}/readyz

Try it     docker pull {place}/library/alpine      (Docker allows {kind} on 127.0.0.1)
           skopeo inspect --tls-verify=false docker://{place}/ghcr.io/stefanprodan/podinfo

Docker     /etc/docker/daemon.json, then restart Docker (it mirrors Docker Hub only):
             {{"registry-mirrors": ["{url}"]}}

containerd /etc/containerd/certs.d/docker.io/hosts.toml, likewise for each registry:
             server = "https://registry-1.docker.io"
             [host."{url}"]
               capabilities = ["pull", "resolve"]
               dial_timeout = "2s"

Podman,    /etc/containers/registries.conf.d/10-mirror.conf:
CRI-O        [[registry]]
             prefix = "docker.io"
             location = "docker.io"
             [[registry.mirror]]
             location = "{place}/docker.io"{"" if tls else _INSECURE}

Stop it with Ctrl-C. More clients and all settings: README.md and docs/.
"""


def _scheme(*, tls: bool) -> str:
    return "https" if tls else "http"
