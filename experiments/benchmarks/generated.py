"""An experiment on generated texts, with a backbone of two small random layers, so that little is spent on encoding."""

import random
from pathlib import Path

import torch
from transformers import DistilBertConfig, DistilBertModel

from topwork_plugins.backbones.minilm import package_folder

EXPERIMENT = """\
name: generated
data:
  rows: {{train: train.csv, validation: validation.csv, test: test.csv}}
backbone: {{kind: distilbert, model: {model}}}
pooling: {{kind: cls}}
tasks:
  kind: {{label: label, head: {{kind: classification}}}}
freeze: {{kind: all}}
training: {{epochs: 3, patience: null, batch_size: 512, store: require, device: cpu}}
tracking: {{enabled: false}}
"""


def write_experiment(folder: Path, texts: int) -> Path:
    """Write an experiment with so many distinct training texts of 5 to 13 words, and return its file.

    1,000 further texts are validation rows, and 1,000 test rows.
    """
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    shape = DistilBertConfig(dim=64, n_layers=2, n_heads=2, hidden_dim=128)
    DistilBertModel(shape).save_pretrained(folder / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / "model" / name).write_bytes((package_folder() / name).read_bytes())
    vocabulary = (package_folder() / "vocab.txt").read_text(encoding="utf-8").split()
    words, draw = [word for word in vocabulary if word.isalpha() and word.isascii()][:5000], random.Random(0)
    for split, count in (("train", texts), ("validation", 1000), ("test", 1000)):
        with (folder / f"{split}.csv").open("w", encoding="utf-8") as file:
            file.write("text,label\n")
            for number in range(count):
                drawn = " ".join(draw.choices(words, k=draw.randint(4, 12)))
                file.write(f"{drawn} {split} {number},{'abcd'[number % 4]}\n")
    file = folder / "generated.yaml"
    file.write_text(EXPERIMENT.format(model=(folder / "model").absolute()), encoding="utf-8")
    return file
