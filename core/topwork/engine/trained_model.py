"""Comes in: a trained model. Goes out: what it predicts, encodes and is worth on texts."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topwork.data.dataset import DataSplit, encode_rows, read_all_rows, read_splits
from topwork.data.files import digest_of_files, is_one_of
from topwork.data.texts import Text, Words, has_lone_surrogate, parts_of
from topwork.engine.encoding.corpus import make_corpus, texts_to_read
from topwork.engine.encoding.encoder import encode
from topwork.engine.encoding.examples import Examples, make_examples
from topwork.engine.evaluation.estimates import Estimate, estimates, outputs_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.errors import ConfigurationError, DataError, StorageError, enumerate_names, first_line, quote
from topwork.experiment.label_format import AS_WRITTEN, LabelColumns, LabelFormat
from topwork.experiment.source import EVALUATED, Source
from topwork.interfaces.head import Decoded, Label
from topwork.interfaces.labels import LabelSpace, WordLabels

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """What one head predicts for one text.

    Attributes:
        label: the predicted label: the name of a class, the names of some labels, or of the class of each word, a
            number, or numbers by name.
        probabilities: of each class or label, by name; those of classes sum to 1. Of words, those of each. None for
            numbers.
        words: that the label names the classes of; None where it is of the whole text.
    """

    label: Label
    probabilities: dict[str, float] | list[dict[str, float]] | None
    words: tuple[str, ...] | None = None


@dataclass(frozen=True)
class TrainedModel:
    """A model that predicts, encodes and can be evaluated, on the device that its weights are on.

    Attributes:
        labels: the label space of each task.
        experiment: the experiment that trained it, as JSON values.
        digests: sha256 of each file of the training, by path.
    """

    model: MultiTaskModel
    labels: dict[str, LabelSpace]
    experiment: dict[str, Any]
    digests: dict[str, str]

    def __post_init__(self) -> None:
        if self.model.mixed_stages is None:
            self.model.mixed_stages = self.model.cut.stage  # what was frozen when these weights were trained
        self.model.requires_grad_(False)
        self.model.set_trainable(())  # nothing trains any more, so the cut is behind the pooling
        self.model.eval()

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.model.parameters()).device

    def predict(self, texts: Sequence[Text | list[str]]) -> list[dict[str, Prediction]]:
        """Return, for each of N texts, a prediction by task: of tasks that read single texts, or of those for pairs.

        Args:
            texts: a pair is a tuple of two, or one text with a tab between both. For tasks whose texts are divided into
                words, a text is divided at blanks; a list of words is taken as it is.
        """
        of_row, rows = self._rows_without_labels(texts)
        examples = self._examples(rows, of_row)
        outputs = outputs_of(self.model, examples, device=self.device)
        predictions: list[dict[str, Prediction]] = [{} for _ in texts]
        for task in (task for task in self.model.tasks if task in outputs):
            of_task = np.flatnonzero(rows.labelled[task])
            for row, prediction in zip(
                of_task, self._decode(task, outputs[task], of_task, examples, rows), strict=True
            ):
                predictions[of_row[row]][task] = prediction
        return predictions

    def _decode(
        self, task: str, outputs: Tensor, rows: NDArray[np.int64], examples: Examples, texts: DataSplit
    ) -> list[Prediction]:
        """Return what a head predicts for some rows.

        Args:
            outputs: of these rows, (L, C), or (L, S, C) of words.
            rows: (L,), their numbers among all ``texts``.
        """
        names, decode = self.labels[task].names, self.model.tasks[task].decode
        if not isinstance(self.labels[task], WordLabels):
            decoded = decode(outputs)
            return [
                Prediction(label, likely)
                for label, likely in zip(decoded.labels, _by_name(decoded, names), strict=True)
            ]
        counts = examples.word_places.lengths_of(examples.text_ids[torch.from_numpy(rows), 0])
        found: dict[int, Prediction] = {}
        for count in counts.unique().tolist():
            alike = (counts == count).nonzero()[:, 0]
            decoded = decode(outputs[alike, :count])
            for number, label, likely in zip(alike.tolist(), decoded.labels, _by_name(decoded, names), strict=True):
                found[number] = Prediction(label, likely, parts_of(texts.texts[rows[number]])[:count])
        return [found[number] for number in range(len(rows))]

    def encode(self, texts: Sequence[Text | list[str]]) -> NDArray[np.float32]:
        """Return the pooled vectors of N texts, (N, W) float32.

        Args:
            texts: each one text, a tuple of two, which are read as one sequence, or a list of words.
        """
        check_texts(texts)
        read = [Words(tuple(text)) if isinstance(text, list) else text for text in texts]
        examples = self._examples(DataSplit(read, targets={}, labelled={}, source_sizes={"texts": len(texts)}))
        batch = examples.batch(torch.arange(len(texts)))
        with torch.no_grad():
            encoded: NDArray[np.float32] = self.model.pool(batch.hidden, batch.mask, batch.windows).cpu().numpy()
        return encoded

    def evaluate(self, file: str | Path | None = None, *, source: str | None = None) -> tuple[dict[str, Estimate], str]:
        """Measure every metric of the tasks that read a source, with intervals, and say on which rows.

        Args:
            file: a file with rows like those of the source. Where it is the file that the experiment divided into
                splits, its test rows are measured, or its validation rows where it has no test rows.
            source: the source's name in the experiment; may be left out where there is only one.

        Raises:
            ConfigurationError: no file is given, or no source where there are several; names the experiment's. A path
                is not read because a model's folder names it, since the folder may come from somebody else.
            DataError: rows or labels are wrong, or the experiment's file has changed since.
            StorageError: the model's folder does not say how the experiment's rows were read.
        """
        name = self._chosen_source(source)
        rows, which = self._rows_of(file, name)
        examples = self._examples(rows)
        outputs = outputs_of(self.model, examples, device=self.device)
        return estimates(self.model.tasks, outputs, examples.labelled_targets()), which

    def _chosen_source(self, named: str | None) -> str:
        sources = list(self.experiment["data"])
        if named is None and len(sources) > 1:
            raise ConfigurationError(f"say which source the file is like, one of {enumerate_names(sources)}")
        if named is not None and named not in sources:
            raise ConfigurationError(f"the model has no source {quote(named)}, only {enumerate_names(sources)}")
        return named or sources[0]

    def _rows_of(self, file: str | Path | None, name: str) -> tuple[DataSplit, str]:
        try:
            source = Source.model_validate(self.experiment["data"][name])
            columns = {
                task: _label_columns(settings, self.labels[task])
                for task, settings in self.experiment["tasks"].items()
                if (settings.get("source") or name) == name
            }
            files = source.files()
            own = files["all"].resolve() if "all" in files else None
        except ValueError as error:  # pydantic's is one too
            raise StorageError(f"the model does not say how its rows were read: {first_line(error)}") from None
        if file is None:
            of = "all" if "all" in files else next(split for split in EVALUATED if split in files)
            raise ConfigurationError(f"give a file with rows to measure; the experiment's are in {files[of]}")
        if own and Path(file).resolve() != own and is_one_of(Path(file), own):
            raise DataError(
                f"{file} is one of the files {files['all']} that were trained on; give this pattern to measure the "
                "rows that were held out, or a file with other rows"
            )
        if own is None or Path(file).resolve() != own:
            everything = source.model_copy(update={"limit": None, "hub": None})
            return read_all_rows(Path(file), everything, name, columns, self.labels), f"all rows of {file}"
        if digest_of_files(own) != self.digests.get(str(files["all"])):
            raise DataError(
                f"{file} is not the file of the training any more, so its test rows may be others; "
                "give a copy of another name to measure all of its rows"
            )
        found = read_splits(source, columns)
        for warning in found.warnings:
            logger.warning(warning)
        which = next(split for split in EVALUATED if split in found.tables)
        return encode_rows(found.tables[which], name, columns, self.labels), f"{which} rows of the experiment"

    @cached_property
    def _forms(self) -> dict[str, type]:
        """Of each task, whether its source has single texts, pairs, or texts that are divided into words."""
        sources = self.experiment["data"]
        first = next(iter(sources))
        forms: dict[str, type] = {}
        for task in self.model.tasks:
            source = sources[self.experiment["tasks"][task].get("source") or first]
            pairs = isinstance(source.get("text"), list | tuple)
            forms[task] = Words if source.get("words") else tuple if pairs else str
        return forms

    def _as_read(self, text: Text | list[str]) -> list[Text]:
        """Return a text in each of the forms that tasks read: a text may be one, a pair with a tab, or words."""
        forms = set(self._forms.values())
        if isinstance(text, list):
            return [Words(tuple(text))]
        if not isinstance(text, str):
            return [text]
        if tuple in forms and text.count("\t") == 1:
            first, second = text.split("\t")
            return [(first, second)]
        found: list[Text] = [text] if str in forms else []
        return [*found, *([Words(tuple(text.split()))] if Words in forms else [])]

    def _rows_without_labels(self, texts: Sequence[Text | list[str]]) -> tuple[list[int], DataSplit]:
        """Return texts as rows that every head has to say something of that reads such, and whose row is whose.

        Raises:
            DataError: some cannot be read, or no task reads such.
        """
        check_texts(texts)
        forms = [self._as_read(text) for text in texts]
        check_texts([found[0] if found else text for found, text in zip(forms, texts, strict=True)])
        read = [(number, form) for number, found in enumerate(forms) for form in found]
        kinds = [type(text) for _, text in read]
        known = set(self._forms.values())
        unread = [number for number, found in enumerate(forms) if known.isdisjoint(map(type, found))]
        if unread:
            number = unread[0]
            wanted = " or ".join(_FORMS[form] for form in dict.fromkeys(self._forms.values()))
            raise DataError(f"text number {number + 1}: every task of this model reads {wanted}")
        labelled = {task: np.array([kind is form for kind in kinds]) for task, form in self._forms.items()}
        rows = DataSplit([text for _, text in read], {}, labelled, {"texts": len(read)})
        return [number for number, _ in read], rows

    def _examples(self, rows: DataSplit, of_row: Sequence[int] | None = None) -> Examples:
        """Encode rows, of which several may be of one text that was given: ``of_row`` has its number for each."""
        backbone, texts = self.model.backbone, texts_to_read(rows, self.model.reads)
        stride = (self.experiment.get("window") or {}).get("stride")
        corpus = make_corpus(backbone.tokenizer, {"test": texts}, prefix=backbone.prefix, stride=stride)
        numbers = range(len(rows.texts)) if of_row is None else of_row
        too_long = {numbers[row] for row in corpus.truncated["test"].any(dim=1).nonzero()[:, 0].tolist()}
        if too_long:
            logger.warning(
                "%d of %d texts are longer than the model reads and were truncated%s",
                len(too_long),
                len(set(numbers)),
                f"; {corpus.unread_words:,} of their words are not read" if corpus.unread_words else "",
            )
        activations = encode(self.model.prefix, corpus.sequences, device=self.device)
        places = corpus.sequences.word_places(self.model.cut)
        return make_examples(activations, places, corpus.text_ids["test"], rows, self.model.reads, corpus.windows)


#: How texts are given that tasks read.
_FORMS = {
    str: "one text",
    tuple: "two texts, as a tuple or with a tab between them",
    Words: "texts that are divided into words, as a list or with blanks between them",
}


def _by_name(decoded: Decoded, names: Sequence[str]) -> list[Any]:
    """Return the probabilities of each text, or of each word of each text, by the names of classes."""
    if decoded.probabilities is None:
        return [None] * len(decoded.labels)
    return _named(decoded.probabilities.tolist(), names)


def _named(values: list[Any], names: Sequence[str]) -> list[Any]:
    return [
        _named(one, names) if one and isinstance(one[0], list) else dict(zip(names, one, strict=True)) for one in values
    ]


def check_texts(texts: Sequence[Text | list[str]]) -> None:
    """Check that texts can be read.

    Raises:
        DataError: names those that cannot.
    """
    if isinstance(texts, str):
        raise DataError("give a list of texts, not one text")
    if not texts:
        raise DataError("no texts given")
    if strange := [number for number, text in enumerate(texts, 1) if not _is_text(text)]:
        raise DataError(
            f"text number {strange[0]}: a text is a string, a tuple of two, or a list of words, "
            f"got {quote(texts[strange[0] - 1])}"
        )
    parts = [text if isinstance(text, list) else parts_of(text) for text in texts]
    for error, wrong in (("empty", _is_blank), ("not valid Unicode", has_lone_surrogate)):
        numbers = [str(number) for number, of_text in enumerate(parts, 1) if not of_text or any(map(wrong, of_text))]
        if numbers:
            raise DataError(f"{len(numbers)} of {len(texts)} texts are {error}: number {', '.join(numbers[:20])}")


def _is_text(text: object) -> bool:
    if isinstance(text, list | tuple):
        return all(isinstance(part, str) for part in text) and (isinstance(text, list) or len(text) == 2)
    return isinstance(text, str | Words)


def _is_blank(text: str) -> bool:
    return not text.strip()


def _label_columns(task: Mapping[str, Any], space: LabelSpace) -> LabelColumns:
    """Return where the labels of a task stand; models of version 0.1 say nothing of how they are written."""
    names = task["label"]
    return LabelColumns(
        names=(names,) if isinstance(names, str) else tuple(names),
        format=LabelFormat.model_validate(task["labels"]) if "labels" in task else AS_WRITTEN,
        missing="skip" if task.get("missing") == "skip" else "error",
        spaces=(type(space),),
        head=task["head"]["kind"],
    )
