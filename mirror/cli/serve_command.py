"""``mirror serve``."""

import typer

from mirror.cli.options import ConfigOption, load_settings


def serve(*, config: ConfigOption = None) -> None:
    """Run the mirror in the foreground until SIGTERM or SIGINT."""
    loaded = load_settings(config)
    from mirror import app  # noqa: PLC0415 -- the other commands do without servers and stores

    raise typer.Exit(app.run(loaded.settings, loaded.source))
