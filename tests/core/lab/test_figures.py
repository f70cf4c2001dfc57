"""Learning curves show every metric over all epochs."""

import io
import time

import pytest
from matplotlib.figure import Figure

from topwork.engine.observer import Epoch
from topwork.lab.figures import MAX_PANELS, gradient_figure, learning_curves


def epochs(count: int) -> list[Epoch]:
    return [
        Epoch(
            number,
            {
                "training/mood/loss": 1.0 / number,
                "training/loss": 2.0 / number,
                "validation/mood/loss": 1.5 / number,
                "validation/mood/accuracy": 0.5 + number / 100,
                "validation/mood/macro_f1": 0.4 + number / 100,
            },
            {"heads": 1e-3},
            100.0,
        )
        for number in range(1, count + 1)
    ]


def as_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def test_each_kind_of_metric_has_a_panel() -> None:
    figure = learning_curves(epochs(4), best_epoch=3)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy", "macro f1"]


def test_each_metric_has_a_curve_over_all_epochs() -> None:
    run = epochs(4)
    curves = {
        (axes.get_title(), line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for axes in learning_curves(run, best_epoch=3).axes
        for line in axes.get_lines()
        if not str(line.get_label()).startswith("_")
    }
    assert set(curves) == {
        ("loss", "training/mood"),
        ("loss", "training"),
        ("loss", "validation/mood"),
        ("accuracy", "validation/mood"),
        ("macro f1", "validation/mood"),
    }
    numbers, values = curves["loss", "validation/mood"]
    assert numbers == [1, 2, 3, 4]
    assert values == [epoch.metrics["validation/mood/loss"] for epoch in run]


def test_training_is_told_from_validation_by_its_line() -> None:
    styles = {
        line.get_label(): line.get_linestyle() for line in learning_curves(epochs(2), best_epoch=1).axes[0].get_lines()
    }
    assert styles["training/mood"] == "--"
    assert styles["validation/mood"] == "-"


def test_the_best_epoch_is_marked_in_every_panel() -> None:
    for axes in learning_curves(epochs(5), best_epoch=3).axes:
        marks = [list(line.get_xdata()) for line in axes.get_lines() if str(line.get_label()).startswith("_")]
        assert marks == [[3, 3]]
        assert axes.get_xlabel() == "epoch (best: 3)"


@pytest.mark.parametrize("count", [1, 2, 40])
def test_curves_become_a_png(count: int) -> None:
    assert as_png(learning_curves(epochs(count), best_epoch=1)).startswith(b"\x89PNG")


@pytest.mark.slow
def test_of_very_many_curves_and_metrics_the_first_are_drawn_and_it_is_said() -> None:
    metrics = {f"{split}/task{number}/loss": 0.5 for split in ("training", "validation") for number in range(5000)}
    metrics |= {f"validation/task0/metric{number}": 0.5 for number in range(10_000)}
    started = time.process_time()
    figure = learning_curves([Epoch(number, metrics, {}, 1.0) for number in (1, 2)], best_epoch=1)
    assert as_png(figure).startswith(b"\x89PNG")
    assert time.process_time() - started < 10
    assert len(figure.axes) == MAX_PANELS
    assert figure.axes[0].get_title() == "loss (the first 200 of 10,000 curves)"
    assert figure.axes[0].get_legend() is None
    assert figure.get_suptitle() == "the first 16 of 10,001 metrics"


@pytest.mark.parametrize("count", [1, 3, 40])
def test_epochs_are_counted_in_whole_numbers(count: int) -> None:
    figure = learning_curves(epochs(count), best_epoch=1)
    as_png(figure)
    assert all(float(tick).is_integer() for axes in figure.axes for tick in axes.get_xticks())


def test_gradients_are_drawn_as_a_matrix_of_cosines_and_norms_by_epoch() -> None:
    cosines = {"gradient_cosine/a/b": -0.5, "gradient_norm/a": 1.0, "gradient_norm/b": 2.0, "training/loss": 1.0}
    later = cosines | {"gradient_cosine/a/b": 0.0, "gradient_norm/b": 4.0}
    figure = gradient_figure([Epoch(1, cosines, {}, 1.0), Epoch(2, later, {}, 1.0)])
    left, middle, right = figure.axes[:3]
    assert left.images[0].get_array().tolist() == [[1.0, -0.25], [-0.25, 1.0]]
    assert [(line.get_label(), list(line.get_ydata())) for line in middle.lines] == [("a and b", [-0.5, 0.0])]
    assert [list(line.get_ydata()) for line in right.lines] == [[1.0, 1.0], [2.0, 4.0]]
    curves = learning_curves([Epoch(1, cosines, {}, 1.0)], 1)
    assert len(curves.axes) == 1


def test_of_many_pairs_those_are_drawn_by_epoch_whose_gradients_differ_most() -> None:
    tasks = [f"t{number}" for number in range(8)]
    pairs = {f"gradient_cosine/{one}/{other}": -0.01 * int(other[1]) for one in tasks for other in tasks if one < other}
    figure = gradient_figure([Epoch(1, {f"gradient_norm/{task}": 1.0 for task in tasks} | pairs, {}, 1.0)])
    middle = figure.axes[1]
    assert middle.get_title() == "cosine by epoch, the least 10 of 28"
    assert {float(line.get_ydata()[0]) for line in middle.lines} == {-0.07, -0.06}


def test_a_metric_that_an_epoch_lacks_leaves_a_gap() -> None:
    epochs = [
        Epoch(1, {"training/a/loss": 1.0, "training/b/loss": 1.0}, {}, 1.0),
        Epoch(2, {"training/b/loss": 0.5}, {}, 1.0),
    ]
    lines = learning_curves(epochs, 2).axes[0].lines
    assert str(lines[0].get_ydata()[1]) == "nan"
