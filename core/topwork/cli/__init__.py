"""The command ``topwork``: parse, call, print. Nothing heavy is imported before a command needs it."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topwork.cli import cache, new
from topwork.cli.arguments import (
    AllowInexact,
    ExperimentFile,
    ExperimentOfPlugins,
    ModelFolder,
    Output,
    RunFolder,
    Seeds,
    Settings,
    StoreUri,
    TextFile,
    Texts,
    TrustPlugins,
    Workers,
)
from topwork.cli.environment import ensure_home, escape_what_streams_cannot_show
from topwork.cli.format import ExportFormat, Format, PredictionFormat
from topwork.cli.several_processes import check_command, main_process_prints
from topwork.cli.signals import resend_dropped_signals
from topwork.errors import TopworkError, text_of

if TYPE_CHECKING:
    from topwork.experiment.schema import Experiment
    from topwork.registry import Registry

logger = logging.getLogger("topwork")

app = typer.Typer(
    name="topwork",
    help="Train many task heads on one pretrained text encoder.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cache.app, name="cache")
app.add_typer(new.app, name="new")


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context,
    show: Annotated[bool, typer.Option("--version", help="Show the version and exit.", show_default=False)] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error too.", show_default=False)
    ] = False,
) -> None:
    """Train many task heads on one pretrained text encoder."""
    if debug:
        logger.setLevel(logging.DEBUG)
    check_command(context.invoked_subcommand)
    if show:
        from importlib.metadata import version

        typer.echo(version("topwork"))
        raise typer.Exit


@app.command()
def plan(file: ExperimentFile, settings: Settings = None, format: Output = Format.TABLE) -> None:
    """Show what would train, at which rates, and what it would cost."""
    from topwork.experiment.loading import load_experiment

    experiment = load_experiment(file, settings or [])
    from topwork.cli.show_plan import show_plan  # only now, since a typo should be reported at once

    show_plan(experiment, format)


@app.command()
def data(file: ExperimentFile, settings: Settings = None, format: Output = Format.TABLE) -> None:
    """Show what an experiment's rows are like: how many, how long, how balanced, and what contradicts itself."""
    from topwork.experiment.loading import load_experiment

    experiment = load_experiment(file, settings or [])
    from topwork.cli.show_data import show_data

    show_data(experiment, format)


@app.command()
def train(
    file: ExperimentFile,
    settings: Settings = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the model [default: models/<run name>].", show_default=False)
    ] = None,
    seeds: Seeds = None,
    alone: Annotated[
        bool, typer.Option("--alone", help="Train each task by itself too, and show what it gains from the others.")
    ] = False,
    allow_inexact: AllowInexact = False,
    format: Output = Format.TABLE,
) -> None:
    """Train an experiment and log the run in MLflow; with --output the same command goes on after a stop."""
    experiment = load_with_seeds(file, settings or [], seeds)
    from topwork.cli.show_training import show_training

    show_training(experiment, output, format, alone=alone, allow_inexact=allow_inexact)


@app.command(name="encode-corpus")
def encode_corpus(file: ExperimentFile, settings: Settings = None, format: Output = Format.TABLE) -> None:
    """Encode an experiment's texts into the store, and do not train; any number of processes share the work."""
    from topwork.experiment.loading import load_experiment

    experiment = load_experiment(file, settings or [])
    from topwork.cli.show_corpus import show_corpus

    show_corpus(experiment, file, format)


@app.command()
def resume(
    run: RunFolder,
    output: Annotated[
        Path | None, typer.Option(help="Another folder for the model than the run was begun with.", show_default=False)
    ] = None,
    allow_inexact: AllowInexact = False,
    format: Output = Format.TABLE,
) -> None:
    """Go on with a run that was interrupted, to the same last bit."""
    from topwork.cli.show_training import show_resumption

    show_resumption(run, output, format, allow_inexact=allow_inexact)


@app.command()
def runs(
    folder: Annotated[
        Path | None,
        typer.Argument(help="The folder of models [default: this folder, and models in it].", show_default=False),
    ] = None,
    format: Output = Format.TABLE,
) -> None:
    """List runs, finished and unfinished, with what each needs to go on."""
    from topwork.cli.show_runs import show_runs

    show_runs(folder, format)


def load_with_seeds(file: Path, settings: list[str], seeds: int | None) -> "Experiment":
    """Read an experiment, with as many seeds as are asked for: its own first, then those above all of them."""
    from topwork.experiment.loading import load_experiment

    experiment = load_experiment(file, settings)
    if seeds is None:
        return experiment
    own = experiment.training.seeds or (experiment.training.seed,)
    every = [*own, *range(max(own) + 1, max(own) + 1 + seeds)][:seeds]
    training = experiment.training.model_copy(update={"seed": 0, "seeds": tuple(every)})
    return experiment.model_copy(update={"training": training})


@app.command()
def sync(
    run: RunFolder,
    uri: Annotated[
        str | None, typer.Option(help="The MLflow store, with its password [default: the run's].", show_default=False)
    ] = None,
) -> None:
    """Send MLflow what a run logged while the store was away."""
    from topwork.cli.show_runs import show_sync

    show_sync(run, uri)


@app.command()
def study(file: ExperimentFile, settings: Settings = None, format: Output = Format.TABLE) -> None:
    """Search an experiment's study section; the same command resumes one that was interrupted."""
    from topwork.experiment.loading import load_experiment

    experiment = load_experiment(file, settings or [])
    from topwork.cli.show_study import show_study

    show_study(experiment, format)


@app.command()
def transfer(
    file: ExperimentFile,
    settings: Settings = None,
    seeds: Seeds = None,
    workers: Workers = None,
    format: Output = Format.TABLE,
) -> None:
    """Show which task helps which: train each alone, each pair, and all together; the same command goes on."""
    experiment = load_with_seeds(file, settings or [], seeds)
    from topwork.cli.show_transfer import show_transfer

    show_transfer(experiment, workers, format)


@app.command()
def probe(
    file: ExperimentFile,
    settings: Settings = None,
    seeds: Seeds = None,
    workers: Workers = None,
    format: Output = Format.TABLE,
) -> None:
    """Show which layer to read: train the heads on each, frozen, by CLS and by mean; the same command goes on."""
    experiment = load_with_seeds(file, settings or [], seeds)
    from topwork.cli.show_probe import show_probe

    show_probe(experiment, workers, format)


@app.command()
def evaluate(
    model: ModelFolder,
    file: Annotated[
        Path | None,
        typer.Argument(
            help="Rows like the training rows; of the experiment's own file the test rows.", show_default=False
        ),
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="The source that the rows are like, where the model has several.")
    ] = None,
    trust_plugins: TrustPlugins = False,
    format: Output = Format.TABLE,
) -> None:
    """Measure a trained model, with 95 % intervals."""
    from topwork.cli.use_model import show_evaluation

    show_evaluation(model, file, source, format, trust_plugins=trust_plugins)


@app.command()
def predict(
    model: ModelFolder,
    texts: Texts = None,
    file: TextFile = None,
    trust_plugins: TrustPlugins = False,
    format: Annotated[PredictionFormat, typer.Option(help="How to print them.")] = PredictionFormat.TABLE,
) -> None:
    """Predict every task's label for texts."""
    from topwork.cli.use_model import show_predictions

    show_predictions(model, texts or [], file, format, trust_plugins=trust_plugins)


@app.command()
def encode(
    model: ModelFolder,
    output: Annotated[
        Path, typer.Option(help="Where to write the vectors: a .npy or .parquet file.", show_default=False)
    ],
    texts: Texts = None,
    file: TextFile = None,
    trust_plugins: TrustPlugins = False,
) -> None:
    """Write the pooled vectors of texts."""
    from topwork.cli.use_model import write_vectors

    write_vectors(model, texts or [], file, output, trust_plugins=trust_plugins)


@app.command()
def export(
    model: ModelFolder,
    format: Annotated[ExportFormat, typer.Option(help="What to write.", show_default=False)],
    output: Annotated[Path, typer.Option(help="A new folder to write to.", show_default=False)],
    trust_plugins: TrustPlugins = False,
) -> None:
    """Write a model for other software: an ONNX graph with all heads, or the encoder alone for transformers."""
    from topwork.cli.use_model import write_export

    write_export(model, format, output, trust_plugins=trust_plugins)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(help="Runs, by name or MLflow's id.", show_default=False)],
    uri: StoreUri = None,
    trust_plugins: TrustPlugins = False,
    format: Output = Format.TABLE,
) -> None:
    """Compare runs on the same test rows: settings, metrics, and differences with intervals."""
    from topwork.cli.show_comparison import show_comparison

    show_comparison(runs, uri, format, trust_plugins=trust_plugins)


@app.command()
def ui(
    uri: StoreUri = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to serve at.")] = 5000,
) -> None:
    """Show runs and studies in the browser with MLflow's server, and print the link that compares trials."""
    from topwork.cli.serve_ui import serve_ui

    serve_ui(uri, port)


@app.command()
def plugins(format: Output = Format.TABLE) -> None:
    """List the installed plugins with their settings."""
    from topwork.cli.show_plugins import show_plugins

    show_plugins(format)


@app.command()
def explain(
    subject: Annotated[
        str,
        typer.Argument(metavar="WHAT", help="An interface, a kind, or a setting by its path.", show_default=False),
    ],
    file: ExperimentOfPlugins = None,
) -> None:
    """Say what an interface, a plugin or a setting is: head, binary, training.patience."""
    from topwork.cli.explain import explain

    explain(subject, registry_with(file))


@app.command()
def schema(
    file: ExperimentOfPlugins = None,
    output: Annotated[
        Path | None, typer.Option(help="A file to write it to [default: print it].", show_default=False)
    ] = None,
) -> None:
    """Print the JSON schema of the experiment file, by which editors complete and check it."""
    from topwork.cli.show_schema import show_schema

    show_schema(registry_with(file), output)


def registry_with(file: Path | None) -> "Registry":
    """Return what is installed, and the plugin files that an experiment names."""
    from topwork.experiment.loading import load_plugin_files
    from topwork.registry import discover

    return discover(load_plugin_files(file) if file else [])


@main_process_prints()
def main() -> None:
    """Run a command. A user's mistake prints its message, never a traceback."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.addLevelName(logging.WARNING, "warning")
    escape_what_streams_cannot_show()
    ensure_home()
    try:
        with resend_dropped_signals():
            app()
    except TopworkError as error:
        logger.debug("traceback", exc_info=error)
        typer.echo("\n".join(f"error: {line}" for line in text_of(error).splitlines()), err=True)
        show_notes(error)
        raise SystemExit(error.exit_code) from None
    except SystemExit as error:  # of Ctrl-C too: typer turns it into one
        if error.code == 130:
            typer.echo("interrupted", err=True)
        show_notes(error)
        raise


def show_notes(error: BaseException | None) -> None:
    """Print what was added to an error on its way, or to the one that it was raised for."""
    while error is not None:
        for note in getattr(error, "__notes__", []):
            typer.echo(note, err=True)
        error = error.__cause__ or error.__context__
