"""Comes in: a trained model. Goes out: what it predicts, encodes and is worth on texts."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topwork.data.dataset import DataSplit, encode_labels, read_all_rows, read_splits
from topwork.data.table import has_lone_surrogate
from topwork.engine.encoding.corpus import make_corpus
from topwork.engine.encoding.encoder import encode
from topwork.engine.encoding.examples import Examples, make_examples
from topwork.engine.evaluation.estimates import Estimate, estimates, outputs_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.errors import ConfigurationError, DataError, StorageError, first_line
from topwork.experiment.schema import AS_WRITTEN, EVALUATED, LabelColumn, LabelNormalization, Source
from topwork.files import sha256_of
from topwork.interfaces.head import Classes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What one head predicts for one text.

    Attributes:
        label: the predicted label.
        probabilities: of each class, by name; they sum to 1.
    """

    label: str
    probabilities: dict[str, float]


@dataclass(frozen=True)
class TrainedModel:
    """A model that predicts, encodes and can be evaluated, on the device that its weights are on.

    Attributes:
        labels: the classes of each task.
        experiment: the experiment that trained it, as JSON values.
        digests: sha256 of each file of the training, by path.
    """

    model: MultiTaskModel
    labels: dict[str, Classes]
    experiment: dict[str, Any]
    digests: dict[str, str]

    def __post_init__(self) -> None:
        self.model.requires_grad_(False)
        self.model.set_trainable(())  # nothing trains any more, so the cut is behind the pooling
        self.model.eval()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    def predict(self, texts: Sequence[str]) -> list[dict[str, Prediction]]:
        """Return, for each of N texts, a prediction by task."""
        examples = self._examples(texts, {})
        predictions: list[dict[str, Prediction]] = [{} for _ in texts]
        for task, outputs in outputs_of(self.model, examples, device=self.device).items():
            decoded = self.model.tasks[task].decode(outputs)
            names = self.labels[task].names
            for prediction, label, row in zip(predictions, decoded.labels, decoded.probabilities.tolist(), strict=True):
                prediction[task] = Prediction(label, dict(zip(names, row, strict=True)))
        return predictions

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the pooled vectors of N texts, (N, W) float32."""
        vectors, _ = self._examples(texts, {}).activations.batch(torch.arange(len(texts)))
        encoded: NDArray[np.float32] = vectors[:, 0].numpy()
        return encoded

    def evaluate(self, file: str | Path | None = None) -> tuple[dict[str, Estimate], str]:
        """Measure every metric, with intervals, and say on which rows.

        Args:
            file: a file with rows like those of the training source. Where it is the file that the experiment divided
                into splits, its test rows are measured, or its validation rows where it has no test rows.

        Raises:
            ConfigurationError: no file is given; names the experiment's. A path is not read because a model's folder
                names it, since the folder may come from somebody else.
            DataError: rows or labels are wrong, or the experiment's file has changed since.
            StorageError: the model's folder does not say how the experiment's rows were read.
        """
        rows, which = self._rows_of(file)
        examples = self._examples(rows.texts, rows.targets)
        outputs = outputs_of(self.model, examples, device=self.device)
        return estimates(self.model.tasks, outputs, examples.targets), which

    def _rows_of(self, file: str | Path | None) -> tuple[DataSplit, str]:
        try:
            source = Source.model_validate(next(iter(self.experiment["data"].values())))
            columns = {name: _label_column(task) for name, task in self.experiment["tasks"].items()}
            files = source.files()
            own = files["all"].resolve() if "all" in files else None
        except ValueError as error:  # pydantic's is one too
            raise StorageError(f"the model does not say how its rows were read: {first_line(error)}") from None
        if file is None:
            of = "all" if "all" in files else next(name for name in EVALUATED if name in files)
            raise ConfigurationError(f"give a file with rows to measure; the experiment's are in {files[of]}")
        if own is None or Path(file).resolve() != own:
            everything = source.model_copy(update={"limit": None})
            return read_all_rows(Path(file), everything, columns, self.labels), f"all rows of {file}"
        if sha256_of(Path(file)) != self.digests.get(str(files["all"])):
            raise DataError(
                f"{file} is not the file of the training any more, so its test rows may be others; "
                "give a copy of another name to measure all of its rows"
            )
        found = read_splits(source, columns)
        for warning in found.warnings:
            logger.warning(warning)
        which = next(name for name in EVALUATED if name in found.tables)
        table = found.tables[which]
        return DataSplit(table.texts, encode_labels(table, columns, self.labels)), f"{which} rows of the experiment"

    def _examples(self, texts: Sequence[str], targets: Mapping[str, NDArray[np.int64]]) -> Examples:
        if isinstance(texts, str):
            raise DataError("give a list of texts, not one text")
        if not texts:
            raise DataError("no texts given")
        for error, wrong in (("empty", _is_blank), ("not valid Unicode", has_lone_surrogate)):
            numbers = [str(number) for number, text in enumerate(texts, 1) if wrong(text)]
            if numbers:
                raise DataError(f"{len(numbers)} of {len(texts)} texts are {error}: number {', '.join(numbers[:20])}")
        corpus = make_corpus(self.model.backbone.tokenizer, {"test": texts})
        if corpus.truncated:
            logger.warning(
                "%d of %d texts are longer than the model reads and were truncated", corpus.truncated, len(texts)
            )
        activations = encode(self.model, corpus.token_ids, device=self.device)
        return make_examples(activations, corpus.text_ids["test"], targets)


def _is_blank(text: str) -> bool:
    return not text.strip()


def _label_column(task: Mapping[str, Any]) -> LabelColumn:
    """Return where the labels of a task stand; models of version 0.1 say nothing of their spellings."""
    normalization = LabelNormalization.model_validate(task["labels"]) if "labels" in task else AS_WRITTEN
    return LabelColumn(task["label"], normalization)
