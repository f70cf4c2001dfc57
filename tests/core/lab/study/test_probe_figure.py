"""What was found in layers, as a figure: a panel for each task, a line for each pooling."""

import numpy as np

from probe_helpers import LAYERS, result_of
from topwork.lab.study.probe_figure import draw_probe


def test_each_task_has_a_panel_with_a_line_for_each_pooling() -> None:
    figure = draw_probe(result_of())
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["embeddings", "0", "1"]
    assert axes.get_ylabel() == "macro f1"
    lines = {bars.get_label(): bars.lines[0].get_ydata() for bars in axes.containers}
    np.testing.assert_allclose(lines["cls"], [0.5, 0.6, 0.7])
    np.testing.assert_allclose(lines["mean"], [0.55, 0.65, 0.75])


def test_what_was_chosen_on_validation_rows_has_a_ring() -> None:
    (ring,) = [line for line in draw_probe(result_of()).axes[0].lines if line.get_label() == "chosen on validation"]
    assert (round(float(ring.get_xdata()[0])), float(ring.get_ydata()[0])) == (1, 0.65)


def test_panels_that_are_not_needed_are_left_out() -> None:
    assert len(draw_probe(result_of(("a", "b", "c", "d"))).axes) == 4


def test_a_layer_that_was_not_trained_leaves_a_gap() -> None:
    result = result_of()
    missing = [key for key in result.values if key[1].layer == LAYERS[0] and key[1].pooling == "mean"]
    for key in missing:
        del result.values[key]
    (mean,) = [bars for bars in draw_probe(result).axes[0].containers if bars.get_label() == "mean"]
    assert len(mean.lines[0].get_ydata()) == 2
