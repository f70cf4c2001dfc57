"""``topwork new``: a plugin of each interface, or an experiment."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

#: The interfaces, as the command line calls them.
INTERFACES = ("head", "backbone", "pooling", "freeze-strategy", "optimizer-grouping", "sampler", "loss-weighting")

app = typer.Typer(no_args_is_help=True, help="Begin a plugin or an experiment from a template that works.")

Name = Annotated[
    str, typer.Argument(help="Such as span-pair: a package; or span_pair.py: a single file.", show_default=False)
]


def _command(interface: str) -> Callable[[str], None]:
    def make(name: Name) -> None:
        from topwork.cli.new_plugin import new_plugin
        from topwork.registry import discover

        new_plugin(interface.replace("-", " "), name, discover())

    return make


for _interface in INTERFACES:
    _words = f"{'an' if _interface[0] == 'o' else 'a'} {_interface.replace('-', ' ')}"
    app.command(_interface, help=f"Write {_words}, with tests and an experiment.")(_command(_interface))


@app.command()
def experiment(
    data: Annotated[Path, typer.Argument(help="A file with a text and labels in each row.", show_default=False)],
    output: Annotated[
        Path | None, typer.Option(help="The experiment [default: named after the data].", show_default=False)
    ] = None,
) -> None:
    """Write a first experiment for a file of data, which trains as it is."""
    from topwork.cli.new_experiment import new_experiment
    from topwork.registry import discover

    new_experiment(data, output or Path(f"{data.name.partition('.')[0]}.yaml"), discover())
