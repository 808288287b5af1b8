"""What stands in the way of a command, said with what to do about it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from mirror.cli.options import FAILED, MISUSED, complain


@contextmanager
def problems() -> Iterator[None]:
    """Turn what a mirror or its directory refuses into a message and an exit code."""
    from mirror.cli.admin_client import ProblemError  # noqa: PLC0415 -- slow
    from mirror.service.refusals import RefusalCode, RefusedError  # noqa: PLC0415 -- slow
    from mirror.store.layout import LayoutError  # noqa: PLC0415 -- slow

    try:
        yield
    except (ProblemError, RefusedError) as error:
        problem: Any = getattr(error, "problem", error)
        complain(problem.message, *([problem.hint] if problem.hint else []))
        misused = problem.code == RefusalCode.INVALID
        raise typer.Exit(MISUSED if misused else FAILED) from None
    except LayoutError as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None
