"""Try a backbone and a pooling on two short texts, so that a wrong declaration is found before anything is encoded."""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor

from topwork.engine.model.multitask import MultiTaskModel, tensors_of
from topwork.engine.model.plugin_checks import check_built
from topwork.errors import PluginError, describe, enumerate_names
from topwork.interfaces.backbone import Backbone, BackboneConfig, Stage
from topwork.interfaces.pooling import Pooling

#: A shorter and a longer text.
SAMPLES = ("a", "a text of some more words")

#: How far float32 results may differ that should be equal but for rounding, relatively.
TOLERANCE = 1e-3


@torch.no_grad()
def check_backbone(backbone: Backbone) -> None:
    """Try each stage of a backbone on two texts, in eval mode.

    Raises:
        PluginError: its tokenizer, architecture or stages are not what the interface says; says which, and how.
    """
    if not isinstance(backbone.tokenizer, Tokenizer):
        raise PluginError(
            f"the tokenizer must be a tokenizers.Tokenizer, got a {type(backbone.tokenizer).__name__}; "
            "of one of transformers give its backend_tokenizer"
        )
    for name, value in backbone.architecture().items():
        if not isinstance(value, str | int | float):
            raise PluginError(
                f"architecture must hold texts, numbers and booleans only, but {name} is {value!r:.60} of type "
                f"{type(value).__name__}; write str(...)"
            )
    check_stages(backbone)
    mode = backbone.training
    backbone.eval()
    hidden, mask = sample(backbone.tokenizer)
    for number, stage in enumerate(backbone.stages()):
        after = _run(stage, hidden, mask, backbone.width)
        if not after.isfinite().all():
            raise PluginError(f"stage {stage.name} gives what is not a finite number, at padding or elsewhere")
        if not torch.equal(after, stage.run(hidden, mask)):
            raise PluginError(
                f"stage {stage.name} gives other results for the same texts when it runs again; in eval mode it must "
                "not draw random numbers or keep anything from before"
            )
        check_stage(stage, hidden, mask, after, first=number == 0)
        hidden = after
    backbone.train(mode)


def check_stage(stage: Stage, hidden: Tensor, mask: Tensor, after: Tensor, *, first: bool) -> None:
    """Check what a stage says of itself on two texts, the shorter first.

    Args:
        hidden, mask: its input, (B, T, D) or, for the first stage, (B, T).
        after: its result for them.

    Raises:
        PluginError: padding changes a text, or tokens are mixed where the stage says that they are not.
    """
    length = int(mask[0].sum())
    if length < mask.shape[1] and _differ(stage.run(hidden[:1, :length], mask[:1, :length]), after[:1, :length]):
        raise PluginError(
            f"stage {stage.name} gives other results for a text that is padded than for the text alone; it must not "
            "read what the mask leaves out"
        )
    if not first and not stage.mixes_tokens and _differ(stage.run(hidden[:, 1:2], mask[:, 1:2]), after[:, 1:2]):
        raise PluginError(
            f"stage {stage.name} says that it does not mix tokens, but its result for a token changes with the other "
            "tokens or the position; declare mixes_tokens=True"
        )
    if stage.run_first_token is not None and _differ(stage.run_first_token(hidden, mask), after[:, :1]):
        raise PluginError(f"run_first_token of stage {stage.name} gives something else than run for the first token")


def check_stages(backbone: Backbone) -> None:
    """Check that each parameter and each buffer belongs to exactly one stage.

    Raises:
        PluginError: names those that do not.
    """
    owners: dict[int, list[str]] = {}
    for stage in backbone.stages():
        tensors = [tensor for module in stage.modules for _, tensor in tensors_of(module)]
        for identity in {id(tensor) for tensor in tensors}:
            owners.setdefault(identity, []).append(stage.name)
    wrong = [name for name, tensor in tensors_of(backbone) if len(owners.get(id(tensor), [])) != 1]
    if wrong:
        raise PluginError(
            f"each parameter and buffer must belong to exactly one stage, but these do not: {enumerate_names(wrong)}"
        )


def check_restorable(backbone: Backbone, config: BackboneConfig) -> None:
    """Save a backbone as a trained model does, and restore it.

    Raises:
        PluginError: ``restore`` fails on what ``save`` wrote, or gives another backbone.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        backbone.save(folder)
        try:
            restored = _restore(config, folder)
        except Exception as error:  # a plugin may raise anything
            written = ", ".join(sorted(path.name for path in folder.iterdir())) or "nothing"
            raise PluginError(
                f"a saved model could not be loaded: restore fails on what save wrote, which is {written}: "
                f"{describe(error)}"
            ) from error
    check_built(restored, Backbone)
    shapes, found = ([(name, tuple(tensor.shape)) for name, tensor in tensors_of(one)] for one in (backbone, restored))
    if wrong := sorted(set(shapes) ^ set(found)):
        raise PluginError(
            f"a saved model could not be loaded: restore gives a backbone with other weights than build, such as "
            f"{wrong[0][0]}"
        )
    if restored.tokenizer.to_str() != backbone.tokenizer.to_str():
        raise PluginError("a saved model would read other tokens: restore gives another tokenizer than build")


def _restore(config: BackboneConfig, folder: Path) -> Backbone:
    try:
        with torch.device("meta"):  # without memory, and without the time that random weights take
            return config.restore(folder)
    except Exception:  # what it does may need real tensors
        return config.restore(folder)


@torch.no_grad()
def check_pooling(pooling: Pooling, width: int) -> None:
    """Try a pooling on a text of two tokens and one of three, in eval mode.

    Raises:
        PluginError: the result is not as wide as it says, or depends on padding or, though it says that it does not, on
            other tokens than the first; or it reads chosen layers, and what pools each of them trains.
    """
    pooling.eval()
    hidden, mask = torch.randn(2, 3, width), torch.arange(3) < torch.tensor([[2], [3]])
    pooled = check_pooled(pooling(hidden, mask), width if pooling.layers else pooling.width)
    if pooling.layers:
        check_layers(pooling, pooled, hidden, mask)
    if not torch.equal(pooling(hidden, mask), pooled):
        raise PluginError(
            "in eval mode the pooled vector changes from call to call; there it must draw no random numbers"
        )
    others = torch.randn(2, 3, width)
    if _differ(pooling(torch.where(mask[:, :, None], hidden, others), mask), pooled):
        raise PluginError("the pooled vector changes with what stands at padding; leave out what the mask leaves out")
    if _differ(pooling(hidden[:1, :2], mask[:1, :2]), pooled[:1]):
        raise PluginError("the pooled vector of a text changes with the length of its padding, or with the other texts")
    if pooling.reads_first_token_only and (
        _differ(pooling(torch.cat([hidden[:, :1], others[:, 1:]], dim=1), mask), pooled)
        or _differ(pooling(hidden[:, :1], mask[:, :1]), pooled)
    ):
        raise PluginError("it says reads_first_token_only, but the pooled vector changes with other tokens")


def check_pooled(pooled: object, width: int) -> Tensor:
    """Return the pooled vectors of two texts.

    Raises:
        PluginError: they are not (2, ``width``).
    """
    if not isinstance(pooled, Tensor) or pooled.shape != (2, width):
        found = tuple(pooled.shape) if isinstance(pooled, Tensor) else type(pooled).__name__
        raise PluginError(f"a pooling of width {width} must give (2, {width}) for 2 texts, got {found}")
    return pooled


def check_layers(pooling: Pooling, pooled: Tensor, hidden: Tensor, mask: Tensor) -> None:
    """Check what a pooling that reads chosen layers makes of one, and of all.

    Args:
        pooled: what it gave for ``hidden`` with ``mask``.

    Raises:
        PluginError: what pools one trains, or draws random numbers in train mode; or all combined have not the width
            that the pooling says.
    """
    check_pooled(pool_of_layers(pooling, hidden, mask), pooling.width)
    pooling.train()
    with torch.enable_grad():
        in_training = pooling(hidden, mask)
    pooling.eval()
    if in_training.requires_grad or not torch.equal(in_training, pooled):
        raise PluginError(
            "it reads chosen layers, so forward must have nothing that trains or is drawn at random, since a frozen "
            "layer is pooled once; put that into combine"
        )


def pool_of_layers(pooling: Pooling, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the pooled vectors (B, W) of texts whose hidden states (B, T, D) are the same at every layer."""
    pooled: Tensor = pooling(hidden, mask)
    return pooling.combine(torch.stack([pooled] * len(pooling.layers), dim=1)) if pooling.layers else pooled


def passes_gradients(pooling: Pooling, width: int) -> bool:
    """Whether a pooling lets what is before it be trained."""
    hidden = torch.randn(2, 3, width, requires_grad=True)
    pooled = pool_of_layers(pooling.eval(), hidden.clone(), torch.ones(2, 3, dtype=torch.bool))
    if pooled.requires_grad:
        pooled.sum().backward()
    pooling.zero_grad()
    return hidden.grad is not None


def untrained_stages(model: MultiTaskModel, trained: Collection[str]) -> list[str]:
    """Return the stages with parameters in ``trained`` of which no gradient of a pooled vector reaches any.

    Leaves the model in eval mode, with ``trained`` unfrozen.

    Raises:
        PluginError: the pooled vectors are not of float32.
    """
    model.set_trainable([name for name in trained if name.startswith("backbone.")])
    model.eval()
    ids, mask = sample(model.backbone.tokenizer)
    device = next(model.parameters()).device
    hidden = model.run_prefix(ids.to(device), mask.to(device))
    if hidden.is_floating_point():
        hidden = hidden.float()  # as activations are
    of_kept = model.cut.mask(mask).to(device)
    pooled = model.pool(hidden, of_kept)
    if pooled.dtype != torch.float32:
        raise PluginError(f"what trains must be of float32, but the pooled vectors are of {pooled.dtype}")
    read = pooled.sum()
    if model.reads_words:
        read = read + model.run_suffix(hidden, of_kept)[0].sum()
    if read.requires_grad:
        read.backward()
    found = []
    for stage in model.backbone.stages():
        parameters = [p for module in stage.modules for p in module.parameters() if p.requires_grad]
        if parameters and not any(parameter.grad is not None for parameter in parameters):
            found.append(stage.name)
    model.zero_grad()
    return found


def sample(tokenizer: Tokenizer, texts: Sequence[str] = SAMPLES) -> tuple[Tensor, Tensor]:
    """Return token ids (B, T) and mask (B, T) of some texts, the shortest first, padded with their last token.

    Where the tokenizer has no tokens for one, being for another alphabet, others of its tokens stand for it.
    """
    any_tokens = sorted(tokenizer.get_vocab().values())
    encoded = sorted((_token_ids(tokenizer, text) or any_tokens[: len(text.split())] for text in texts), key=len)
    longest = len(encoded[-1])
    ids = torch.tensor([sequence + sequence[-1:] * (longest - len(sequence)) for sequence in encoded])
    return ids, torch.tensor([[position < len(sequence) for position in range(longest)] for sequence in encoded])


def _token_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    try:
        return tokenizer.encode(text).ids
    except Exception:  # tokenizers raises nothing narrower
        return []


def _run(stage: Stage, hidden: Tensor, mask: Tensor, width: int) -> Tensor:
    after: object = stage.run(hidden, mask)
    expected = (*mask.shape, width)
    if not isinstance(after, Tensor):
        raise PluginError(f"stage {stage.name} must give a tensor, got a {type(after).__name__}")
    if after.shape != expected:
        raise PluginError(f"stage {stage.name} must give hidden states {expected}, got {tuple(after.shape)}")
    return after


def _differ(some: Tensor, others: Tensor) -> bool:
    tolerance = max(TOLERANCE, 8 * torch.finfo(others.dtype).eps)
    return some.shape != others.shape or bool(
        (some - others).abs().max() > tolerance * max(1.0, float(others.abs().max()))
    )
