# python experiments/benchmarks/known_transfer.py
"""Whether `topwork transfer` tells tasks that help, that are useless, and that hurt, where the answer is known.

Synthetic texts of eleven words; a text is `pos` where more of its words are from one half of the vocabulary than from
the other. `few` learns that from 60 texts, and `many` from 2,000 others: they should help it. `other` learns from 600
which word comes first, of the even or of the odd ones, which says nothing of the rest: it should not help `few`.
`faint` has labels drawn by lot whose loss counts a millionth: it should be of no use and do no harm. `loud` has labels
drawn by lot whose loss counts 30 times: it should hurt. Whatever its training labels, each task is tested on true ones.
A small DistilBERT with random weights, all of which train; six seeds. Writes results/known_transfer.json and
results/known_transfer.png.
"""

import argparse
import csv
import json
import os
import random
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from topwork import Experiment, discover, transfer
from topwork.files import write_file
from topwork.lab.study.transfer_figure import draw_transfer

HERE = Path(__file__).parent

#: Of each task: its training texts, the label that it learns, whether that is drawn by lot, and the weight of its loss.
TASKS = {
    "few": (60, "sentiment", False, 1.0),
    "many": (2000, "sentiment", False, 1.0),
    "other": (600, "first", False, 1.0),
    "faint": (600, "sentiment", True, 1e-6),
    "loud": (600, "sentiment", True, 30.0),
}
SEEDS = [0, 1, 2, 3, 4, 5]
WORDS = [f"{consonant}{vowel}" for consonant in "bdfgklmn" for vowel in "aeiou"]


def write_encoder(folder: Path) -> None:
    """Write a small DistilBERT with random weights, and a tokenizer that knows the words."""
    from transformers import DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    sizes = {"dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 16}
    DistilBertModel(DistilBertConfig(vocab_size=50, **sizes)).save_pretrained(folder)
    vocabulary = {word: number for number, word in enumerate(["[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    marks = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')


def write_files(folder: Path) -> None:
    """Write the training texts of each task, and the texts that all are validated and tested on."""
    draw = random.Random(0)
    counts = {"test": 800, "validation": 400} | {name: count for name, (count, *_) in TASKS.items()}
    for name, count in counts.items():
        by_lot = name in TASKS and TASKS[name][2]
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["text", "sentiment", "first"])
            for _ in range(count):
                words = draw.choices(WORDS, k=11)
                positive = sum(WORDS.index(word) < len(WORDS) // 2 for word in words) > 5
                sentiment = draw.choice(["neg", "pos"]) if by_lot else "pos" if positive else "neg"
                rows.writerow([" ".join(words), sentiment, "odd" if WORDS.index(words[0]) % 2 else "even"])


def make_experiment(folder: Path) -> Experiment:
    """The tasks, each with a source of its own; all sources give equally many rows."""
    raw = {
        "name": "known",
        "data": {name: {"train": f"{name}.csv", "validation": "validation.csv", "test": "test.csv"} for name in TASKS},
        "backbone": {"kind": "distilbert", "model": str(folder / "encoder"), "max_length": 16},
        "pooling": {"kind": "mean"},
        "tasks": {
            name: {
                "label": label,
                "source": name,
                "head": {"kind": "binary", "hidden": []},
                "loss_weight": weight,
            }
            for name, (_, label, _, weight) in TASKS.items()
        },
        "freeze": {"kind": "none"},
        "optimizer": {"kind": "uniform", "lr": 1e-3},
        "sampling": {"kind": "uniform", "batches": "single"},
        "training": {"epochs": 6, "shuffle": True, "stop": "per_task", "patience": 6, "device": "cpu", "seeds": SEEDS},
        "tracking": {"enabled": False},
    }
    return Experiment.model_validate(raw, context={"registry": discover()})


def main() -> None:
    """Train, and write down what was found."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["TOPWORK_CACHE"] = temporary
        os.chdir(temporary)
        write_encoder(Path(temporary) / "encoder")
        write_files(Path(temporary))
        result = transfer(make_experiment(Path(temporary)))
        figure = draw_transfer(result)
    found = {"seconds": result.seconds, "trainings": result.trainings, "matrix": result.rows}
    print(json.dumps(found, indent=2))
    write_file(HERE / "results" / "known_transfer.json", (json.dumps(found, indent=2) + "\n").encode())
    figure.savefig(HERE / "results" / "known_transfer.png", dpi=110)


if __name__ == "__main__":
    main()
