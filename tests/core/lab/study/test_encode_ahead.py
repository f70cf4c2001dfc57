"""Before trials train, each text is encoded once for all cuts that the study searches."""

from dataclasses import replace

import pytest
import torch

from encoding_helpers import Counter
from study_helpers import resolve_small
from topwork.engine.encoding.store.cache_folder import cache_folder, list_entries
from topwork.engine.preparation_cache import PreparationCache
from topwork.lab.study.encode_ahead import MAX_COMBINATIONS, encode_ahead, searched_cuts
from topwork.lab.study.resolved_study import plan_study

CPU = torch.device("cpu")
FREEZE = {"choices": [{"kind": "all_except", "patterns": ["layer.1.ffn"]}, {"kind": "all"}, {"kind": "last_layers"}]}
POOLING = {"choices": [{"kind": "cls"}, {"kind": "mean"}, {"kind": "layer_mix", "layers": [0, 1]}]}


@pytest.fixture(autouse=True)
def worth_keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the tiny backbone gives, though it would not pay."""
    monkeypatch.setattr("topwork.engine.encoding.store_decision.WORTH_KEEPING", 0)


def test_the_values_that_decide_what_is_kept_are_combined() -> None:
    study = resolve_small(
        search={"freeze": FREEZE, "pooling": POOLING, "optimizer.heads_lr": {"low": 1e-4, "high": 1e-2}}
    )
    cuts = list(searched_cuts(study))
    assert len(cuts) == 9
    assert {tuple(one) for one in cuts} == {("freeze", "pooling")}


def test_where_nothing_of_it_is_searched_there_is_nothing_to_look_up() -> None:
    assert list(searched_cuts(resolve_small(search={"optimizer.heads_lr": {"low": 1e-4, "high": 1e-2}}))) == []


def test_too_many_combinations_are_left_to_the_trials() -> None:
    study = resolve_small(search={"pooling": POOLING})
    choices = [{"kind": "cls", "layer": number} for number in range(MAX_COMBINATIONS + 1)]
    many = study.search[0].dimension.model_copy(update={"choices": choices})
    assert list(searched_cuts(replace(study, search=(replace(study.search[0], dimension=many),)))) == []


@pytest.mark.slow
def test_one_pass_over_the_texts_serves_every_trial() -> None:
    study = resolve_small(search={"freeze": FREEZE, "pooling": POOLING})
    cache, counter = PreparationCache(), Counter()
    baseline = plan_study(study, cache).baseline
    assert encode_ahead(study, baseline, cache, counter) > 0
    assert counter.tokens == baseline.plan.corpus_size.distinct_tokens
    for values in searched_cuts(study):
        prepared = cache.prepare(study.trial_experiment(values))
        found = prepared.decide_store(prepared.plan.phases[0], CPU)
        assert found.stored is not None
        assert len(found.stored.missing) == 0, values
        prepared.load_examples(prepared.plan.phases[0], CPU, Counter())  # which computes some again, and compares
    # of last_layers, cls and mean keep the same tokens
    assert len(list_entries(cache_folder())) == 8


@pytest.mark.slow
def test_values_that_do_not_fit_together_are_left_to_their_trial() -> None:
    pooling = {"choices": [{"kind": "mean"}, {"kind": "mean", "layer": 0}]}
    study = resolve_small(search={"freeze": FREEZE, "pooling": pooling}, baseline=True)
    cache = PreparationCache()
    baseline = cache.prepare(study.trial_experiment({}))
    encode_ahead(study, baseline, cache, Counter())
    assert len(list_entries(cache_folder())) == 4  # of the last layer three, and the pooled vectors of layer 0
