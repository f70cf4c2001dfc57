"""Every scalarizer and aggregator of TorchJD, as a loss weighting."""

from typing import Any, get_args

import pytest
import torch
import torchjd.aggregation
import torchjd.scalarization
from pydantic import ValidationError
from torch import Tensor

from topwork.interfaces.loss_weighting import GradientWeighting, LossWeighting
from topwork.testing import LossWeightingContract
from topwork_plugins.loss_weightings.torchjd import Aggregator, Scalarizer, TorchJdConfig

TASKS = ["a", "b", "c", "d", "e"]
WEIGHTS = {task: 0.5 + number for number, task in enumerate(TASKS)}

#: What the methods that cannot do without need.
OPTIONS: dict[str, dict[str, Any]] = {
    "CAGrad": {"c": 0.4},
    "COSMOS": {"lambda_": 1.0, "weights": WEIGHTS},
    "Constant": {"weights": WEIGHTS},
    "FairGrad": {"alpha": 1.0},
    "Krum": {"n_byzantine": 1},
    "PBI": {"theta": 5.0, "weights": WEIGHTS},
    "STCH": {"mu": 0.5},
    "TrimmedMean": {"trim_number": 1},
}
SCALARIZERS = pytest.mark.parametrize("name", get_args(Scalarizer))
AGGREGATORS = pytest.mark.parametrize("name", get_args(Aggregator))


#: Settings of every method.
EVERY = [
    *(TorchJdConfig(scalarizer=name, options=OPTIONS.get(name, {})) for name in get_args(Scalarizer)),
    *(TorchJdConfig(aggregator=name, options=OPTIONS.get(name, {})) for name in get_args(Aggregator)),
]


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP")
class TestEveryMethod(LossWeightingContract):
    tasks = tuple(TASKS)

    @pytest.fixture(autouse=True, params=EVERY, ids=lambda config: config.scalarizer or config.aggregator)
    def choose(self, request: pytest.FixtureRequest) -> None:
        type(self).config = request.param


def scalarizer(name: str) -> LossWeighting:
    built = TorchJdConfig(scalarizer=name, options=OPTIONS.get(name, {})).build(TASKS)
    assert isinstance(built, LossWeighting)
    return built


def aggregator(name: str) -> GradientWeighting:
    built = TorchJdConfig(aggregator=name, options=OPTIONS.get(name, {})).build(TASKS)
    assert isinstance(built, GradientWeighting)
    return built


def losses(tasks: list[str], *, shift: float = 0.0) -> dict[str, Tensor]:
    return {task: torch.tensor(0.5 + TASKS.index(task) + shift, requires_grad=True) for task in tasks}


def plain(name: str, home: Any) -> Any:
    """TorchJD's own, made by hand."""
    options = {
        option: torch.tensor(list(value.values())) if isinstance(value, dict) else value
        for option, value in OPTIONS.get(name, {}).items()
    }
    counts = {"UW": {"shape": 5}, "IMTLL": {"shape": 5}, "FAMO": {"shape": 5}, "NashMTL": {"n_tasks": 5}}
    return getattr(home, name)(**counts.get(name, {}), **options)


def test_every_method_that_torchjd_has_is_there() -> None:
    for home, base, names in (
        (torchjd.scalarization, torchjd.scalarization.Scalarizer, get_args(Scalarizer)),
        (torchjd.aggregation, torchjd.aggregation.Aggregator, get_args(Aggregator)),
    ):
        public = [getattr(home, name) for name in home.__all__]
        made = {one.__name__ for one in public if issubclass(one, base) and not one.__name__.endswith("Aggregator")}
        assert made - {"Scalarizer"} == set(names)


@SCALARIZERS
def test_a_total_is_that_of_torchjd(name: str) -> None:
    ours, theirs = scalarizer(name), plain(name, torchjd.scalarization)
    for step in range(3):
        given = losses(TASKS, shift=float(step))
        torch.manual_seed(step)
        total = ours(given)
        torch.manual_seed(step)
        expected = theirs(torch.stack(list(given.values())))
        assert total.item() == pytest.approx(expected.item(), rel=1e-6)
        found, hoped = (torch.autograd.grad(one, list(given.values())) for one in (total, expected))
        torch.testing.assert_close(found, hoped)
        if name == "FAMO":
            after = {task: loss.detach() * 0.9**number for number, (task, loss) in enumerate(given.items())}
            ours.after_step(after)
            theirs.update(torch.stack(list(after.values())))


def test_dynamic_weights_of_epochs_are_those_of_torchjd() -> None:
    ours, theirs = scalarizer("DWA"), plain("DWA", torchjd.scalarization)
    torch.manual_seed(0)
    for _ in range(4):
        values = torch.rand(5) + 0.1
        given = dict(zip(TASKS, values, strict=True))
        assert ours(given).item() == pytest.approx(theirs(values).item(), rel=1e-6)
        ours.end_epoch({task: loss.item() for task, loss in given.items()})
        theirs.step()


@AGGREGATORS
@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem that is not DPP")
def test_a_gradient_is_that_of_torchjd(name: str) -> None:
    ours, theirs = aggregator(name), plain(name, torchjd.aggregation)
    torch.manual_seed(0)
    for step in range(3):
        gradients = torch.randn(5, 20)
        torch.manual_seed(step)
        found = ours(gradients, TASKS)
        torch.manual_seed(step)
        torch.testing.assert_close(found, theirs(gradients), atol=1e-5, rtol=1e-5)


@SCALARIZERS
def test_tasks_without_rows_add_nothing_to_a_total(name: str) -> None:
    weighting = scalarizer(name)
    for some in (TASKS, TASKS[1:3], TASKS[:1], TASKS):
        given = losses(some)
        total = weighting(given)
        factors = torch.autograd.grad(total, list(given.values()))
        assert all(factor.isfinite() for factor in factors)
        if weighting.reads_losses_after_step:
            weighting.after_step({task: loss.detach() * 0.9 for task, loss in given.items()})


@AGGREGATORS
def test_tasks_without_rows_add_nothing_to_a_gradient(name: str) -> None:
    weighting = aggregator(name)
    torch.manual_seed(0)
    for some in (TASKS[:1], TASKS, TASKS[1:4], TASKS[:1], TASKS[-2:], TASKS):
        gradients = torch.randn(len(some), 20)
        combined = weighting(gradients, some)
        assert combined.shape == (20,)
        assert combined.isfinite().all()
        rest = combined - gradients.T @ torch.linalg.lstsq(gradients.T, combined[:, None]).solution[:, 0]
        if name != "GradDrop" and name != "TrimmedMean":  # which choose number by number
            assert rest.abs().max() < 1e-4, "it is no sum of the gradients that are there"


def test_a_step_with_too_few_tasks_takes_the_mean_and_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    weighting, gradients = aggregator("TrimmedMean"), torch.randn(2, 20)
    for _ in range(3):
        assert torch.equal(weighting(gradients, TASKS[:2]), gradients.mean(dim=0))
    told = "TrimmedMean needs more tasks than ['a', 'b']; a step without others takes the mean"
    assert [record.getMessage() for record in caplog.records] == [told]


def test_learnt_factors_are_parameters_and_those_of_famo_are_its_own() -> None:
    assert len(list(scalarizer("UW").parameters())) == 5
    assert TorchJdConfig(scalarizer="IMTLL", learning_rate=0.5).build(TASKS).learning_rate == 0.5
    assert list(scalarizer("FAMO").parameters()) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scalarizer": "STCH"}, "STCH needs options.mu"),
        ({"scalarizer": "UW", "options": {"shape": 3}}, "UW has no option shape, only none"),
        ({"aggregator": "UPGrad", "options": {"projector": "x"}}, "UPGrad has no option projector, only pref_vector"),
        ({"aggregator": "CAGrad", "options": {"C": 1}}, "CAGrad has no option C, only c, norm_eps"),
        (
            {"aggregator": "UPGrad", "options": {"pref_vector": {"a": 1.0}}},
            "options.pref_vector needs a number for each task, and has none for b, c, d, e",
        ),
        ({"scalarizer": "STCH", "options": {"mu": -1.0}}, "Parameter `mu` should be strictly positive."),
        ({"aggregator": "CAGrad", "options": {"c": "much"}}, "options do not fit CAGrad: "),
    ],
)
def test_an_option_that_does_not_fit_is_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        weighting = TorchJdConfig(**settings).build(TASKS)
        if isinstance(weighting, LossWeighting):
            weighting(losses(TASKS))
        else:
            weighting(torch.randn(5, 3), TASKS)
    assert message in str(caught.value)


@pytest.mark.parametrize("names", [{}, {"scalarizer": "UW", "aggregator": "UPGrad"}])
def test_one_method_must_be_named(names: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="give either a scalarizer, such as UW, or an aggregator, such as UPGrad"):
        TorchJdConfig(**names)


def test_tasks_that_options_name_are_known() -> None:
    config = TorchJdConfig(scalarizer="Constant", options={"weights": {"a": 1.0, "z": 2.0}})
    assert config.named_tasks() == ["a", "z"]


def test_without_torchjd_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name.partition('.')[0]!r}")

    monkeypatch.setattr("topwork_plugins.loss_weightings.torchjd.importlib.import_module", missing)
    with pytest.raises(ValueError, match=r"^UPGrad needs TorchJD: pip install 'topwork\[torchjd\]'"):
        TorchJdConfig(aggregator="UPGrad").build(TASKS)
