from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import topwork


class BiLstm(nn.Module):
    """Reads words in both directions, packed, so that padding changes nothing."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, 32, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(64, classes)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:  # (B, S, D), (B, S) -> (B, S, C)
        packed = pack_padded_sequence(words, mask.sum(dim=1).cpu(), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=mask.shape[1])
        outputs: Tensor = self.linear(states)
        return outputs


class BiLstmConfig(topwork.HeadConfig):
    kind: Literal["bilstm"] = "bilstm"
    label_spaces: ClassVar = (topwork.WordLabels,)
    reads: ClassVar = "words"

    def build(self, width: int, labels: topwork.WordLabels) -> topwork.Head:
        return topwork.Head(
            module=BiLstm(width, len(labels.names)),
            loss=lambda outputs, targets: nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten()),
            decode=topwork.decode_words(labels),
            metrics=topwork.word_metrics(labels),
        )


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(BiLstmConfig)
