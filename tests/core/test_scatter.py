"""What is measured and drawn of numbers is what scikit-learn and scipy say."""

import csv
import io

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

import topwork
from topwork.scatter import MAX_POINTS, number_metrics

TWO = topwork.Numbers(("x", "y"), mean=(2.5, -30.0), scale=(2.0, 10.0))


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs and targets of 40 texts, with ties among the targets."""
    targets = torch.stack([torch.arange(40.0) % 7, torch.arange(40.0) % 11 - 30], dim=1)
    return targets + torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), targets


def test_metrics_are_those_of_scikit_learn_and_scipy_averaged_over_columns(
    rows: tuple[torch.Tensor, torch.Tensor],
) -> None:
    outputs, targets = rows
    found = {m.name: m.compute(outputs, targets).mean().item() for m in topwork.number_metrics()}
    columns = [(outputs[:, k].numpy(), targets[:, k].numpy()) for k in (0, 1)]
    assert found == pytest.approx(
        {
            "rmse": sum(root_mean_squared_error(true, said) for said, true in columns) / 2,
            "mae": mean_absolute_error(targets.numpy(), outputs.numpy()),
            "pearson": sum(pearsonr(said, true).statistic for said, true in columns) / 2,
            "spearman": sum(spearmanr(said, true).statistic for said, true in columns) / 2,
            "r2": r2_score(targets.numpy(), outputs.numpy()),
        },
        abs=1e-5,
    )


def test_a_correlation_with_a_constant_is_not_a_number() -> None:
    metrics = {metric.name: metric for metric in topwork.number_metrics()}
    constant, rising = torch.ones(4, 1), torch.arange(4.0)[:, None]
    assert metrics["pearson"].compute(constant, rising).isnan()
    assert metrics["spearman"].compute(rising, constant).isnan()


def test_the_directions_of_the_metrics() -> None:
    metrics = topwork.number_metrics()
    assert [metric.name for metric in metrics if not metric.greater_is_better] == ["rmse", "mae"]


def test_the_scatter_has_a_panel_for_each_column_and_a_bounded_number_of_points() -> None:
    figure = topwork.scatter_figure()
    many = torch.randn(3 * MAX_POINTS + 1, 2)
    drawn = figure.draw(many, many, TWO)
    assert [axes.get_title() for axes in drawn.axes] == ["x", "y"]
    assert all(len(axes.collections[0].get_offsets()) <= MAX_POINTS for axes in drawn.axes)


def test_the_table_has_a_row_for_each_column(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    outputs, targets = rows
    labels = topwork.Numbers(('a "b", c', "y"), TWO.mean, TWO.scale)
    figure = topwork.scatter_figure()
    assert figure.table is not None
    table = list(csv.DictReader(io.StringIO(figure.table(outputs, targets, labels))))
    assert [row["column"] for row in table] == ['a "b", c', "y"]
    assert float(table[1]["mae"]) == pytest.approx((outputs - targets)[:, 1].abs().mean().item(), abs=1e-4)


def test_constant_numbers_have_no_correlation_and_no_share_of_variance() -> None:
    metrics = {metric.name: metric for metric in number_metrics()}
    outputs, targets = torch.randn(100, 1), torch.full((100, 1), 0.1)  # the mean of many 0.1 is another number
    for name in ("pearson", "spearman", "r2"):
        assert metrics[name].compute(outputs, targets).isnan(), name
        assert metrics[name].compute(targets, targets).isnan(), name
