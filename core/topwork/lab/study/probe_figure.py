"""What heads find in each layer, as a figure."""

import math

import numpy as np
from matplotlib.figure import Figure

from topwork.lab.study.probe_result import Probe, ProbeResult

#: Panels side by side.
COLUMNS = 3

#: How far apart the poolings of one layer stand.
STEP = 0.12


def draw_probe(result: ProbeResult) -> Figure:
    """Draw a panel for each task: its metric on the test rows by layer, a line for each pooling, with intervals."""
    tasks, layers = list(result.metrics), result.layers
    columns = min(len(tasks), COLUMNS)
    rows = math.ceil(len(tasks) / columns)
    figure = Figure(figsize=(1.5 + 4.2 * columns, 3.6 * rows), layout="constrained")
    places = list(figure.subplots(rows, columns, squeeze=False).flat)
    for empty in places[len(tasks) :]:
        empty.remove()
    for axes, task in zip(places, tasks, strict=False):
        for number, pooling in enumerate(result.poolings):
            found = [result.values.get((task, Probe(layer, pooling))) for layer in layers]
            shift = STEP * (number - (len(result.poolings) - 1) / 2)
            x = np.array([place + shift for place, one in enumerate(found) if one])
            y = np.array([one.value for one in found if one])
            ends = np.abs(np.array([(one.low, one.high) for one in found if one]).T - y)
            axes.errorbar(x, y, yerr=np.nan_to_num(ends), fmt="o-", markersize=4, capsize=2, label=pooling)
            if result.chosen[task].pooling == pooling:
                best = result.values[task, result.chosen[task]].value
                place = layers.index(result.chosen[task].layer) + shift
                axes.plot(
                    place, best, "o", markersize=11, fillstyle="none", color="black", label="chosen on validation"
                )
        axes.set_xticks(range(len(layers)), [layer.removeprefix("layer.") for layer in layers])
        axes.set_title(task, parse_math=False)
        axes.set_ylabel(result.metrics[task].replace("_", " "), parse_math=False)
        axes.set_xlabel("layer")
        axes.grid(alpha=0.3)
    places[0].legend(fontsize=8)
    return figure
