"""The matrix of what tasks gain from each other, as a figure."""

import numpy as np
from matplotlib.figure import Figure

from topwork.lab.study.transfer_result import TransferResult, verdict

#: Tasks up to which numbers are written into the cells.
MAX_WRITTEN = 20


def draw_transfer(result: TransferResult) -> Figure:
    """Draw a row for each task and a column for each partner; grey where a gain cannot be told from 0."""
    tasks, partners = list(result.alone), result.partners
    gains = np.full((len(tasks), len(partners)), np.nan)
    told = np.zeros(gains.shape, dtype=bool)
    for (task, partner), gain in result.gains.items():
        place = tasks.index(task), partners.index(partner)
        gains[place], told[place] = gain.value, verdict(gain) in ("helps", "hurts")
    limit = float(np.abs(gains[told]).max()) if told.any() else 1.0
    figure = Figure(figsize=(3.2 + 0.8 * len(partners), 2.0 + 0.45 * len(tasks)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.where(np.isnan(gains), np.nan, 0.12), cmap="Greys", vmin=0, vmax=1, aspect="auto")
    colors = axes.imshow(np.where(told, gains, np.nan), cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for y, x in zip(*np.nonzero(~np.isnan(gains)), strict=True) if len(tasks) <= MAX_WRITTEN else ():
        sure = bool(told[y, x])
        color = "white" if sure and abs(gains[y, x]) > 0.6 * limit else "black" if sure else "0.45"
        weight = "bold" if sure else "normal"
        text = f"{gains[y, x]:+.3f}"
        axes.text(int(x), int(y), text, ha="center", va="center", fontsize=8, color=color, fontweight=weight)
    axes.set_xticks(range(len(partners)), partners, rotation=40, ha="right", parse_math=False)
    labels = [f"{task} ({result.metrics[task]})" for task in tasks]
    axes.set_yticks(range(len(tasks)), labels, parse_math=False)
    axes.set(xlabel="trained with", title="gain over being trained alone; more is better")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    if told.any():
        figure.colorbar(colors, ax=axes, label="gain; grey where it cannot be told from 0")
    return figure
