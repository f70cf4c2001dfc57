"""``topwork cache``: look at, check, and clear what is kept on disk."""

from typing import Annotated

import typer

from topwork.cli.format import Format

app = typer.Typer(help="Look at, check and clear the activation store.", no_args_is_help=True)


@app.command()
def path() -> None:
    """Print the cache folder; TOPWORK_CACHE sets another."""
    from topwork.engine.encoding.store.cache_folder import cache_folder

    typer.echo(cache_folder())


@app.command("list")
def list_(
    format: Annotated[Format, typer.Option(help="How to print the list; csv and json have all digits.")] = Format.TABLE,
) -> None:
    """List what is stored, the last used first."""
    from topwork.cli.show_cache import show_entries

    show_entries(format)


@app.command()
def verify() -> None:
    """Compare everything that is stored with its sha256."""
    from topwork.cli.show_cache import verify_entries

    verify_entries()


@app.command()
def prune(
    keys: Annotated[
        list[str] | None, typer.Argument(help="Keys, or how they begin, as `list` shows them.", show_default=False)
    ] = None,
    unused: Annotated[
        float | None,
        typer.Option(min=0, help="Remove what was not used for so many days; 0 is all.", show_default=False),
    ] = None,
) -> None:
    """Remove what is stored; runs that read it at the moment are not disturbed."""
    from topwork.cli.show_cache import prune_entries

    prune_entries(keys or [], unused)
