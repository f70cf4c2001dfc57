"""Figures of a run."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from topwork.engine.observer import Epoch
from topwork.engine.training.gradients import COSINE, NORM

#: Curves in a panel, panels in a figure, and curves up to which a panel has a legend: more make no readable figure.
MAX_CURVES, MAX_PANELS, MAX_LEGEND = 200, 16, 20

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
    """Draw the mean cosine of each pair of tasks' gradients over all epochs, and each task's norm over the epochs."""
    every = dict.fromkeys(name for epoch in epochs for name in epoch.metrics)
    tasks = [name.removeprefix(NORM) for name in every if name.startswith(NORM)]
    cosines = np.full((len(tasks), len(tasks)), np.nan)  # two tasks may have had no batch in common
    np.fill_diagonal(cosines, 1.0)
    for name in (name for name in every if name.startswith(COSINE)):
        one, _, other = name.removeprefix(COSINE).partition("/")
        values = [epoch.metrics[name] for epoch in epochs if name in epoch.metrics]
        place = tasks.index(one), tasks.index(other)
        cosines[place] = cosines[place[::-1]] = np.mean(values)
    figure = Figure(figsize=(11 + 0.2 * len(tasks), 4 + 0.2 * len(tasks)), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.set_facecolor("0.85")
    shown = left.imshow(cosines, cmap="RdBu", vmin=-1, vmax=1)
    figure.colorbar(shown, ax=left)
    left.set_xticks(range(len(tasks)), tasks, rotation=40, ha="right", parse_math=False)
    left.set_yticks(range(len(tasks)), tasks, parse_math=False)
    left.set(title="cosine of the tasks' gradients, mean over epochs; grey: no batch in common")
    for task in tasks[:MAX_CURVES]:
        norms = [epoch.metrics.get(f"{NORM}{task}", math.nan) for epoch in epochs]
        right.plot([epoch.number for epoch in epochs], norms, marker="o", markersize=3, label=task)
    right.set(title="norm of the tasks' gradients", xlabel="epoch", yscale="log")
    right.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    right.grid(alpha=0.3)
    if len(tasks) <= MAX_LEGEND:
        right.legend(fontsize=8)
    return figure


def _subject(name: str) -> str:
    """The task of a metric's name, or "" for a total."""
    return name.partition("/")[2].rpartition("/")[0]
