"""Figures of a run."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from topwork.engine.observer import Epoch


def learning_curves(epochs: Sequence[Epoch], best_epoch: int) -> Figure:
    """Draw every metric over the epochs, a panel each: training dashed, validation solid."""
    names = list(epochs[0].metrics)
    panels = list(dict.fromkeys(name.rpartition("/")[2] for name in names))
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    numbers = [epoch.number for epoch in epochs]
    subjects = list(dict.fromkeys(_subject(name) for name in names))
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for name in (name for name in names if name.rpartition("/")[2] == panel):
            style = "--" if name.startswith("training") else "-"
            color = f"C{subjects.index(_subject(name))}"  # a task has one colour, whatever the rows
            values = [epoch.metrics[name] for epoch in epochs]
            label = name.removesuffix(f"/{panel}")
            axes.plot(numbers, values, style, color=color, marker="o", markersize=3, label=label)
        axes.axvline(best_epoch, color="grey", linewidth=0.8, linestyle=":")
        axes.set(title=panel.replace("_", " "), xlabel=f"epoch (best: {best_epoch})")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _subject(name: str) -> str:
    """The task of a metric's name, or "" for a total."""
    return name.partition("/")[2].rpartition("/")[0]
