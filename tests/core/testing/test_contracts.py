"""Every check of every contract refuses a plugin that breaks its rule and no other; a sound plugin passes them all."""

import itertools
from collections.abc import Iterator

import pytest

import topwork
from broken_plugins import (
    Broken,
    backbones,
    freeze_strategies,
    heads,
    loss_weightings,
    optimizer_groupings,
    poolings,
    samplers,
)
from topwork.testing import (
    BackboneContract,
    FreezeStrategyContract,
    HeadContract,
    LossWeightingContract,
    OptimizerGroupingContract,
    PluginContract,
    PoolingContract,
    SamplerContract,
)

Contract = type[PluginContract]

MODULES = {
    BackboneContract: backbones,
    PoolingContract: poolings,
    HeadContract: heads,
    FreezeStrategyContract: freeze_strategies,
    OptimizerGroupingContract: optimizer_groupings,
    SamplerContract: samplers,
    LossWeightingContract: loss_weightings,
}
TABLE: list[tuple[Contract, Broken]] = [
    (contract, broken) for contract, module in MODULES.items() for broken in module.BROKEN
]
SOUND: list[tuple[Contract, topwork.PluginConfig]] = [
    (BackboneContract, backbones.OddBackboneConfig()),
    (BackboneContract, backbones.OddBackboneConfig(causal=True)),
    (PoolingContract, poolings.OddPoolingConfig()),
    (PoolingContract, poolings.MaxPoolingConfig()),
    (PoolingContract, poolings.AttentionPoolingConfig()),
    (HeadContract, heads.OddHeadConfig()),
    (HeadContract, heads.OddHeadConfig(broken="divides by class weights and says so")),
    (HeadContract, heads.OddHeadConfig(broken="smooths labels")),
    (FreezeStrategyContract, freeze_strategies.OddFreezeStrategyConfig()),
    (OptimizerGroupingContract, optimizer_groupings.OddOptimizerGroupingConfig()),
    (SamplerContract, samplers.OddSamplerConfig()),
    (LossWeightingContract, loss_weightings.OddLossWeightingConfig()),
    (LossWeightingContract, loss_weightings.OddLossWeightingConfig(gradients=True)),
]


@pytest.fixture(scope="module", autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Install the broken plugins, as far as Python's import system can tell."""
    folder = tmp_path_factory.mktemp("broken")
    metadata = folder / "broken_plugins-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugins\nVersion: 0.1\n")
    names = [module.__name__ for module in MODULES.values()]
    (metadata / "entry_points.txt").write_text("[topwork]\n" + "".join(f"{name} = {name}\n" for name in names))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


def checks_of(contract: Contract) -> list[str]:
    return [name for name in dir(contract) if name.startswith("test_")]


def failures(contract: Contract, config: topwork.PluginConfig) -> dict[str, BaseException]:
    """Hold a plugin to a contract as pytest does, and return what each check that fails raises."""
    found: dict[str, BaseException] = {}
    for name in checks_of(contract):
        case = type("TestOdd", (contract,), {"config": config})()
        case.setup_method()
        try:
            getattr(case, name)()
        except Exception as error:
            found[name] = error
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("contract", "broken"),
    TABLE,
    ids=[f"{contract.__name__}-{broken.check}-{number}" for number, (contract, broken) in enumerate(TABLE)],
)
def test_a_check_refuses_the_plugin_that_breaks_its_rule_and_no_other_does(contract: Contract, broken: Broken) -> None:
    found = failures(contract, broken.config)
    assert found.keys() == {broken.check} | broken.also, found
    assert type(found[broken.check]) is broken.error
    first = str(found[broken.check]).splitlines()[0]
    assert len(first.split()) >= 4, f"a failure says which sentence of the interface is broken, got {first!r}"
    assert not first.startswith("assert "), first


@pytest.mark.parametrize(("contract", "config"), SOUND, ids=[config.kind for _, config in SOUND])
def test_a_sound_plugin_passes_every_check(contract: Contract, config: topwork.PluginConfig) -> None:
    assert failures(contract, config) == {}


def test_every_check_of_every_contract_has_a_plugin_that_it_refuses() -> None:
    own = {
        contract: {name for name in vars(contract) if name.startswith("test_")}
        for contract in (PluginContract, *MODULES)
    }
    refused = {contract: {broken.check for of, broken in TABLE if of is contract} for contract in MODULES}
    for contract in MODULES:
        assert own[contract] - refused[contract] == set(), contract
    assert own[PluginContract] <= set(itertools.chain(*refused.values()))


def test_every_contract_is_public() -> None:
    contracts = {name for name in vars(topwork.testing) if name.endswith("Contract")}
    assert contracts == {contract.__name__ for contract in (PluginContract, *MODULES)}


def test_a_head_that_the_default_labels_do_not_suit_is_told_to_set_others() -> None:
    found = failures(HeadContract, heads.NumbersHeadConfig())
    built = {name for name in checks_of(HeadContract) if name not in checks_of(PluginContract)}
    assert found.keys() == built
    messages = {str(error) for error in found.values()}
    assert messages == {"set `labels` to classes that suit this head: labels must be numbers, got 'no'"}


def test_a_head_with_labels_that_suit_it_passes_every_check() -> None:
    class Numbers(HeadContract):
        labels = topwork.Classes(("1", "2.5", "4"))

    assert failures(Numbers, heads.NumbersHeadConfig()) == {}
