"""Figures of a run."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from topwork.engine.observer import Epoch
from topwork.engine.training.gradients import COSINE, NORM

#: Curves in a panel, panels in a figure, and curves up to which a panel has a legend: more make no readable figure.
MAX_CURVES, MAX_PANELS, MAX_LEGEND = 200, 16, 20

#: Pairs of tasks whose cosine is drawn by epoch: as many as there are colours.
MAX_PAIRS = 10

#: Panels side by side.
COLUMNS = 4


def learning_curves(epochs: Sequence[Epoch], best_epoch: int) -> Figure:
    """Draw every metric over the epochs, a panel each: training dashed, validation solid.

    Of more than 200 curves in a panel and more than 16 panels the first are drawn, and it is said how many there are.
    """
    every = dict.fromkeys(name for epoch in epochs for name in epoch.metrics)
    names = [name for name in every if name.startswith(("training/", "validation/"))]
    kinds = list(dict.fromkeys(name.rpartition("/")[2] for name in names))
    panels = kinds[:MAX_PANELS]
    columns = min(len(panels), COLUMNS)
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5 * columns, 3.6 * rows), layout="constrained")
    numbers = [epoch.number for epoch in epochs]
    subjects = {subject: number for number, subject in enumerate(dict.fromkeys(_subject(name) for name in names))}
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in places[len(panels) :]:
        empty.remove()
    for axes, panel in zip(places, panels, strict=False):
        curves = [name for name in names if name.rpartition("/")[2] == panel]
        for name in curves[:MAX_CURVES]:
            style = "--" if name.startswith("training") else "-"
            color = f"C{subjects[_subject(name)]}"  # a task has one colour, whatever the rows
            values = [epoch.metrics.get(name, math.nan) for epoch in epochs]
            label = name.removesuffix(f"/{panel}")
            axes.plot(numbers, values, style, color=color, marker="o", markersize=3, label=label)
        axes.axvline(best_epoch, color="grey", linewidth=0.8, linestyle=":")
        some = f" (the first {MAX_CURVES} of {len(curves):,} curves)" if len(curves) > MAX_CURVES else ""
        axes.set(title=f"{panel.replace('_', ' ')}{some}", xlabel=f"epoch (best: {best_epoch})")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        if len(curves) <= MAX_LEGEND:
            axes.legend(fontsize=8)
    if len(kinds) > len(panels):
        figure.suptitle(f"the first {len(panels)} of {len(kinds):,} metrics")
    return figure


def gradient_figure(epochs: Sequence[Epoch]) -> Figure:
    """Draw the cosine of each pair of tasks' gradients, its mean over epochs and by epoch, and each task's norm.

    Of more than 10 pairs those with the least mean are drawn by epoch, since these tasks hinder each other most.
    """
    every = dict.fromkeys(name for epoch in epochs for name in epoch.metrics)
    tasks = [name.removeprefix(NORM) for name in every if name.startswith(NORM)]
    cosines = np.full((len(tasks), len(tasks)), np.nan)  # two tasks may have had no batch in common
    np.fill_diagonal(cosines, 1.0)
    means: dict[str, float] = {}
    for name in (name for name in every if name.startswith(COSINE)):
        one, _, other = name.removeprefix(COSINE).partition("/")
        means[name] = float(np.mean([epoch.metrics[name] for epoch in epochs if name in epoch.metrics]))
        place = tasks.index(one), tasks.index(other)
        cosines[place] = cosines[place[::-1]] = means[name]
    figure = Figure(figsize=(16 + 0.2 * len(tasks), 4 + 0.2 * len(tasks)), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    left.set_facecolor("0.85")
    shown = left.imshow(cosines, cmap="RdBu", vmin=-1, vmax=1)
    figure.colorbar(shown, ax=left)
    left.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", parse_math=False)
    left.set_yticks(range(len(tasks)), tasks, parse_math=False)
    left.set(title="gradients' mean cosine; grey: no batch in common")
    _draw_by_epoch(middle, epochs, sorted(means, key=means.__getitem__)[:MAX_PAIRS], COSINE)
    some = f", the least {MAX_PAIRS} of {len(means)}" if len(means) > MAX_PAIRS else ""
    middle.set(title=f"cosine by epoch{some}", ylim=(-1.05, 1.05))
    _draw_by_epoch(right, epochs, [f"{NORM}{task}" for task in tasks[:MAX_CURVES]], NORM)
    right.set(title="norm by epoch", yscale="log")
    return figure


def _draw_by_epoch(axes: Axes, epochs: Sequence[Epoch], names: Sequence[str], prefix: str) -> None:
    """Draw metrics over the epochs, named without their prefix."""
    for name in names:
        values = [epoch.metrics.get(name, math.nan) for epoch in epochs]
        label = name.removeprefix(prefix).replace("/", " and ")
        axes.plot([epoch.number for epoch in epochs], values, marker="o", markersize=3, label=label)
    axes.set(xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    if 0 < len(names) <= MAX_LEGEND:
        axes.legend(fontsize=8)


def _subject(name: str) -> str:
    """The task of a metric's name, or "" for a total."""
    return name.partition("/")[2].rpartition("/")[0]
