"""Intervals cover what is true as often as they say, for other rows and, of several seeds, for other seeds too."""

import numpy as np
import pytest
import torch

from topwork.building_blocks import class_metrics
from topwork.engine.evaluation.bootstrap import RESAMPLES, draw_rows, interval, resample
from topwork.engine.evaluation.comparison import difference
from topwork.engine.evaluation.estimates import estimate

ACCURACY, MACRO_F1, _ = class_metrics(2)


def test_rows_are_drawn_with_replacement_and_the_same_for_the_same_seed() -> None:
    drawn = draw_rows(50, seed=3)
    assert drawn.shape == (RESAMPLES, 50)
    assert torch.equal(drawn, draw_rows(50, seed=3))
    assert not torch.equal(drawn, draw_rows(50, seed=4))
    assert 0 <= int(drawn.min()) < int(drawn.max()) < 50
    assert len(drawn[0].unique()) < 45


def test_of_one_seed_the_interval_is_the_percentile_bootstrap_over_rows() -> None:
    values = torch.randn(RESAMPLES, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = np.quantile(values[:, 0].numpy(), [0.025, 0.975])
    assert interval(values, torch.zeros(1, dtype=torch.float64)) == (low, high)


def test_seeds_that_differ_more_widen_the_interval() -> None:
    rows = 0.01 * torch.randn(RESAMPLES, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    widths = []
    for spread in (0.0, 0.02, 0.1):
        observed = 0.8 + spread * torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0], dtype=torch.float64)
        low, high = interval(observed + rows, observed)
        assert low < 0.8 < high
        widths.append(high - low)
    assert widths[0] < widths[1] < widths[2]


def test_where_only_seeds_differ_the_interval_is_that_of_student() -> None:
    observed = torch.tensor([0.70, 0.72, 0.75, 0.77, 0.81, 0.69, 0.74, 0.78], dtype=torch.float64)
    low, high = interval(observed.expand(RESAMPLES, -1), observed)
    half = 2.365 * float(observed.std()) / len(observed) ** 0.5  # Student's t with 7 degrees of freedom
    assert low == pytest.approx(float(observed.mean()) - half, rel=1e-4)
    assert high == pytest.approx(float(observed.mean()) + half, rel=1e-4)


def test_of_few_seeds_the_interval_is_as_wide_as_students() -> None:
    observed = torch.tensor([0.7, 0.8, 0.9], dtype=torch.float64)
    low, high = interval(observed.expand(RESAMPLES, -1), observed)
    half = 4.303 * 0.1 / 3**0.5  # Student's t with 2 degrees of freedom
    assert (0.8 - low, high - 0.8) == (pytest.approx(half, rel=1e-4), pytest.approx(half, rel=1e-4))


def test_seeds_that_agree_on_rows_that_agree_leave_nothing_to_tell() -> None:
    same = torch.full((RESAMPLES, 3), 0.5, dtype=torch.float64)
    assert interval(same, same[0]) == (0.5, 0.5)


def test_two_seeds_that_agree_by_chance_leave_the_interval_of_the_rows() -> None:
    draw = torch.Generator().manual_seed(0)
    single_rows = 0.02 * torch.randn(RESAMPLES, 2, dtype=torch.float64, generator=draw)
    observed = torch.tensor([0.8, 0.8], dtype=torch.float64)
    expected = np.quantile((0.8 + single_rows).mean(dim=1).numpy(), [0.025, 0.975])
    assert interval(0.8 + single_rows, observed) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("seeds", [3, 5])
def test_equal_models_are_called_different_in_one_of_20_studies(seeds: int) -> None:
    """Each seed flips some rows at random, so that only single rows differ, and no row for all seeds."""
    called, studies, rows = 0, 1000, 200
    for study in range(studies):
        draw = np.random.default_rng([study, seeds])
        gains = (draw.random((seeds, rows)) < 0.1) * draw.choice([-1, 1], size=(seeds, rows))
        drawn = draw.multinomial(rows, np.full(rows, 1 / rows), size=300)
        observed = torch.from_numpy(gains.mean(axis=1))
        low, high = interval(torch.from_numpy(drawn @ gains.T / rows), observed)
        called += not low <= 0 <= high
    assert 0.03 <= called / studies <= 0.07


def outputs_of_seeds(scores: np.ndarray) -> list[torch.Tensor]:
    """Outputs (N, 2) of each seed that are right where its scores (N,) are 1; all targets are class 1."""
    return [torch.nn.functional.one_hot(torch.from_numpy(row).long(), 2).float() for row in scores]


def scores_of(draw: np.random.Generator, seeds: int, rows: int, *, spread: float, skill: float = 1.5) -> np.ndarray:
    """Scores of 0 and 1, (seeds, rows): some rows are harder than others, and some seeds are better than others."""
    logits = skill + spread * draw.normal(size=(seeds, 1)) + 2.0 * draw.normal(size=(1, rows))
    return (draw.random((seeds, rows)) < 1 / (1 + np.exp(-logits))).astype(np.int64)


def true_mean(spread: float, skill: float = 1.5) -> float:
    """The mean score over all seeds and rows that there could be, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    logits = skill + spread * nodes[:, None] + 2.0 * nodes[None, :]
    return float((weights[:, None] * weights[None, :] / (1 + np.exp(-logits))).sum())


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "rows", "spread"), [(3, 400, 0.5), (5, 100, 0.2), (10, 400, 0.2)])
def test_an_interval_over_seeds_and_rows_covers_the_truth_in_19_of_20_studies(
    seeds: int, rows: int, spread: float
) -> None:
    truth, covered, of_rows_alone, studies = true_mean(spread), 0, 0, 1000
    for study in range(studies):
        scores = scores_of(np.random.default_rng([study, seeds, rows]), seeds, rows, spread=spread)
        drawn = np.random.default_rng(study).multinomial(rows, np.full(rows, 1 / rows), size=300)
        resampled = torch.from_numpy(drawn @ scores.T / rows)  # the mean of rows drawn so often
        low, high = interval(resampled, torch.from_numpy(scores.mean(axis=1)))
        covered += low <= truth <= high
        low, high = interval(resampled.mean(dim=1, keepdim=True), torch.zeros(1, dtype=torch.float64))
        of_rows_alone += low <= truth <= high
    assert 0.93 <= covered / studies <= 0.97
    assert of_rows_alone < covered


def test_an_estimate_says_how_many_seeds_stand_behind_it() -> None:
    scores = scores_of(np.random.default_rng(0), 4, 200, spread=0.5)
    targets = torch.ones(200, dtype=torch.int64)
    together = estimate(ACCURACY, outputs_of_seeds(scores), targets)
    assert together.value == pytest.approx(scores.mean())
    assert (together.seeds, together.rows) == (4, 200)
    assert estimate(ACCURACY, outputs_of_seeds(scores[:1]), targets).seeds == 1
    assert together.low < together.value < together.high


def test_a_difference_between_means_over_seeds_covers_the_spread_of_the_seeds() -> None:
    targets = torch.ones(300, dtype=torch.int64)
    first = scores_of(np.random.default_rng(1), 3, 300, spread=0.0)
    steady, unsteady = first.copy(), first.copy()
    steady[:, :15] = 1  # each seed gains the same rows
    unsteady[0, :45] = 1  # one seed gains, the others do not
    gains = [
        difference((ACCURACY, outputs_of_seeds(first)), (ACCURACY, outputs_of_seeds(second)), targets)
        for second in (steady, unsteady)
    ]
    assert all(gain.seeds == 3 and gain.p_value is None for gain in gains)
    assert gains[1].high - gains[1].low > 2 * (gains[0].high - gains[0].low)


def test_of_one_seed_figures_are_those_of_that_seed_alone() -> None:
    scores = scores_of(np.random.default_rng(2), 1, 150, spread=0.0)
    targets = torch.arange(150) % 2
    (outputs,) = outputs_of_seeds(scores)
    found = estimate(MACRO_F1, [outputs], targets, seed=5)
    values = [float(MACRO_F1.compute(outputs[rows], targets[rows])) for rows in draw_rows(150, seed=5)]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])))


@pytest.mark.parametrize(
    ("reached", "note"),
    [(3, "no interval, because only 3 of 1,000"), (400, "a rough interval, because only 400 of 1,000"), (2000, "")],
)
def test_resamples_end_with_the_time_that_a_metric_has(
    reached: int, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr("topwork.engine.evaluation.bootstrap.monotonic", lambda: float(next(clock)))
    found = resample(lambda rows: [float(rows.float().mean())], 20, seed=0, seconds=reached - 0.5)
    assert len(found.values) == min(reached, RESAMPLES)
    assert found.note.startswith(note) if note else not found.note
    low, _ = found.interval(torch.tensor([9.5], dtype=torch.float64))
    assert np.isnan(low) == (reached < 200)
