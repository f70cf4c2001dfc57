"""From an experiment to a model and rows that are ready to train."""

from dataclasses import dataclass
from time import perf_counter

import psutil
import torch

from topwork.data.dataset import Dataset, load_dataset
from topwork.engine.encoding import Activations, Ragged, Recomputed, encode, tokenize
from topwork.engine.evaluation import Rows
from topwork.engine.model import MultiTaskModel, build_model
from topwork.engine.plan import Plan, make_plan
from topwork.engine.training import Observer, check_monitor
from topwork.experiment.schema import Experiment, SplitName


@dataclass(frozen=True)
class Prepared:
    """An experiment with all that it names: loaded, checked, and not yet paid for."""

    experiment: Experiment
    dataset: Dataset
    token_ids: dict[SplitName, Ragged]
    model: MultiTaskModel
    plan: Plan

    @property
    def warnings(self) -> list[str]:
        """What the researcher should know, with counts."""
        truncated = self.plan.truncated
        longest = f"{truncated} of {self.plan.texts} texts are longer than the backbone's max_length and were truncated"
        return [*self.dataset.warnings, *([longest] if truncated else [])]


def prepare(experiment: Experiment) -> Prepared:
    """Read the rows, load the model, and resolve the plan.

    Raises:
        TopworkError: whatever is wrong with data, plugins or settings, before anything is computed.
    """
    dataset = load_dataset(experiment)
    model = build_model(experiment, dataset.labels)
    tokenized = {name: tokenize(model.backbone.tokenizer, part.texts) for name, part in dataset.parts.items()}
    token_ids = {name: ids for name, (ids, _) in tokenized.items()}
    plan = make_plan(
        experiment,
        model,
        texts=sum(len(part.texts) for part in dataset.parts.values()),
        tokens=sum(len(ids.values) for ids in token_ids.values()),
        truncated=sum(truncated for _, truncated in tokenized.values()),
    )
    check_monitor(experiment, model, dataset.parts.keys())
    return Prepared(experiment, dataset, token_ids, model, plan)


def encode_splits(
    prepared: Prepared, *, device: torch.device, observer: Observer
) -> tuple[dict[SplitName, Rows], float | None]:
    """Compute what the cut keeps of every text, once, and return it with the texts encoded per second.

    Where it would not fit into half of the free memory, it is computed again for each batch instead; then, as
    with an empty prefix, there is no rate.
    """
    model, plan = prepared.model.to(device), prepared.plan
    fits = plan.kept_bytes <= psutil.virtual_memory().available / 2
    observer.begin("encoding" if fits else "encoding batch by batch: activations exceed the free memory", plan.texts)
    started = perf_counter()
    rows = {}
    for name, part in prepared.dataset.parts.items():
        ids = prepared.token_ids[name]
        activations: Activations
        if fits:
            activations = encode(model, ids, device=device, progress=observer.advance)
        else:
            activations = Recomputed(model, ids, device)
        targets = {task: torch.from_numpy(values) for task, values in part.targets.items()}
        rows[name] = Rows(activations, targets, len(part.texts))
    return rows, plan.texts / (perf_counter() - started) if fits and plan.prefix else None
