"""``mirror cache export``, ``import`` and ``inventory``: carry images over an air gap."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from mirror.cli.cache_command import opened
from mirror.cli.options import (
    FAILED,
    MISUSED,
    ConfigOption,
    JsonOption,
    Output,
    OutputOption,
    complain,
    write,
    write_json,
)
from mirror.cli.tables import counted, human_size

if TYPE_CHECKING:
    from mirror.domain.bundles import Contents
    from mirror.service.bundles import LeftOut
    from mirror.store.importing import Imported

_FILE = "bundle.tar, .tar.gz or .tar.zst."
_WITH_REFERRERS = "`mirror prefetch --with-referrers`"


def export(
    arguments: Annotated[
        list[str], typer.Argument(metavar="[REF]... FILE", help=f"Images or globs, and {_FILE}")
    ],
    *,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All images.")] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Only what came in, or was first seen, since then."),
    ] = None,
    missing_in: Annotated[
        Path | None,
        typer.Option(metavar="INVENTORY", help="Carry no object that this inventory names."),
    ] = None,
    platforms: Annotated[
        list[str] | None,
        typer.Option("--platform", metavar="OS/ARCH", help="Only this platform; may be repeated."),
    ] = None,
    with_private: Annotated[
        bool, typer.Option("--with-private", help="Also what came with credentials.")
    ] = False,
    sign_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Sign with this Ed25519 private key (PEM)."),
    ] = None,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Write images to a file that another mirror imports; it is an OCI image layout, too.

    With signatures, SBOMs and attestations as far as they are here. Without REF: --all, --since or
    --missing-in say which. The same content makes the same bytes.
    """
    from mirror.cli import bundle_files as files  # noqa: PLC0415 -- slow
    from mirror.service.bundles import ExportWish  # noqa: PLC0415 -- slow

    *images, name = arguments
    path = Path(name)
    with _refusals(), opened(config) as cache:
        files.check_name(path)
        key = None if sign_key is None else files.signing_key(sign_key)
        inventory = b"" if missing_in is None else files.inventory(missing_in)
        everything |= missing_in is not None and not images
        wish = ExportWish(tuple(images), everything, since, tuple(platforms or ()), with_private)
        left_out: list[LeftOut] = []
        head = files.Head(cache.export(wish, inventory, left_out.append), sign=key)
        with files.writing(path, is_private=with_private) as sink:
            for piece in head:
                sink.write(piece)
    if head.contents is not None:
        _show_export(path, head.contents, left_out[0], output)


def _show_export(path: Path, contents: "Contents", left_out: "LeftOut", output: Output) -> None:
    carried = sum(1 for _ in contents.carried)
    facts = {
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "images": sum(len(each.tags) for each in contents.repositories),
        "objects": len(contents.objects),
        "carried_objects": carried,
        "carried_bytes": contents.carried_bytes,
        "private_left_out": left_out.private,
        "incomplete_left_out": left_out.incomplete,
        "lists_left_out": left_out.lists,
    }
    if output is Output.JSON:
        write_json(facts)
        return
    left = len(contents.objects) - carried
    write(
        f"{path} ({human_size(path.stat().st_size)}): {counted(carried, 'object')} "
        f"({human_size(contents.carried_bytes)}) of "
        f"{counted(len(contents.repositories), 'repository', 'repositories')}"
        + (f"; {left} more are there already" if left else "")
    )
    for count, what, why in (
        (left_out.private, "image", "came with credentials (--with-private carries them)"),
        (left_out.incomplete, "image", "not whole here (`mirror prefetch` completes them)"),
        (left_out.lists, "referrers list", f"a page is not here ({_WITH_REFERRERS} fetches it)"),
    ):
        if count:
            complain(f"left out: {counted(count, what)}, {why}")


def take(
    path: Annotated[Path, typer.Argument(metavar="FILE", help=_FILE)],
    *,
    verify_key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Refuse it unless this Ed25519 public key (PEM) fits."),
    ] = None,
    config: ConfigOption = None,
    output: OutputOption = Output.TEXT,
    json_output: JsonOption = False,  # noqa: ARG001 -- decides output
) -> None:
    """Enter the images of a file that `mirror cache export` wrote: all of it, or nothing.

    Every byte is checked first. What is here already is skipped, so an import that was cut is
    simply done again. A tag that was seen later here than there stays as it is.
    """
    from mirror.cli import bundle_files as files  # noqa: PLC0415 -- slow

    with _refusals(), opened(config) as cache:
        key = None if verify_key is None else files.verifying_key(verify_key)
        path.open("rb").close()  # that it is missing is to be said before a mirror is asked
        head = files.Head(files.reading(path), verify=key)
        done = cache.take(iter(head))
    if output is Output.JSON:
        checked = head.is_signed and key is not None
        write_json({**msgspec.structs.asdict(done), "signature_checked": checked})
        return
    _show_import(done)
    if head.is_signed and key is None:
        complain("the bundle is signed, and that was not checked (--verify-key)")


def _show_import(done: "Imported") -> None:
    here = done.objects - done.new_objects
    write(
        f"{counted(done.new_objects, 'new object')} ({human_size(done.new_bytes)}), "
        f"{here} were here already, {counted(done.tags, 'tag')}"
    )
    complain(*(f"{each} means something newer here, and stays" for each in done.kept_tags))
    complain(
        *(
            f"nobody can ask for images of {each}: it is not in `upstreams` of the configuration"
            for each in done.unknown_upstreams
        )
    )


def inventory(*, config: ConfigOption = None) -> None:
    """Say what is here, as JSON, for `mirror cache export --missing-in` elsewhere."""
    with opened(config) as cache:
        found = cache.inventory()
    write(msgspec.json.encode(found).decode())


@contextmanager
def _refusals() -> Iterator[None]:
    from mirror.cli.bundle_files import BundleFileError  # noqa: PLC0415 -- slow
    from mirror.domain.bundles import BundleInvalidError  # noqa: PLC0415 -- slow

    try:
        yield
    except BundleFileError as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None
    except BundleInvalidError as error:
        complain(f"that is not a bundle, or not a whole one: {error}")
        raise typer.Exit(FAILED) from None
    except FileNotFoundError as error:
        complain(f"{error.filename}: {error.strerror}")
        raise typer.Exit(MISUSED) from None
