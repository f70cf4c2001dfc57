"""A model of two heads in float64, and texts with labels of each where asked for."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import nn

from encoding_helpers import no_words
from topwork.engine.encoding.examples import Examples
from topwork.engine.encoding.ragged import Ragged, offsets_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.testing.tiny import tiny_model

CLASS_WEIGHTS = torch.tensor([2.0, 0.0], dtype=torch.float64)


def two_headed_model() -> MultiTaskModel:
    """A model in float64 all of which trains; the loss of its second head reads one of its two classes alone."""
    torch.manual_seed(0)
    model = tiny_model().double().eval()
    model.set_trainable([f"backbone.{name}" for name, _ in model.backbone.named_parameters()])
    heads = dict(model.tasks)
    weighted = nn.CrossEntropyLoss(weight=CLASS_WEIGHTS)
    heads["mood"] = dataclasses.replace(
        heads["mood"], loss=weighted, denominator=lambda targets: CLASS_WEIGHTS[targets].sum()
    )
    heads["animal"] = dataclasses.replace(heads["animal"], loss=nn.functional.cross_entropy)
    model.tasks = heads
    return model


def texts_with(labelled: Mapping[str, list[bool]]) -> Examples:
    """Texts of various lengths, with labels of each task where asked for."""
    count = len(next(iter(labelled.values())))
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(3, 9, (count,), generator=generator)
    ids = Ragged(torch.randint(3, 50, (int(lengths.sum()),), generator=generator), offsets_of(lengths))
    targets = {task: torch.randint(2, (count,), generator=generator) for task in labelled}
    masks = {task: torch.tensor(values) for task, values in labelled.items()}
    return Examples(
        ids, no_words(count), torch.arange(count)[:, None], targets, masks, dict.fromkeys(labelled, "pooled"), (count,)
    )
