"""How the same job is done elsewhere: the published recipe's own loop, transformers' Trainer, sentence-transformers."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import DistilBertModel, PreTrainedTokenizerFast, Trainer, TrainingArguments

from topwork.engine.preparation import Preparation

TRAINED = ("layer.5.ffn", "layer.5.output_layer_norm")


class Network(nn.Module):
    """The published recipe's network: two heads with their own output functions on one encoder."""

    def __init__(self, folder: Path, pooling: str, categories: int) -> None:
        super().__init__()
        self.encoder = DistilBertModel.from_pretrained(folder)
        self.pooling = pooling
        for name, parameter in self.encoder.named_parameters():
            parameter.requires_grad_(any(part in name for part in TRAINED))
        self.sentiment = nn.Sequential(*self._hidden(), nn.Linear(50, 1), nn.Sigmoid())
        self.category = nn.Sequential(*self._hidden(), nn.Linear(50, categories), nn.Softmax(dim=1))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the summed loss of labels (B, 2) and both outputs."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            seen = attention_mask[:, :, None]
            pooled = (hidden * seen).sum(1) / seen.sum(1)
        sentiment, category = self.sentiment(pooled)[:, 0], self.category(pooled)
        loss = nn.functional.binary_cross_entropy(sentiment, labels[:, 0].float())
        loss = loss + nn.functional.cross_entropy(category, labels[:, 1])
        return {"loss": loss, "sentiment": sentiment, "category": category}

    def groups(self) -> list[dict[str, Any]]:
        """The recipe's parameter groups."""
        return [
            {"params": self.sentiment.parameters(), "lr": 1e-3},
            {"params": self.category.parameters(), "lr": 1e-3},
            {"params": [p for p in self.encoder.parameters() if p.requires_grad], "lr": 5e-5},
        ]

    def _hidden(self) -> list[nn.Module]:
        return [nn.Linear(self.encoder.config.dim, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU()]


def rows_of(prepared: Preparation, split: str) -> tuple[Sequence[str], Tensor]:
    """Texts of a split and their labels (N, 2)."""
    part = prepared.dataset.splits[split]
    return [*part.texts], torch.stack(
        [torch.from_numpy(part.targets[name]) for name in ("sentiment", "category")], dim=1
    )


def reference_loop(folder: Path, prepared: Preparation, pooling: str) -> dict[str, float]:
    """Measure one epoch of the recipe's loop, and one evaluation: padded batches of 20, everything in train mode."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), pad_token="[PAD]")
    torch.manual_seed(0)
    network = Network(folder, pooling, categories=6)
    optimizer = torch.optim.AdamW(network.groups())

    def batches(split: str) -> Any:
        texts, labels = rows_of(prepared, split)
        for rows in _batches(len(texts), 20):
            read = tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=512, return_tensors="pt"
            )
            yield read["input_ids"], read["attention_mask"], labels[rows]

    network.train()
    started = perf_counter()
    for ids, mask, labels in batches("train"):
        optimizer.zero_grad()
        network(ids, mask, labels)["loss"].backward()
        optimizer.step()
    epoch = perf_counter() - started
    network.eval()
    started = perf_counter()
    with torch.no_grad():
        for ids, mask, labels in batches("test"):
            network(ids, mask, labels)
    return {"epoch_seconds": epoch, "evaluation_seconds": perf_counter() - started}


def transformers_trainer(folder: Path, prepared: Preparation, pooling: str) -> dict[str, float]:
    """Measure one epoch of transformers' Trainer with the same network and batches of similar length."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)

    def examples(split: str) -> list[dict[str, Any]]:
        texts, labels = rows_of(prepared, split)
        return [
            {"input_ids": tokenizer.encode(text).ids, "labels": label}
            for text, label in zip(texts, labels, strict=True)
        ]

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        pad = torch.nn.utils.rnn.pad_sequence
        return {
            "input_ids": pad(ids, batch_first=True),
            "attention_mask": pad([torch.ones_like(row) for row in ids], batch_first=True),
            "labels": torch.stack([row["labels"] for row in rows]),
        }

    torch.manual_seed(0)
    network = Network(folder, pooling, categories=6)
    with TemporaryDirectory() as output:
        settings = TrainingArguments(
            output,
            num_train_epochs=1,
            per_device_train_batch_size=20,
            per_device_eval_batch_size=20,
            train_sampling_strategy="group_by_length",
            lr_scheduler_type="constant",
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            network,
            settings,
            data_collator=collate,
            train_dataset=examples("train"),  # type: ignore[arg-type]
            optimizers=(torch.optim.AdamW(network.groups()), None),
        )
        started = perf_counter()
        trainer.train()
        epoch = perf_counter() - started
        started = perf_counter()
        trainer.predict(examples("test"))  # type: ignore[arg-type]
    return {"epoch_seconds": epoch, "evaluation_seconds": perf_counter() - started}


def sentence_transformers_encode(folder: Path, prepared: Preparation) -> dict[str, float]:
    """Measure how long sentence-transformers takes to encode all texts with a wholly frozen encoder.

    That is as near as it comes to the job: a classifier on its vectors trains no layer of the encoder.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    words = Transformer(str(folder), max_seq_length=512)
    encoder = SentenceTransformer(modules=[words, Pooling(768, pooling_mode="cls")], device="cpu")
    texts = [text for part in prepared.dataset.splits.values() for text in part.texts]
    started = perf_counter()
    encoder.encode(texts, batch_size=20, show_progress_bar=False)
    seconds = perf_counter() - started
    return {"encoding_seconds": seconds, "texts_per_second": len(texts) / seconds}


def _batches(count: int, size: int) -> list[list[int]]:
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]
