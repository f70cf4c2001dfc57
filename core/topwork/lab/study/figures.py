"""Pictures of a study: as images, and together on one page that answers to the mouse."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from topwork.experiment.search import Searched
from topwork.lab.study.ledger import finished_of
from topwork.lab.tracking.study_log import objective_names


def draw(
    study: optuna.Study,
    objectives: Sequence[str],
    searched: Sequence[Searched],
    *,
    own: int | None,
    best: Sequence[int],
) -> tuple[dict[str, Figure], str]:
    """Draw the trials that count.

    Returns:
        Images by name, and a page of HTML that needs no network. Where too few trials are complete for a picture,
        or all of them are equal, it is left out.
    """
    from optuna import visualization as pages

    figures: dict[str, Figure] = {}
    parts: list[str] = []
    finished = _finished_only(study)
    complete = [trial for trial in finished.trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return {}, ""
    with _quiet():
        for name, title, plot, settings in _plots(objectives, searched):
            try:
                if plot == "plot_parallel_coordinate":
                    values = [settings["target"](trial) for trial in complete]
                    image = _parallel_coordinates(complete, searched, settings["target_name"], values)
                else:
                    image = _image(plot, finished, settings)
                page = getattr(pages, plot)(finished, **settings)
            except (ValueError, RuntimeError):  # of importances, where there is nothing to tell apart
                continue
            if plot == "plot_contour":
                _mark(image, complete, searched, own=own, best=best)
            image.suptitle(title, fontsize=11)
            figures[name] = image
            page.update_layout(title=title)
            parts.append(page.to_html(full_html=False, include_plotlyjs=not parts))  # the library once
    body = "\n".join(parts)
    return figures, f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>{study.study_name}</title>\n{body}\n'


def _plots(objectives: Sequence[str], searched: Sequence[Searched]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield name, title, function and settings of every picture."""
    names = [one.name for one in searched]
    labels = objective_names(objectives)
    for number, objective in enumerate(objectives):
        end = f"_{number + 1}" if len(objectives) > 1 else ""
        settings: dict[str, Any] = {
            "target_name": labels[number],
            "target": lambda trial, number=number: trial.values[number],
        }
        if len(names) > 1:
            yield f"contour{end}", objective, "plot_contour", settings | {"params": names[:2]}
        yield f"history{end}", f"{objective} by trial", "plot_optimization_history", settings
        if len(names) > 1:
            yield f"importances{end}", f"importance for {objective}", "plot_param_importances", settings
        yield f"parallel_coordinates{end}", objective, "plot_parallel_coordinate", settings
    if len(objectives) in (2, 3):
        yield (
            "pareto_front",
            "; ".join(f"{label}: {objective}" for label, objective in zip(labels, objectives, strict=True)),
            "plot_pareto_front",
            {"target_names": labels},
        )


def _finished_only(study: optuna.Study) -> optuna.Study:
    """Copy the trials that count, with their numbers, into memory."""
    copy = optuna.create_study(directions=study.directions, study_name=study.study_name)
    copy.add_trials(finished_of(study.get_trials(deepcopy=False)))
    return copy


def _image(plot: str, study: optuna.Study, settings: dict[str, Any]) -> Figure:
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as images

    with matplotlib.rc_context():  # Optuna sets a style for all pictures of the process
        axes = getattr(images, plot)(study, **settings)
    first = axes.flat[0] if isinstance(axes, np.ndarray) else axes
    figure: Figure = first.figure
    pyplot.close(figure)
    for place in ("left", "center", "right"):
        first.set_title("", loc=place)
    figure.set_size_inches(7, 5)
    figure.set_layout_engine("tight")
    return figure


def _mark(
    figure: Figure, trials: Sequence[FrozenTrial], searched: Sequence[Searched], *, own: int | None, best: Sequence[int]
) -> None:
    """Mark the experiment's own values and the best on a contour."""
    across, up = sorted(one.name for one in searched[:2])
    if any(one.dimension.choices is not None for one in searched[:2]):
        return  # those have no place on a scale
    for trial in trials:
        at = trial.params[across], trial.params[up]
        if trial.number == own:
            figure.axes[0].plot(
                *at, "s", color="tab:orange", fillstyle="none", markersize=15, markeredgewidth=2.5, label="own values"
            )
        if trial.number in best:
            figure.axes[0].plot(*at, "*", color="tab:red", markersize=14, label="best", zorder=3)
    figure.axes[0].legend(loc="upper left", fontsize=8)


def _parallel_coordinates(
    trials: Sequence[FrozenTrial], searched: Sequence[Searched], objective: str, values: Sequence[float]
) -> Figure:
    """Draw a line for each trial through its values, each setting on a scale of its own, coloured by objective."""
    columns = {one.name: [trial.params[one.name] for trial in trials] for one in searched} | {objective: list(values)}
    logarithmic = {one.name for one in searched if one.dimension.log}
    figure = Figure(figsize=(2.2 * len(searched) + 3, 4.5), layout="constrained")
    axes = figure.subplots()
    heights = []
    for place, (name, column) in enumerate(columns.items()):
        at, marks = _scale(column, logarithmic=name in logarithmic)
        heights.append(at)
        axes.axvline(place, color="grey", linewidth=0.8)
        for label, height in marks.items():
            axes.annotate(label, (place, height), xytext=(4, 3), textcoords="offset points", fontsize=8)
    for line in sorted(zip(*heights, strict=True), key=lambda line: line[-1]):  # the greatest on top
        axes.plot(range(len(line)), line, color=matplotlib.colormaps["Blues"](0.25 + 0.75 * line[-1]), linewidth=1.2)
    axes.set_xticks(range(len(columns)), list(columns), parse_math=False)
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return figure


def _scale(column: Sequence[Any], *, logarithmic: bool) -> tuple[list[float], dict[str, float]]:
    """Return the heights in [0, 1] of a column's values, and those of the labels beside it."""
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
        names = sorted({str(value) for value in column})
        places = {name: number / max(1, len(names) - 1) for number, name in enumerate(names)}
        return [places[str(value)] for value in column], places
    numbers = [math.log(value) if logarithmic else float(value) for value in column]
    low, high = min(numbers), max(numbers)
    heights = [(number - low) / (high - low) if high > low else 0.5 for number in numbers]
    return heights, {f"{min(column):.3g}": min(heights), f"{max(column):.3g}": max(heights)}


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what Optuna says of its own functions, and of trials without a value."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
