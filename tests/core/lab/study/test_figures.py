"""Pictures of a study have every trial that counts, at its place."""

from typing import Any

import matplotlib
import numpy as np
import optuna
import pytest
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from optuna.trial import TrialState

from queue_helpers import BASELINE, GRID, GRID_BASELINE, RATES, searched
from topwork.experiment.search import SearchedSetting
from topwork.experiment.study import Dimension
from topwork.lab.study import figures as figures_module
from topwork.lab.study.figures import draw
from topwork.lab.study.search_space import suggest
from topwork.lab.study.trial_states import REASON

OBJECTIVE = "mean(a/accuracy, b/accuracy)"

SEARCH = searched(RATES, BASELINE)

NUMBERS = {**RATES, "dropout": Dimension(low=0.0, high=0.5)}


def make_study(
    search: list[SearchedSetting], *, trials: int = 6, objectives: int = 1, gain: float = 0.01
) -> optuna.Study:
    """A study of complete trials, the last of which is the best."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        directions=["maximize"] * objectives, study_name="pair", sampler=optuna.samplers.RandomSampler(seed=3)
    )
    for number in range(trials):
        trial = study.ask()
        for searched_setting in search:
            suggest(trial, searched_setting)
        study.tell(trial, [0.5 + gain * number - 0.1 * objective for objective in range(objectives)])
    return study


def pictures(
    study: optuna.Study, search: list[SearchedSetting] = SEARCH, *, baseline: int | None = 0, best: int = 5
) -> dict[str, Figure]:
    return draw(study, [OBJECTIVE], search, baseline=baseline, best=[best])[0]


def marks_of(figure: Figure) -> dict[Any, tuple[float, float]]:
    """Where the marked trials are, by label, in the values that the axes show."""
    return {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in figure.axes[0].get_lines()}


def test_every_picture_of_one_objective_is_there_with_the_objective_as_its_title() -> None:
    figures, page = draw(make_study(SEARCH), [OBJECTIVE], SEARCH, baseline=0, best=[5])
    assert list(figures) == ["contour", "history", "importances", "parallel_coordinates"]
    assert [figure.get_suptitle() for figure in figures.values()] == [
        OBJECTIVE,
        f"{OBJECTIVE} by trial",
        f"importance for {OBJECTIVE}",
        OBJECTIVE,
    ]
    assert page.startswith('<!DOCTYPE html>\n<meta charset="utf-8">\n<title>pair</title>\n')
    assert page.count('class="plotly-graph-div"') == 4
    assert 'src="http' not in page  # it needs no network
    assert page.count("plotly.js v") == 1  # the library is there once


def test_baseline_and_best_are_marked_on_the_contour_where_their_values_are() -> None:
    study = make_study(SEARCH)
    figure = pictures(study, baseline=2, best=4)["contour"]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("backbone_lr", "heads_lr")
    expected = {
        label: (study.trials[number].params["backbone_lr"], study.trials[number].params["heads_lr"])
        for label, number in (("baseline", 2), ("best", 4))
    }
    assert marks_of(figure) == expected
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["baseline", "best"]


def test_without_a_baseline_the_best_alone_is_marked() -> None:
    assert list(marks_of(pictures(make_study(SEARCH), baseline=None)["contour"])) == ["best"]


def test_choices_have_no_place_on_a_scale_and_are_not_marked() -> None:
    search = searched(GRID, GRID_BASELINE)
    assert marks_of(pictures(make_study(search), search)["contour"]) == {}


def parallel_lines(figure: Figure) -> np.ndarray:
    """The places of each line on the vertical axes: (lines, axes)."""
    (lines,) = [one for one in figure.axes[0].collections if isinstance(one, LineCollection)]
    segments = np.array(lines.get_segments())
    assert (segments[:, :, 0] == np.arange(segments.shape[1])).all()
    return np.asarray(segments[:, :, 1])


def test_parallel_coordinates_have_an_axis_for_each_setting_and_a_line_for_each_complete_trial() -> None:
    search = searched(NUMBERS, {**BASELINE, "dropout": 0.1})
    study = make_study(search, trials=7)
    failed = study.ask()
    study.tell(failed, state=TrialState.FAIL)
    failed_for_a_reason = study.ask()
    failed_for_a_reason.set_user_attr(REASON, "it diverged")
    study.tell(failed_for_a_reason, state=TrialState.FAIL)
    figure = pictures(study, search)["parallel_coordinates"]
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["objective", "backbone_lr", "dropout", "heads_lr"]
    assert parallel_lines(figure).shape == (7, 4)


def test_parallel_coordinates_keep_the_values_of_every_column_apart_and_in_order() -> None:
    search = searched(NUMBERS, {**BASELINE, "dropout": 0.1})
    study = make_study(search, trials=7)
    places = parallel_lines(pictures(study, search)["parallel_coordinates"])
    bottom, top = places[:, 0].min(), places[:, 0].max()
    for column, name in enumerate(("backbone_lr", "dropout", "heads_lr"), 1):
        values = [trial.params[name] for trial in study.trials]
        assert list(np.argsort(places[:, column])) == list(np.argsort(values))
        assert len(set(places[:, column])) == 7
        assert places[:, column].max() - places[:, column].min() > 0.5 * (top - bottom)
    assert list(places[:, 0]) == pytest.approx([trial.value for trial in study.trials])


def test_trials_that_were_queued_again_or_interrupted_are_left_out() -> None:
    study = make_study(SEARCH)
    study.tell(study.ask(), state=TrialState.FAIL)
    study.ask()  # it is running
    assert parallel_lines(pictures(study)["parallel_coordinates"]).shape[0] == 6


def test_several_objectives_have_their_own_pictures_and_a_front() -> None:
    figures, page = draw(make_study(SEARCH, objectives=2), ["a/accuracy", "b/f1"], SEARCH, baseline=0, best=[5])
    each = ["contour", "history", "importances", "parallel_coordinates"]
    assert list(figures) == [*(f"{name}_1" for name in each), *(f"{name}_2" for name in each), "pareto_front"]
    assert figures["contour_2"].get_suptitle() == "b/f1"
    assert figures["pareto_front"].get_suptitle() == "objective_1: a/accuracy; objective_2: b/f1"
    axes = figures["pareto_front"].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("objective_1", "objective_2")
    assert page.count('class="plotly-graph-div"') == 9


def test_one_setting_has_no_contour() -> None:
    search = SEARCH[:1]
    assert set(pictures(make_study(search), search)) == {"history", "parallel_coordinates"}


@pytest.mark.parametrize("trials", [1, 6])
def test_trials_without_a_difference_are_drawn_too(trials: int) -> None:
    found = pictures(make_study(SEARCH, trials=trials, gain=0.0), best=0)
    assert {"contour", "history", "parallel_coordinates"} <= set(found)


def test_without_a_complete_trial_nothing_is_drawn() -> None:
    study = optuna.create_study(study_name="pair")
    study.tell(study.ask(), state=TrialState.FAIL)
    assert draw(study, ["loss"], SEARCH, baseline=None, best=[]) == ({}, "")


def test_drawing_leaves_the_style_of_other_pictures_and_optunas_log_alone() -> None:
    before, level = dict(matplotlib.rcParams), optuna.logging.get_verbosity()
    pictures(make_study(SEARCH))
    assert dict(matplotlib.rcParams) == before
    assert optuna.logging.get_verbosity() == level


def test_of_very_many_trials_some_are_drawn_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(figures_module, "MAX_TRIALS", 3)
    figures = pictures(make_study(SEARCH, trials=8), baseline=1, best=7)
    assert caplog.messages == ["figures show 5 of 8 trials"]  # 0, 3, 6, and those that are marked
    assert set(marks_of(figures["contour"])) == {"baseline", "best"}


def test_a_long_objective_is_written_in_lines_that_fit() -> None:
    objective = f"mean({', '.join(f'task_{number}/accuracy' for number in range(12))})"
    figures, _ = draw(make_study(SEARCH), [objective], SEARCH, baseline=0, best=[5])
    for figure in figures.values():
        figure.canvas.draw()
        title = figure._suptitle  # type: ignore[attr-defined]  # matplotlib has no public way to ask where it is
        assert "".join(objective.split()) in "".join(title.get_text().split())
        assert title.get_window_extent().width < figure.bbox.width
