# python experiments/benchmarks/frozen_dropout.py reviews.txt
"""What does dropout in the frozen layers do to accuracy?

Topwork keeps what the frozen prefix gives, so the prefix runs in eval mode. The published recipe leaves the whole
model in train mode. This trains the recipe on MiniLM both ways over the same seeds, on the first 400 reviews, and
compares the accuracies on the 3,600 others, seed by seed. Without dropout the prefix runs once; with it, in every step.
Writes results/frozen_dropout.json.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from topwork import Experiment, load_experiment
from topwork.engine.encoding.corpus import Corpus
from topwork.engine.encoding.examples import Activations, Examples
from topwork.engine.evaluation.estimates import measure, outputs_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.plan import Phase
from topwork.engine.observer import Observer
from topwork.engine.preparation import prepare
from topwork.engine.training.accelerator import make_accelerator
from topwork.experiment.source import SplitName
from topwork.files import write_file

HERE = Path(__file__).parent


@dataclass(frozen=True)
class WithDropout(Activations):
    """What the cut keeps of texts, computed for each batch with dropout in the prefix, one text after the other."""

    model: MultiTaskModel
    corpus: Corpus

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        prefix = self.model.backbone.stages()[: self.model.cut.stage]
        modules = [module for stage in prefix for module in stage.modules]
        for module in modules:
            module.train()
        kept = [self._encode(*self.corpus.sequences.token_ids.batch(text[None])) for text in rows]
        for module in modules:
            module.eval()
        mask = [torch.ones(len(activation), dtype=torch.bool) for activation in kept]
        return pad_sequence(kept, batch_first=True), pad_sequence(mask, batch_first=True)

    @torch.no_grad()
    def _encode(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Run every stage left of the cut for all tokens (1, T), as the published loop does; return (T or 1, D)."""
        hidden = token_ids
        for stage in self.model.backbone.stages()[: self.model.cut.stage]:
            hidden = stage.run(hidden, mask)
        return hidden[0, :1] if self.model.cut.keeps == "first token" else hidden[0]


def accuracies(experiment: Experiment, *, dropout: bool) -> dict[str, float]:
    """Train one way and return the accuracy of each task on the test rows."""
    prepared = prepare(experiment)
    accelerator = make_accelerator(experiment.training)

    def load_examples(phase: Phase) -> Mapping[SplitName, Examples]:
        examples, _ = prepared.load_examples(phase, accelerator.device, Observer())
        if dropout:
            noisy = WithDropout(prepared.model, prepared.corpus)
            examples["train"] = replace(examples["train"], activations=noisy)
        return examples

    fitted = prepared.fit(load_examples, accelerator=accelerator, observer=Observer())
    test = fitted.data["test"]
    outputs = outputs_of(prepared.model, test, device=accelerator.device)
    figures, _ = measure(prepared.model.tasks, outputs, test.labelled_targets(), device=accelerator.device)
    return {task: figures[f"{task}/accuracy"] for task in prepared.model.tasks}


def compare(off: list[float], on: list[float]) -> dict[str, object]:
    """Return means, and the mean difference with the 95 % interval of Student's t over the pairs."""
    differences = np.array(on) - np.array(off)
    half = t.ppf(0.975, len(differences) - 1) * differences.std(ddof=1) / len(differences) ** 0.5
    mean = differences.mean()
    return {
        "off": off,
        "on": on,
        "mean_off": float(np.mean(off)),
        "mean_on": float(np.mean(on)),
        "difference": float(mean),
        "low": float(mean - half),
        "high": float(mean + half),
    }


def main() -> None:
    """Train both ways over all seeds and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    rows = [f"data.reviews.path={arguments.reviews}", "data.reviews.limit=null", "data.reviews.split={test: 0.9}"]
    found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
    for seed in range(arguments.seeds):
        experiment = load_experiment(HERE.parent / "reference_minilm.yaml", [*rows, f"training.seed={seed}"])
        for dropout, figures in found.items():
            figures.append(accuracies(experiment, dropout=dropout))
            print(f"seed {seed}, dropout {'on' if dropout else 'off'}: {figures[-1]}", flush=True)
    off, on = found[False], found[True]
    result = {task: compare([one[task] for one in off], [one[task] for one in on]) for task in off[0]}
    write_file(HERE / "results" / "frozen_dropout.json", (json.dumps(result, indent=2) + "\n").encode())
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
