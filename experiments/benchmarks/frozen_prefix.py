# python experiments/benchmarks/frozen_prefix.py reviews.txt
"""What computing the frozen part once is worth, against the published recipe's loop and other trainers.

One process, one thread setting: DistilBERT's real shape with random weights (speed does not depend on them), the first
500 reviews at up to 512 tokens, 400 to train on, 20 epochs, batches of 20. Of the other loops one epoch is measured and
multiplied by 20; everything of topwork is measured whole. Writes results/frozen_prefix.json and
docs/figures/frozen_prefix.png.
"""

import argparse
import gc
import json
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from others import reference_loop, sentence_transformers_encode, transformers_trainer
from transformers import DistilBertConfig, DistilBertModel

from topwork import Experiment, load_experiment
from topwork.building_blocks import MIN_ROWS
from topwork.engine.encoding.corpus import Corpus
from topwork.engine.encoding.encoder import TOKENS_PER_BATCH, encode
from topwork.engine.encoding.examples import Examples
from topwork.engine.evaluation.estimates import outputs_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.plan import Phase
from topwork.engine.model.precision_checks import warn_if_slow
from topwork.engine.observer import EncodingReport, Observer
from topwork.engine.preparation import Preparation, prepare
from topwork.engine.training.accelerator import make_accelerator
from topwork.experiment.schema import Training
from topwork.files import write_file
from topwork_plugins.backbones.minilm import package_folder

HERE = Path(__file__).parent
EPOCHS = 20
CPU = torch.device("cpu")


def make_folder(folder: Path) -> Path:
    """Write a DistilBERT of the real size with random weights, and the tokenizer that MiniLM shares with it."""
    torch.manual_seed(0)
    DistilBertModel(DistilBertConfig()).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).write_bytes((package_folder() / name).read_bytes())
    return folder


def make_experiment(folder: Path, reviews: Path, pooling: str, *settings: str) -> Experiment:
    """The reference experiment, all 20 epochs of it."""
    given = [f"backbone.model={folder}", f"data.reviews.path={reviews}", f"pooling.kind={pooling}"]
    given += ["training.patience=null", f"training.epochs={EPOCHS}", "training.store=require", "training.device=cpu"]
    return load_experiment(HERE.parent / "reference.yaml", [*given, *settings])


def run(experiment: Experiment) -> dict[str, float]:
    """Read the rows, load the model, encode, train and evaluate; all of it on the clock."""
    started = perf_counter()
    prepared = prepare(experiment)
    reports: list[tuple[EncodingReport, float]] = []

    def load_examples(phase: Phase) -> Mapping[Any, Examples]:
        began = perf_counter()
        examples, report = prepared.load_examples(phase, CPU, Observer())
        reports.append((report, perf_counter() - began))
        return examples

    began = perf_counter()
    accelerator = make_accelerator(experiment.training)
    fitted = prepared.fit(load_examples, accelerator=accelerator, observer=Observer())
    ((report, reading_seconds),) = reports
    training_seconds = perf_counter() - began - reading_seconds
    outputs_of(prepared.model, fitted.data["test"], device=CPU)
    return {
        "seconds": perf_counter() - started,
        "reading_seconds": reading_seconds,
        "encoding_texts_per_second": report.texts_per_second or 0.0,
        "training_seconds": training_seconds,
        "training_texts_per_second": fitted.data["train"].count * EPOCHS / training_seconds,
    }


def stored_bytes(cache: Path) -> int:
    """The size of the activation store."""
    return sum(path.stat().st_size for path in (cache / "activations").rglob("*") if path.is_file())


def bare_encoding(model: MultiTaskModel, corpus: Corpus, *, whole: bool) -> float:
    """Time a hand-written forward over the equal-length batches that topwork uses.

    With ``whole`` all six layers as transformers runs them, else only what topwork's prefix consists of.
    """
    stages = model.backbone.stages()
    layers = model.backbone.transformer.layer if whole else model.backbone.transformer.layer[:5]
    batches = []
    lengths = corpus.sequences.lengths
    for length in lengths.unique().tolist():
        for rows in (lengths == length).nonzero()[:, 0].split(max(1, TOKENS_PER_BATCH // length)):
            missing = max(0, -(-MIN_ROWS // length) - len(rows))
            ids, _ = corpus.sequences.token_ids.batch(torch.cat([rows, rows[:1].expand(missing)]))
            batches.append((ids, torch.ones_like(ids, dtype=torch.bool)))
    model.eval()
    started = perf_counter()
    with torch.no_grad():
        for ids, mask in batches:
            hidden = model.backbone.embeddings(ids)
            for layer in layers:
                hidden = layer(hidden)
            if not whole:
                step = stages[11].run_first_token if model.cut.keeps == "first token" else stages[11].run
                hidden = step(hidden, mask)
    return perf_counter() - started


def bare_training(model: MultiTaskModel, rows: Examples, epochs: int) -> float:
    """Time a hand-written loop over the trainable layers and heads on in-memory tensors, without padding."""
    block = model.backbone.transformer.layer[5]
    texts = [rows.batch(torch.tensor([row])).hidden[0] for row in range(rows.count)]
    targets = {name: rows.targets[name] for name in model.tasks}
    groups = [
        {"params": [*block.ffn.parameters(), *block.output_layer_norm.parameters()], "lr": 5e-5},
        {"params": [*model.heads.parameters()], "lr": 1e-3},
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)
    one_each = model.cut.keeps == "first token"
    matrix = torch.cat(texts) if one_each else None
    model.train()
    started = perf_counter()
    for _ in range(epochs):
        for batch in torch.arange(rows.count).split(20):
            optimizer.zero_grad()
            hidden = matrix[batch] if one_each else torch.cat([texts[row] for row in batch])
            hidden = block.output_layer_norm(block.ffn(hidden) + hidden)
            if not one_each:
                parts = hidden.split([len(texts[row]) for row in batch])
                hidden = torch.stack([part.mean(dim=0) for part in parts])
            loss = sum(head.loss(head.module(hidden), targets[name][batch]) for name, head in model.tasks.items())
            loss.backward()
            optimizer.step()
    return perf_counter() - started


def against_bare(experiment: Experiment, epochs: int) -> dict[str, float]:
    """Compare encoding and training with hand-written loops; the best of two rounds, taken in turns."""
    prepared = prepare(experiment)
    rows, _ = prepared.load_examples(prepared.plan.phases[0], CPU, Observer())
    times: dict[str, list[float]] = {}
    for _ in range(2):
        started = perf_counter()
        encode(prepared.model.prefix, prepared.corpus.sequences, device=CPU)
        times.setdefault("encoding", []).append(perf_counter() - started)
        times.setdefault("bare_encoding", []).append(bare_encoding(prepared.model, prepared.corpus, whole=False))
        times.setdefault("whole_forward", []).append(bare_encoding(prepared.model, prepared.corpus, whole=True))
        times.setdefault("training", []).append(suffix_training(prepared, rows, epochs))
        times.setdefault("bare_training", []).append(bare_training(prepared.model, rows["train"], epochs))
    best = {name: min(seconds) for name, seconds in times.items()}
    return {
        "encoding_vs_bare": best["bare_encoding"] / best["encoding"],
        "encoding_vs_whole_forward": best["whole_forward"] / best["encoding"],
        "suffix_vs_bare": best["bare_training"] / best["training"],
        "epoch_vs_reencoding": 1 + best["encoding"] * 0.8 / (best["training"] / epochs),
        "epoch_flop_limit": prepared.plan.phases[0].cost.train_uncached / prepared.plan.phases[0].cost.train,
    }


def suffix_training(prepared: Preparation, rows: Mapping[Any, Examples], epochs: int) -> float:
    """Time topwork's loop alone."""
    training = prepared.experiment.training.model_copy(update={"epochs": epochs})
    shorter = replace(prepared, experiment=prepared.experiment.model_copy(update={"training": training}))
    accelerator = make_accelerator(training)
    started = perf_counter()
    shorter.fit(lambda phase: rows, accelerator=accelerator, observer=Observer())
    return perf_counter() - started


def measured(name: str, job: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Do a job and add the peak of the process's memory during it."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    figures = job()
    status = Path("/proc/self/status").read_text()
    figures["peak_memory_mb"] = int(status.split("VmHWM:")[1].split()[0]) / 1000
    print(name, json.dumps({key: round(value, 3) for key, value in figures.items()}), flush=True)
    return figures


def compare(folder: Path, reviews: Path, pooling: str, cache: Path) -> dict[str, Any]:
    """Measure everything for one pooling."""
    os.environ["TOPWORK_CACHE"] = str(cache)
    experiment = make_experiment(folder, reviews, pooling)
    prepared = prepare(experiment)
    texts = prepared.plan.corpus_size.distinct_texts
    others = {
        "reference": measured(f"{pooling} reference", lambda: reference_loop(folder, prepared, pooling)),
        "trainer": measured(f"{pooling} trainer", lambda: transformers_trainer(folder, prepared, pooling)),
    }
    for figures in others.values():
        figures["seconds"] = EPOCHS * figures["epoch_seconds"] + figures["evaluation_seconds"]
    first = measured(f"{pooling} first", lambda: run(experiment))
    ratios: dict[str, float] = {}
    size, values = stored_bytes(cache), prepared.plan.kept_bytes(prepared.plan.phases[0])
    warm = measured(f"{pooling} warm", lambda: run(experiment))
    if not warn_if_slow("bfloat16", Training(device="cpu")):
        mixed = make_experiment(folder, reviews, pooling, "backbone.precision=bfloat16")
        others["first_run_bfloat16"] = measured(f"{pooling} first, bfloat16", lambda: run(mixed))
        ratios["first_run_ratio_bfloat16"] = others["reference"]["seconds"] / others["first_run_bfloat16"]["seconds"]
    return {
        **ratios,
        "first_run_ratio": others["reference"]["seconds"] / first["seconds"],
        "warm_run_ratio": others["reference"]["seconds"] / warm["seconds"],
        **against_bare(experiment, epochs=EPOCHS if pooling == "cls" else 3),
        "bytes_per_text": values / texts,
        "bytes_on_disk_per_text": size / texts,
        "bytes_on_disk": size,
        "first_run_ratio_to_trainer": others["trainer"]["seconds"] / first["seconds"],
        "warm_run_ratio_to_trainer": others["trainer"]["seconds"] / warm["seconds"],
        "phases": {**others, "first_run": first, "warm_run": warm},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reviews", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_folder(Path(temporary) / "distilbert")
        results = compare(folder, arguments.reviews.absolute(), "cls", Path(temporary) / "cls")
        prepared = prepare(make_experiment(folder, arguments.reviews.absolute(), "cls"))
        results["phases"]["sentence_transformers"] = measured(
            "sentence-transformers", lambda: sentence_transformers_encode(folder, prepared)
        )
        results["mean_pooling"] = compare(folder, arguments.reviews.absolute(), "mean", Path(temporary) / "mean")
    results["machine"] = {
        "threads": arguments.threads,
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    write_file(HERE / "results" / "frozen_prefix.json", (json.dumps(results, indent=2) + "\n").encode())
    draw(results)


def draw(results: Mapping[str, Any]) -> None:
    """Draw the wall clock of 20 epochs."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = {
        "reference": "published loop *",
        "trainer": "transformers Trainer *",
        "first_run": "topwork, first run",
        "warm_run": "topwork, later runs",
    }
    figure, axes = pyplot.subplots(figsize=(8, 3.2), layout="constrained")
    for offset, (label, of) in enumerate({"cls": results, "mean": results["mean_pooling"]}.items()):
        seconds = [of["phases"][name]["seconds"] for name in names]
        places = [place + 0.4 * offset for place in range(len(names))]
        bars = axes.barh(places, seconds, height=0.38, label=f"{label} pooling", color=("#1b6ca8", "#e39b3b")[offset])
        axes.bar_label(
            bars, [f"{value:,.0f} s" if value >= 10 else f"{value:.1f} s" for value in seconds], padding=3, fontsize=8
        )
    axes.set_yticks([place + 0.2 for place in range(len(names))], list(names.values()))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(1, 3e4)
    axes.set_xlabel("seconds for 20 epochs on 400 reviews (* one epoch measured, times 20)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(HERE.parents[1] / "docs" / "figures" / "frozen_prefix.png", dpi=150)


if __name__ == "__main__":
    main()
