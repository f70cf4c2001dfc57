"""Figures of a study: as images, and together on one interactive page."""

import logging
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from textwrap import wrap
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from topwork.errors import first_line
from topwork.experiment.search import SearchedSetting
from topwork.lab.study.trial_states import finished_trials
from topwork.lab.tracking.study_log import objective_names

#: Trials that a figure shows: pages grow with their number, and contours with its square.
MAX_TRIALS = 1000

logger = logging.getLogger(__name__)


def draw(
    study: optuna.Study,
    objectives: Sequence[str],
    search: Sequence[SearchedSetting],
    *,
    baseline: int | None,
    best: Sequence[int],
) -> tuple[dict[str, Figure], str]:
    """Draw the trials that count.

    Returns:
        Images by name, and a page of HTML that needs no network. A figure that Optuna cannot draw is left out, with
        a warning; without complete trials there is none.
    """
    from optuna import visualization as pages

    figures: dict[str, Figure] = {}
    html: list[str] = []
    trials = _trials_to_draw(study, keep={baseline, *best})
    complete = [
        trial for trial in trials if trial.state == TrialState.COMPLETE
    ]  # with their numbers, which copies lose
    if not complete:
        return {}, ""
    finished = optuna.create_study(directions=study.directions, study_name=study.study_name)
    finished.add_trials(trials)
    with _quiet():
        for name, title, plot, settings in _plots(objectives, search):
            try:
                image = _image(plot, finished, settings)
                page = getattr(pages, plot)(finished, **settings)
            except (ValueError, RuntimeError) as error:  # as importances did where all trials were equal
                logger.warning("figure %s could not be drawn: %s", name, first_line(error))
                continue
            if plot == "plot_contour":
                _mark(image, complete, search, baseline=baseline, best=best)
            lines = wrap(title, 90)  # of objectives over many tasks
            image.suptitle("\n".join(lines), fontsize=11 if len(lines) == 1 else 7)
            figures[name] = image
            page.update_layout(title="<br>".join(lines))
            html.append(page.to_html(full_html=False, include_plotlyjs=not html))  # the library once
    body = "\n".join(html)
    return figures, f'<!DOCTYPE html>\n<meta charset="utf-8">\n<title>{study.study_name}</title>\n{body}\n'


def _plots(
    objectives: Sequence[str], search: Sequence[SearchedSetting]
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield name, title, function and settings of every figure."""
    names = [searched.name for searched in search]
    labels = objective_names(objectives)
    for number, objective in enumerate(objectives):
        end = f"_{number + 1}" if len(objectives) > 1 else ""
        settings: dict[str, Any] = {"target_name": labels[number]}
        if len(objectives) > 1:  # of one objective Optuna knows the direction, and draws the best trials darkest
            settings["target"] = lambda trial, number=number: trial.values[number]
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


def _trials_to_draw(study: optuna.Study, *, keep: Collection[int | None]) -> list[FrozenTrial]:
    """The trials that count: of very many some, evenly, with those to ``keep``."""
    finished = finished_trials(study.get_trials(deepcopy=False))
    step = -(-len(finished) // MAX_TRIALS)
    drawn = [trial for place, trial in enumerate(finished) if place % step == 0 or trial.number in keep]
    if len(drawn) < len(finished):
        logger.warning("figures show %d of %d trials", len(drawn), len(finished))
    return drawn


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
    figure: Figure,
    trials: Sequence[FrozenTrial],
    search: Sequence[SearchedSetting],
    *,
    baseline: int | None,
    best: Sequence[int],
) -> None:
    """Mark the baseline and the best trials on a contour, whose axes have the names in alphabetic order."""
    across, up = sorted(searched.name for searched in search[:2])
    if any(searched.dimension.choices is not None for searched in search[:2]):
        return  # those have no place on a scale
    for trial in trials:
        at = trial.params[across], trial.params[up]
        if trial.number == baseline:
            figure.axes[0].plot(
                *at, "s", color="tab:orange", fillstyle="none", markersize=15, markeredgewidth=2.5, label="baseline"
            )
        if trial.number in best:
            figure.axes[0].plot(*at, "*", color="tab:red", markersize=14, label="best", zorder=3)
    figure.axes[0].legend(loc="upper left", fontsize=8)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out Optuna's warnings about its own functions, and about trials without a value."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
