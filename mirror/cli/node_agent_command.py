"""``mirror node-agent``: this node's clients know of the mirror only while it answers."""

import http.client
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from mirror.cli.client_options import (
    AirGapOption,
    CaOption,
    CatchAllOption,
    ExceptOption,
    MirrorOption,
    RegistryOption,
    RootOption,
    ServerOption,
    wish_of,
)
from mirror.cli.options import FAILED, ConfigOption, complain, load_settings, write
from mirror.clients.address import MirrorAddress
from mirror.clients.containerd import CERTS, plan_hosts
from mirror.clients.names import ClientName
from mirror.clients.plan import Wish

if TYPE_CHECKING:
    from mirror.clients.agent import NodeAgent, Told
    from mirror.settings import Log

_LOOK_SECONDS: Final = 1.0
"""A mirror that needs longer for an answer of two bytes is of no use to a node."""
_HEADER: Final = "Docker-Distribution-API-Version"
_STEADY_SECONDS: Final = 10.0
_GIVE_UP_SECONDS: Final = 150.0
_PAUSE_SECONDS: Final = 2.0


ClientOption = Annotated[
    list[ClientName] | None,
    typer.Option(
        "--client",
        help="Client of this node; may be repeated. Default: containerd.",
        show_default=False,
    ),
]
CertsOption = Annotated[
    str,
    typer.Option("--certs-dir", metavar="DIR", help="Where containerd looks for hosts.toml."),
]
EveryOption = Annotated[
    str, typer.Option("--every", metavar="TIME", help="Pause between two looks at the mirror.")
]
KeepOption = Annotated[
    bool, typer.Option("--keep", help="Leave the files as they are when the agent ends.")
]
UndoOption = Annotated[
    bool,
    typer.Option("--undo", "--uninstall", help="Put everything back as it was before, and end."),
]
WaitOption = Annotated[
    tuple[str, str] | None,
    typer.Option(
        "--wait-for",
        metavar="ALL READY",
        help="Wait until two names have the same addresses: the clean-up on all nodes is done.",
        show_default=False,
    ),
]


def node_agent(
    *,
    mirror: MirrorOption = None,
    client: ClientOption = None,
    certs_dir: CertsOption = CERTS,
    every: EveryOption = "1s",
    keep: KeepOption = False,
    undo: UndoOption = False,
    wait_for: WaitOption = None,
    registry: RegistryOption = None,
    left_out: ExceptOption = None,
    server: ServerOption = None,
    catch_all: CatchAllOption = False,
    air_gap: AirGapOption = False,
    ca: CaOption = None,
    root: RootOption = Path("/"),
    config: ConfigOption = None,
) -> None:
    """Tell this node's container clients of the mirror, only while it answers."""
    if wait_for is not None:
        _wait_for(*wait_for)
        return
    # The secrets are the mirror's own: the agent may be a root that may not read them.
    settings = load_settings(config, with_files=False).settings
    wish = wish_of(
        settings,
        mirror=mirror,
        registries=registry,
        left_out=left_out,
        servers=server,
        catch_all=catch_all,
        air_gap=air_gap,
        ca=ca,
    )
    pause_seconds = _duration(every)
    agent = _agent(
        settings.log, root, [_told(each, wish, certs_dir) for each in client or _DEFAULT]
    )
    if not undo:
        look = _looker(wish.mirror, root / ca.lstrip("/") if ca else None)
        agent.run(look, _stopped(), every_seconds=pause_seconds, always=air_gap)
    if (undo or not keep) and not agent.undo():
        complain("not everything could be put back; the log says what is in the way")
        raise typer.Exit(FAILED)
    if undo and agent.left:
        # They may still name the mirror, and nobody will look after them any more.
        complain(*(f"{path} was changed since it was written, and is left" for path in agent.left))
        complain("`mirror client-config CLIENT --undo --force` puts back what was there before")
        raise typer.Exit(FAILED)
    if undo:
        write("everything is as it was before")


_DEFAULT: Final = (ClientName.CONTAINERD,)


def _agent(log: "Log", root: Path, clients: "list[Told]") -> "NodeAgent":
    from mirror.clients.agent import NodeAgent  # noqa: PLC0415 -- slow
    from mirror.observe import logs  # noqa: PLC0415 -- slow

    logs.configure(*logs.chosen(log))
    return NodeAgent(root, clients)


def _told(name: ClientName, wish: Wish, certs_dir: str) -> "Told":
    from mirror.clients.agent import Told  # noqa: PLC0415 -- slow
    from mirror.clients.catalogue import CLIENTS, LEDGER  # noqa: PLC0415 -- slow

    if name in {ClientName.CONTAINERD, ClientName.NERDCTL}:
        # Its own configuration is not for an agent: a change of that needs a restart.
        certs = certs_dir.rstrip("/")
        return Told(
            name, lambda _: f"{certs}/{LEDGER}", lambda files: plan_hosts(wish, files, certs)
        )
    if name is ClientName.TALOS:
        raise typer.BadParameter(
            "the files of a Talos machine cannot be written", param_hint="--client"
        )
    found = CLIENTS[name]
    return Told(
        name, lambda files: found.ledger(None, files), lambda files: found.plan(wish, files)
    )


def _duration(text: str) -> float:
    from mirror.settings.units import parse_duration  # noqa: PLC0415 -- slow

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--every") from None


def _stopped() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _looker(mirror: MirrorAddress, ca: Path | None) -> Callable[[], str | None]:
    """Return what looks at a mirror, as a client does, and says why it is of no use."""
    try:
        trust = None if mirror.is_plain else ssl.create_default_context(cafile=ca)
    except OSError as error:
        # ssl's own message does not say which file.
        reason = error.strerror or "not in PEM form"
        raise typer.BadParameter(f"{ca}: {reason}", param_hint="--ca") from None

    def look() -> str | None:
        try:
            with closing(_connection(mirror, trust)) as connection:
                connection.request("GET", "/v2/")
                answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
        if answer.getheader(_HEADER) is None:
            return "what answers there is no registry"
        # 401: it wants to know who asks, and clients may know.
        return None if answer.status in {200, 401} else f"it answers {answer.status}"

    return look


def _connection(mirror: MirrorAddress, trust: ssl.SSLContext | None) -> http.client.HTTPConnection:
    where = (mirror.host, mirror.connection_port)
    if trust is None:
        return http.client.HTTPConnection(*where, timeout=_LOOK_SECONDS)
    return http.client.HTTPSConnection(*where, timeout=_LOOK_SECONDS, context=trust)


def _wait_for(everyone: str, ready: str) -> None:
    """Wait until whoever is there is ready, and stays so."""
    deadline = time.monotonic() + _GIVE_UP_SECONDS
    since, before = time.monotonic(), set[str]()
    while time.monotonic() < deadline:
        there, done = _addresses(everyone), _addresses(ready)
        if there != done or not there or there != before:
            since, before = time.monotonic(), there
        elif time.monotonic() - since >= _STEADY_SECONDS:
            write(f"{len(there)} nodes are as they were before")
            return
        time.sleep(_PAUSE_SECONDS)
    complain(f"after {_GIVE_UP_SECONDS:.0f} s some nodes have not answered")
    raise typer.Exit(FAILED)


def _addresses(name: str) -> set[str]:
    try:
        found: Iterable[tuple[object, ...]] = socket.getaddrinfo(
            name, None, type=socket.SOCK_STREAM
        )
    except OSError:
        return set()
    return {str(address[0]) for *_, address in found if isinstance(address, tuple)}
