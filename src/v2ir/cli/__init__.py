"""The command line: one file a verb; the verbs are the library's own words."""

from __future__ import annotations

import logging
import sys

import typer

from v2ir import __version__
from v2ir.cli import (
    ablate,
    annotate,
    bench,
    check,
    convert,
    demo,
    evaluate,
    generate,
    index,
    models,
    prove,
    train,
    translate,
)
from v2ir.errors import V2IRError

app = typer.Typer(
    name="v2ir",
    help="Translate visible images to infrared ones, train such models and measure them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
VERBS = (
    translate,
    generate,
    index,
    check,
    annotate,
    train,
    evaluate,
    ablate,
    prove,
    convert,
    models,
    bench,
    demo,
)
for verb in VERBS:
    app.command(verb.__name__.rpartition(".")[2])(verb.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"v2ir {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what the library does."),
) -> None:
    level = logging.INFO if verbose else logging.WARNING
    # The level is the handler's too: verbs show some of the library's log in their own way.
    handler = logging.StreamHandler()
    handler.setLevel(level)
    logging.basicConfig(
        level=level, handlers=[handler], format="%(levelname)s %(name)s: %(message)s"
    )


def main() -> None:
    """Run the command line; exit 0 when all went well, 1 for failed inputs, 2 for wrong use."""
    try:
        app()
    except V2IRError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("interrupted; run the same command again to continue", err=True)
        sys.exit(130)
