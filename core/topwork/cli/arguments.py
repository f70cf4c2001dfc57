"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated

import typer

from topwork.cli.format import Format

ExperimentFile = Annotated[Path, typer.Argument(help="The experiment file.", show_default=False)]
ModelFolder = Annotated[Path, typer.Argument(help="The folder of a trained model.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="Override a setting, such as training.epochs=5.", show_default=False
    ),
]
RunFolder = Annotated[
    Path, typer.Argument(help="The folder of a run, such as models/runs/mine; see topwork runs.", show_default=False)
]
AllowInexact = Annotated[
    bool,
    typer.Option(
        "--allow-inexact", help="Go on also where the bits may be others than they would have been; the run says so."
    ),
]
Seeds = Annotated[
    int | None,
    typer.Option(
        min=1, max=1000, help="Train once with each of so many seeds, and show means over them.", show_default=False
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="Processes of one thread each [default: study.workers, or 2].", show_default=False),
]
StoreUri = Annotated[
    str | None,
    typer.Option(
        help="The MLflow store [default: MLFLOW_TRACKING_URI, or mlflow.db in this folder].", show_default=False
    ),
]
TrustPlugins = Annotated[
    bool,
    typer.Option("--trust-plugins", help="Run the plugin files that came with it, which are code."),
]
ExperimentOfPlugins = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="An experiment, whose plugin files count too.", show_default=False),
]
Texts = Annotated[
    list[str] | None, typer.Argument(help="Texts; standard input where there are none, or for -.", show_default=False)
]
Output = Annotated[Format, typer.Option("--format", help="How to print the result; csv and json have all digits.")]
TextFile = Annotated[
    Path | None, typer.Option("--file", help="Read texts from a file, one to a line.", show_default=False)
]
