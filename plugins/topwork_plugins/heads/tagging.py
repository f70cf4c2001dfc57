"""One class for each word: a perceptron on the hidden state of its first token, softmax, and cross-entropy."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

import topwork


class TaggingConfig(topwork.HeadConfig):
    """Settings of the head ``tagging``, for parts of speech, named entities, slots, and the like.

    Where the classes mark spans, such as ``B-city``, ``I-city`` and ``O``, the F1 of these is measured, too.

    Attributes:
        hidden: columns of each hidden layer; [] for a linear head.
        activation: follows each hidden layer.
        dropout: probability after each hidden layer.
    """

    kind: Literal["tagging"] = "tagging"
    hidden: tuple[topwork.Count, ...] = (100, 50)
    activation: topwork.Activation = "relu"
    dropout: float = Field(default=0.0, strict=True, ge=0, lt=1)

    label_spaces: ClassVar = (topwork.WordLabels,)
    reads: ClassVar = "words"

    def build(self, width: int, labels: topwork.WordLabels) -> topwork.Head:
        classes = len(labels.names)
        perceptron = topwork.mlp(width, classes, hidden=self.hidden, activation=self.activation, dropout=self.dropout)
        return topwork.Head(
            module=EachWord(perceptron),
            loss=lambda outputs, targets: nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten()),
            decode=topwork.decode_words(labels),
            metrics=topwork.word_metrics(labels),
            figures=topwork.word_figures(labels),
        )


class EachWord(nn.Module):
    """Turns words (B, S, D) into outputs (B, S, C), each by itself."""

    def __init__(self, perceptron: nn.Module) -> None:
        super().__init__()
        self.perceptron = perceptron

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        outputs: Tensor = self.perceptron(words)
        return outputs


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(TaggingConfig)
