"""A model of transformers run layer by layer, each layer handed what the model's own forward would hand it.

Nothing of an architecture is written again. The model's forward runs once with placeholders in the place of its layers,
which note what they are handed besides the hidden state: masks, position biases, rotary tables. With that, each layer
runs by itself. A model whose layers, run so, do not give the same bits as its own forward is refused.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

#: What a model is tried with: so many texts, of so many tokens, of which half have only so many.
SHAPES = ((2, 7, 4), (64, 12, 12))


class Placeholder(nn.Module):
    """Stands in for a layer: notes what it is handed, and gives a hidden state back in the layer's form.

    Args:
        layer: whose attributes it has.
        extra: how many things the layer returns behind the hidden state; None where it returns that alone.
    """

    def __init__(self, layer: nn.Module, extra: int | None) -> None:
        super().__init__()
        self.__dict__["layer"] = layer  # past torch's registry, so that its parameters are not ours
        self.extra = extra
        self.given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self.result: Tensor | None = None

    def __getattr__(self, name: str) -> Any:  # what models read off their layers, such as the kind of attention
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["layer"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.given = args, kwargs
        hidden = _hidden_of(args, kwargs) if self.result is None else self.result
        return hidden if self.extra is None else (hidden, *[None] * self.extra)


class LayeredModel:
    """A model of transformers, and how to run its layers one by one.

    Args:
        model: in eval mode.
        tokens: the ids of some tokens that are no padding.

    Attributes:
        before: the modules that run before the layers, or are read by them all.
        layers: as the model has them.
        after: the modules that run after the layers.
        divided: the numbers of the layers that are an attention and a feed-forward network, one after the other.

    Raises:
        ValueError: it has no list of layers, or does not give the same bits when they run one by one.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Module, tokens: Sequence[int]) -> None:
        self.model = model
        self.tokens = tokens
        self._parent, self._name, self.layers = find_layers(model)
        self._noted_for: Tensor | None = None
        kinds = [type(module) for module in model.modules()]
        extras, order = self._observe()
        if kinds != [type(module) for module in model.modules()]:  # as BigBird does, for short texts
            raise ValueError("a forward pass exchanges its modules, so that one text changes what others get")
        self._placeholders = [Placeholder(layer, extra) for layer, extra in zip(self.layers, extras, strict=True)]
        drop_unread(model, self.layers, self._read(), order)
        roots = list(_roots(model, self.layers))
        last = max(number for number, module in enumerate(order) if module is self.layers[-1])
        self.after = [root for root in roots if not _runs(root, order[:last]) and _runs(root, order[last:])]
        self.before = [root for root in roots if root not in self.after]
        self.divided = {number for number in range(len(self.layers)) if self._is_divided(number)}
        self._check()

    def embed(self, token_ids: Tensor, mask: Tensor, **more: Tensor) -> Tensor:
        """Return the hidden states (B, T, D) that enter the first layer, and note what every layer is handed."""
        with self._replaced():
            self.model(input_ids=token_ids, attention_mask=mask.long(), **more)
        self._noted_for = mask
        hidden: Tensor = _hidden_of(*self._placeholders[0].given)
        return hidden

    def run_layer(self, number: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run one layer on hidden states (B, T, D)."""
        if self._noted_for is not mask:
            with torch.no_grad():
                self.embed(self._any_ids(mask), mask)
        args, kwargs = self._placeholders[number].given
        layer = self.layers[number]
        found = layer(hidden, *args[1:], **kwargs) if args else layer(**{**kwargs, "hidden_states": hidden})
        after: Tensor = found[0] if isinstance(found, tuple) else found
        return after

    def attend(self, number: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run one layer on hidden states (B, T, D) up to its feed-forward network."""
        layer = self.layers[number]
        assert isinstance(layer.intermediate, nn.Module)
        hook = layer.intermediate.register_forward_pre_hook(_stop)
        try:
            self.run_layer(number, hidden, mask)
        except StoppedError as stopped:
            return stopped.hidden
        finally:
            hook.remove()
        raise RuntimeError("the layer has not run its feed-forward network")

    def feed_forward(self, number: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run the feed-forward network of one layer on hidden states (B, T, D)."""
        layer: Any = self.layers[number]
        after: Tensor = layer.output(layer.intermediate(hidden), hidden)
        return after

    def finish(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Run what follows the last layer, such as a norm, on hidden states (B, T, D)."""
        last = self._placeholders[-1]
        last.result = hidden
        try:
            with self._replaced():
                return self._whole(self._any_ids(mask), mask)
        finally:
            last.result = None

    def _whole(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Return what the model's own forward pass gives, (B, T, D)."""
        found = self.model(input_ids=token_ids, attention_mask=mask.long())
        result: Tensor = found[0] if isinstance(found, tuple) else found.last_hidden_state
        return result

    def _observe(self) -> tuple[list[int | None], list[nn.Module]]:
        """Return how many things each layer gives behind the hidden state, and all modules in the order they end in."""
        results: dict[nn.Module, Any] = {}
        order: list[nn.Module] = []

        def note(module: nn.Module, args: Any, result: Any) -> None:
            order.append(module)
            if module in self.layers:
                if module in results:
                    raise ValueError("its layers run several times in one forward pass")
                results[module] = result

        hooks = [module.register_forward_hook(note) for module in self.model.modules()]
        try:
            ids, mask = _sample(2, 7, 7, self.tokens)
            self.model(input_ids=ids, attention_mask=mask.long())
        finally:
            for hook in hooks:
                hook.remove()
        if len(results) < len(self.layers):
            raise ValueError(f"of its {len(self.layers)} layers {len(results)} run in a forward pass")
        found = [results[layer] for layer in self.layers]
        return [len(result) - 1 if isinstance(result, tuple) else None for result in found], order

    def _read(self) -> set[int]:
        """Return the ids of the parameters that a forward pass reads: of those, its result has gradients."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        with torch.enable_grad():
            total = self._whole(*_sample(2, 7, 7, self.tokens)).square().sum()
        found: Sequence[Tensor | None] = torch.autograd.grad(total, parameters, allow_unused=True)
        return {id(parameter) for parameter, gradient in zip(parameters, found, strict=True) if gradient is not None}

    def _is_divided(self, number: int) -> bool:
        """Whether a layer is an attention and a feed-forward network, one after the other, to the last bit."""
        children = dict(self.layers[number].named_children())
        if not {"attention", "intermediate", "output"} <= children.keys():
            return False
        ids, mask = _sample(64, 12, 12, self.tokens)
        hidden = torch.randn(self.embed(ids, mask).shape, generator=torch.Generator().manual_seed(number))
        try:
            halves = self.feed_forward(number, self.attend(number, hidden, mask), mask)
        except (TypeError, RuntimeError):  # they are called in some other way
            return False
        return torch.equal(halves, self.run_layer(number, hidden, mask))

    def _check(self) -> None:
        """Check that the layers run one by one give what the model gives, to the last bit.

        Raises:
            ValueError: they do not.
        """
        for texts, length, shorter in SHAPES:
            ids, mask = _sample(texts, length, shorter, self.tokens)
            whole = self._whole(ids, mask)
            alone = self._whole(ids[:1, :shorter], mask[:1, :shorter])
            if not torch.allclose(whole[:1, :shorter], alone, atol=1e-3, rtol=1e-3):
                raise ValueError("a text gives something else when it is padded")
            expected = whole[mask]
            hidden = self.embed(ids, mask)
            if hidden.shape[:2] != ids.shape:
                raise ValueError(f"it pads texts by itself: {length} tokens become {hidden.shape[1]}")
            for number in range(len(self.layers)):
                hidden = self.run_layer(
                    number, hidden, mask.clone()
                )  # handed what any other texts of these lengths are
            found = self.finish(hidden, mask)[mask] if self.after else hidden[mask]
            if not torch.equal(found, expected):
                worst = float((found - expected).abs().max())
                raise ValueError(
                    f"its layers, run one by one, give something else than its forward pass, by {worst:.0e}"
                )

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        """Have the placeholders in the place of the layers."""
        setattr(self._parent, self._name, nn.ModuleList(self._placeholders))
        try:
            yield
        finally:
            setattr(self._parent, self._name, self.layers)

    def _any_ids(self, mask: Tensor) -> Tensor:
        """Token ids (B, T) of texts with a mask: what layers are handed does not depend on which they are."""
        return torch.full(mask.shape, self.tokens[0], dtype=torch.long, device=mask.device)


class StoppedError(Exception):
    """A layer has come to its feed-forward network; carries the hidden state (B, T, D) there."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


def _stop(module: nn.Module, args: tuple[Tensor, ...]) -> None:
    raise StoppedError(args[0])


def find_layers(model: nn.Module) -> tuple[nn.Module, str, nn.ModuleList]:
    """Return the module that holds a model's layers, their name there, and the list: the one that weighs most.

    Raises:
        ValueError: there is no list of two or more.
    """
    lists = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) > 1
    ]
    if not lists:
        raise ValueError("it has no list of several layers")
    return max(lists, key=lambda found: sum(parameter.numel() for parameter in found[2].parameters()))


def _roots(module: nn.Module, layers: nn.ModuleList) -> Iterator[nn.Module]:
    """Yield the largest modules that hold nothing of the layers.

    Raises:
        ValueError: parameters or buffers lie beside the layers, in no module of their own.
    """
    if module is layers:
        return
    if layers not in module.modules():
        if next(module.parameters(), None) is not None or next(module.buffers(), None) is not None:
            yield module
        return
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    if own:
        raise ValueError(f"{own[0][0]} lies beside its layers, in no module of its own")
    for child in module.children():
        yield from _roots(child, layers)


def drop_unread(module: nn.Module, layers: nn.ModuleList, read: set[int], order: list[nn.Module]) -> None:
    """Remove what is beside the layers and has no part in the result, such as what is for other kinds of input.

    Parameters that have, but without a gradient, such as a table of sines, are made buffers.
    """
    for name, child in module.named_children():
        if child is layers:
            continue
        if layers in child.modules():
            drop_unread(child, layers, read, order)
        elif not any(id(parameter) in read for parameter in child.parameters()):
            if not _runs(child, order):
                setattr(module, name, None)
            for part in child.modules():
                make_buffers(part)


def make_buffers(module: nn.Module) -> None:
    """Make buffers of a module's own parameters."""
    for name, parameter in list(module.named_parameters(recurse=False)):
        delattr(module, name)
        module.register_buffer(name, parameter.data)


def _runs(root: nn.Module, order: list[nn.Module]) -> bool:
    """Whether any part of a module is among those that ran."""
    parts = set(root.modules())
    return any(module in parts for module in order)


def _hidden_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else kwargs["hidden_states"]


def _sample(texts: int, length: int, shorter: int, tokens: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Token ids (B, T) of some tokens in turn, and a mask (B, T) by which half of the texts are shorter."""
    ids = torch.tensor(tokens)[torch.arange(texts * length).reshape(texts, length) % len(tokens)]
    mask = torch.ones(texts, length, dtype=torch.bool)
    mask[: texts // 2, shorter:] = False
    return ids, mask
