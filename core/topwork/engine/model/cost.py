"""What an epoch costs with and without keeping activations, in floating-point operations.

A multiply-add counts as 2. A linear layer of w weights costs 2w per token forward, as much again for the
gradient of its weights, and as much again for the gradient of its input where something before it trains.
Attention between T tokens adds 4 T D per token forward and twice that backward. Norms, activations and
softmax are ignored.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from topwork.engine.model.multitask import MultiTaskModel
from topwork.interfaces.backbone import Stage


@dataclass(frozen=True)
class Cost:
    """Floating-point operations for one text of T tokens.

    Attributes:
        encode: one pass through the prefix.
        train: one training step right of the cut.
        train_uncached: one training step that starts at the token ids and reads every token.
    """

    encode: float
    train: float
    train_uncached: float


def cost_per_text(model: MultiTaskModel, tokens: float, words: float = 0.0) -> Cost:
    """Estimate the cost of a text of ``tokens`` tokens, of which heads read so many ``words``."""
    stages, cut = model.stages(), model.cut
    prefix, suffix = stages[: cut.stage], stages[cut.stage :]
    whole = sum(_forward(stage, tokens, model.backbone.width) for stage in prefix) * tokens
    forward = sum(_forward(stage, tokens, model.backbone.width) for stage in suffix)
    backward = 0.0
    reached = False  # whether gradients flow further down than the layer at hand
    for stage in suffix:
        reached, cost = _backward(stage, tokens, model.backbone.width, reached)
        backward += cost
    heads = sum(
        6.0 * linear.weight.numel() * (words if model.reads[task] == "words" else 1.0)
        for task, module in model.heads.items()
        for linear in _linears(module)
    )
    kept = tokens if cut.keeps_every_token else model.reads_pooled + words
    encode = _encode(prefix, None if words else model.prefix.first_token_stage, tokens, model.backbone.width)
    return Cost(encode, kept * (forward + backward) + heads, whole + tokens * (forward + backward) + heads)


def _encode(prefix: Sequence[Stage], first_token_stage: int | None, tokens: float, width: int) -> float:
    """Operations of the prefix for a text. From stage ``first_token_stage`` on it runs for the first token only.

    There keys and values, half of an attention's weights, are still computed for all tokens.
    """
    if first_token_stage is None:
        return sum(_forward(stage, tokens, width) for stage in prefix) * tokens
    narrow = prefix[first_token_stage]
    at_cut = _forward(narrow, tokens, width)
    if narrow.run_first_token is None:
        at_cut *= tokens
    else:
        at_cut += (tokens - 1) * _forward(dataclasses.replace(narrow, mixes_tokens=False), tokens, width) / 2
    before = sum(_forward(stage, tokens, width) for stage in prefix[:first_token_stage]) * tokens
    return before + at_cut + sum(_forward(stage, tokens, width) for stage in prefix[first_token_stage + 1 :])


def _forward(stage: Stage, tokens: float, width: int) -> float:
    """Operations per token of a stage's forward pass."""
    linear = sum(2.0 * module.weight.numel() for parent in stage.modules for module in _linears(parent))
    return linear + (4.0 * tokens * width if stage.mixes_tokens else 0.0)


def _backward(stage: Stage, tokens: float, width: int, reached: bool) -> tuple[bool, float]:
    """Whether gradients flow below what follows ``stage``, and its operations per token backward."""
    cost, inside = 0.0, reached
    for parent in stage.modules:
        for linear in _linears(parent):
            cost += 2.0 * linear.weight.numel() * (linear.weight.requires_grad + reached)
            inside = reached = reached or linear.weight.requires_grad
        reached = reached or any(parameter.requires_grad for parameter in parent.parameters())
    if stage.mixes_tokens and inside:  # a norm that trains behind attention needs nothing of attention's gradient
        cost += 8.0 * tokens * width
    return reached, cost


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [child for child in module.modules() if isinstance(child, nn.Linear)]
