"""From an experiment to a model, token ids and a plan."""

from dataclasses import dataclass

import torch

from topwork.data.dataset import Dataset, load_dataset
from topwork.engine.encoding import Corpus, make_corpus
from topwork.engine.model import MultiTaskModel, build_backbone, build_model
from topwork.engine.plan import Plan, make_plan
from topwork.engine.training import check_monitor
from topwork.experiment.schema import Experiment
from topwork.interfaces.backbone import Backbone


@dataclass(frozen=True)
class Prepared:
    """An experiment with all that it names: loaded, checked, and not yet paid for."""

    experiment: Experiment
    dataset: Dataset
    corpus: Corpus
    model: MultiTaskModel
    plan: Plan

    @property
    def dtype(self) -> torch.dtype:
        """How activations are kept."""
        dtypes = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
        return dtypes[self.experiment.training.activation_dtype]

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
    backbone = build_backbone(experiment)
    return assemble(experiment, dataset, tokenize_all(dataset, backbone), backbone)


def tokenize_all(dataset: Dataset, backbone: Backbone) -> Corpus:
    """Turn the texts of all splits into token ids."""
    return make_corpus(backbone.tokenizer, {name: part.texts for name, part in dataset.parts.items()})


def assemble(experiment: Experiment, dataset: Dataset, corpus: Corpus, backbone: Backbone) -> Prepared:
    """Put an experiment together from parts that are loaded already.

    Raises:
        TopworkError: they do not fit each other or the settings.
    """
    model = build_model(experiment, dataset.labels, backbone)
    plan = make_plan(experiment, model, corpus)
    check_monitor(experiment, model, dataset.parts.keys())
    return Prepared(experiment, dataset, corpus, model, plan)
