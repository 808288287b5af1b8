"""What the commands that configure container clients have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mirror.clients.address import MirrorAddress
from mirror.clients.plan import Wish
from mirror.clients.toml_text import quoted

if TYPE_CHECKING:
    from mirror.settings import Settings

MirrorOption = Annotated[
    str | None,
    typer.Option(
        "--mirror",
        metavar="URL",
        help="The mirror as the client reaches it. Default: the address of the configuration.",
        show_default=False,
    ),
]
RegistryOption = Annotated[
    list[str] | None,
    typer.Option(
        "--registry",
        metavar="NAME",
        help="Only this registry; may be repeated. Default: every upstream of the configuration.",
        show_default=False,
    ),
]
ExceptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--except",
        metavar="NAME",
        help="Not this registry; may be repeated.",
        show_default=False,
    ),
]
ServerOption = Annotated[
    list[str] | None,
    typer.Option(
        "--server",
        metavar="NAME=URL",
        help="Where a registry itself is, if not at https://NAME; may be repeated.",
        show_default=False,
    ),
]
CatchAllOption = Annotated[
    bool,
    typer.Option("--catch-all", help="Also for registries that are not named (`_default`, `*`)."),
]
AirGapOption = Annotated[
    bool, typer.Option("--air-gap", help="Never go on to the registry itself.")
]
CaOption = Annotated[
    str | None,
    typer.Option(
        "--ca",
        metavar="FILE",
        help="Authority that signed the mirror's certificate, as the client finds it.",
        show_default=False,
    ),
]
RootOption = Annotated[
    Path,
    typer.Option("--root", metavar="DIR", help="Root directory of the machine that is configured."),
]


def wish_of(
    settings: "Settings",
    *,
    mirror: str | None,
    registries: Sequence[str] | None,
    left_out: Sequence[str] | None,
    servers: Sequence[str] | None,
    catch_all: bool,
    air_gap: bool,
    ca: str | None,
    home: str | None = None,
) -> Wish:
    """Return what the options say; typer.BadParameter tells what is wrong with them."""
    known, registries, left_out = settings.upstreams, registries or (), left_out or ()
    if unknown := [name for name in [*registries, *left_out] if name not in known]:
        raise typer.BadParameter(
            f"{unknown[0]} is no upstream of the configuration ({', '.join(known)})"
        )
    chosen = [name for name in known if name in (registries or known) and name not in left_out]
    if not chosen:
        raise typer.BadParameter("no registry is left")
    return Wish(
        mirror=_address(settings, mirror),
        registries=tuple(chosen),
        servers=dict(_server(each) for each in servers or ()),
        fallback=not air_gap,
        catch_all=catch_all,
        ca=_file(ca),
        home=home,
    )


def _file(ca: str | None) -> str | None:
    try:
        quoted(ca or "")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--ca") from None
    return ca


def _address(settings: "Settings", given: str | None) -> MirrorAddress:
    scheme = "https" if settings.server.tls else "http"
    try:
        return MirrorAddress.parse(given or f"{scheme}://{settings.server.listen.local()}")
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--mirror") from None


def _server(given: str) -> tuple[str, str]:
    name, _, url = given.partition("=")
    try:
        return name, str(MirrorAddress.parse(url))
    except ValueError as error:
        raise typer.BadParameter(f"not NAME=URL: {error}", param_hint="--server") from None
