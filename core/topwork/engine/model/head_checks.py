"""Try a head on random vectors, so that what would go wrong after hours of training does so before."""

import logging
import re
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from topwork.engine.model.checked_head import denominator_of, part_errors, texts
from topwork.engine.model.plugin_checks import METRIC_NAME, plugin_of
from topwork.errors import PluginError, describe, text_of
from topwork.interfaces.head import Head, HeadConfig, Label, Reading
from topwork.interfaces.labels import NO_LABEL, Distribution, LabelSet, LabelSpace, Numbers, WordLabels, are_of_words

#: So many texts a head is tried on, and on one of each class where there are more classes.
TRIED_ROWS = (2, 1, 7)
MAX_TRIED_ROWS = 1000

#: How far a loss may be from the mean of its parts' losses, relatively.
TOLERANCE = 1e-3

logger = logging.getLogger(__name__)

#: What a head reads of N rows: vectors (N, W) or (N, 2, W); or those of words, (N, S, D), and their mask (N, S).
HeadInputs = tuple[Tensor, ...]

#: Builds a head that is held to its interface, each time with other initial weights.
BuildHead = Callable[[], Head]


def check_head(
    untouched: Head, build: BuildHead, config: HeadConfig, width: int, labels: LabelSpace, *, where: str
) -> None:
    """Try a head, before anything is encoded.

    Args:
        untouched: the head that is going to be trained, which is left as it is.
        build: builds the head of ``config``; what it builds is trained, and not used for anything else.
        where: the place of the head's settings, with which errors begin.

    Raises:
        PluginError: a part fails or gives what it should not; no gradient reaches the module; the loss has parameters
            of its own; something that the head gives depends on what is not saved; or it is not built anew, from
            torch's generator alone, each time.
    """
    head = build()
    check_built_anew(untouched, head, config, where=where)
    check_parts(head, config, width, labels, where=where)
    unreached = check_gradients(head, config, width, labels, where=where)
    if unreached:
        names = ", ".join(unreached[:3])
        logger.warning("%s: %s: no gradient reaches %s, so it will not be trained", where, plugin_of(config), names)
    check_restored(head, build(), config, width, labels, where=where)


def check_built_anew(one: Head, other: Head, config: HeadConfig, *, where: str) -> None:
    """Check that two heads that were built from the same seed have equal weights, but share none.

    Raises:
        PluginError: they do not.
    """
    states = one.module.state_dict(), other.module.state_dict()
    with part_errors(config, where, "build"):
        for name, tensor in states[0].items():
            again = states[1].get(name)
            if again is None or again.shape != tensor.shape or not torch.equal(again.nan_to_num(), tensor.nan_to_num()):
                raise PluginError(
                    f"built again from the same seed, its {name} is another; draw initial weights from torch's "
                    "generator only, and keep nothing from one build to the next"
                )
            if tensor.numel() and again.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr():
                raise PluginError(f"two heads share the memory of {name}; each build must make weights of its own")


@torch.no_grad()
def check_parts(head: Head, config: HeadConfig, width: int, labels: LabelSpace, *, where: str) -> None:
    """Try module, loss and decoding on 1, 2 and 7 texts and, like metrics and tuning, on texts of every class.

    Raises:
        PluginError: one fails or gives what it should not.
    """
    head.module.eval()
    with part_errors(config, where, "the names of metrics and figures"):
        check_names(head)
    for rows in (*TRIED_ROWS, _enough_rows(labels)):
        inputs, targets = _texts(rows, width, labels, config.reads)
        outputs = _run(head.module, inputs, targets, config, where)
        head.loss(outputs, targets)
        head.decode(outputs)
    for metric in head.metrics if len(labels.names) <= MAX_TRIED_ROWS else ():  # else some class has no text
        metric.total(metric.compute(outputs, targets))
    if head.tune:
        head.tune(outputs, targets)


def check_figures(build: BuildHead, config: HeadConfig, width: int, labels: LabelSpace) -> None:
    """Draw the figures of a head for texts of every class, and write their tables.

    Raises:
        PluginError: one cannot be drawn.
    """
    head = build()
    inputs, targets = _texts(_enough_rows(labels), width, labels, config.reads)
    with torch.no_grad():
        outputs = head.module.eval()(*inputs)
    for figure in head.figures:
        figure.draw(outputs, targets, labels)
        if figure.table:
            figure.table(outputs, targets, labels)


def check_pieces(
    build: BuildHead,
    config: HeadConfig,
    width: int,
    labels: LabelSpace,
    *,
    rows: int,
    labelled: int,
    batch_size: int,
    accumulation: int,
    where: str,
) -> None:
    """Try a head on the pieces that its training rows are going to be divided into.

    Args:
        rows: how many training rows there are.
        labelled: how many of them have a label for it. Where some have none, a piece may have one that does.

    Raises:
        PluginError: the module fails on one text in train mode, and there is such a piece; or the loss of a batch is
            not made up of the losses of its pieces, and there are several.
    """
    head = build()
    smallest = smallest_piece(rows, batch_size, accumulation) if labelled == rows else 1
    if smallest == 1 and (why := _why_not_one_text(head.module, width, labels, config.reads)):
        with part_errors(config, where, "the module"):
            if labelled < rows:
                raise PluginError(
                    f"its module cannot be trained on one text ({why}), but {labelled:,} of {rows:,} training rows "
                    "have a label for it, so that a batch may have one that does; use a norm that needs no batch"
                )
            raise PluginError(
                f"its module cannot be trained on one text ({why}), but {rows:,} training rows in batches of "
                f"{batch_size}{f', each in {accumulation} pieces,' if accumulation > 1 else ''} leave one alone; "
                "set training.batch_size so that none is left, or use a norm that needs no batch"
            )
    if accumulation > 1:
        if any(isinstance(module, nn.BatchNorm1d) for module in head.module.modules()):
            logger.warning(
                "%s: %s: its batch norm takes each of the %d pieces of a batch for a batch of its own, so training "
                "in pieces is another training; use nn.LayerNorm, or set training.accumulation: 1",
                where,
                plugin_of(config),
                accumulation,
            )
        inputs, targets = _texts(_enough_rows(labels), width, labels, config.reads)
        head.module.eval()
        with torch.no_grad():
            outputs = _run(head.module, inputs, targets, config, where)
        error = pieces_error(head, outputs + torch.randn_like(outputs), targets)
        if error:
            with part_errors(config, where, "the loss"):
                raise PluginError(f"{error}; or set training.accumulation: 1, in one process")


@torch.no_grad()
def pieces_error(head: Head, outputs: Float[Tensor, "N ..."], targets: Shaped[Tensor, "N ..."]) -> str:
    """Say how the loss of N texts differs from what the losses of each make up; nothing where it does not."""
    found = float(head.loss(outputs, targets))
    if found != float(head.loss(outputs, targets)):  # it draws random numbers
        return ""
    each = [float(head.loss(one, target)) for one, target in zip(outputs.split(1), targets.split(1), strict=True)]
    parts = [denominator_of(head, target, outputs.device) for target in targets.split(1)]
    whole = denominator_of(head, targets, outputs.device)
    expected = sum(loss * part for loss, part in zip(each, parts, strict=True) if part) / (whole or 1.0)
    if abs(found - expected) <= TOLERANCE * max(1.0, abs(expected)):
        return ""
    return (
        f"the loss of {len(targets)} texts is {found:.4g}, but the losses of each make up {expected:.4g}, so that a "
        "batch computed in pieces would be another step; if the loss divides by anything but the number of texts, such "
        "as by the sum of class weights, declare it as Head.denominator"
    )


def smallest_piece(rows: int, batch_size: int, accumulation: int) -> int:
    """Return how many rows the smallest piece has, where ``rows`` are taken in batches and each batch in pieces."""
    batches = {min(rows, batch_size), rows % batch_size} - {0}
    return min(max(1, batch // accumulation) for batch in batches)


def check_gradients(head: Head, config: HeadConfig, width: int, labels: LabelSpace, *, where: str) -> list[str]:
    """Check that the loss can train the module, and return the names of the parameters that it does not reach.

    Raises:
        PluginError: it reaches none, or parameters that are not the module's.
    """
    inputs, targets = _texts(_enough_rows(labels), width, labels, config.reads)
    inputs[0].requires_grad_()
    head.module.train()
    loss = head.loss(_run(head.module, inputs, targets, config, where), targets)
    reached = _leaves_of(loss)
    _go_back(loss, config, where)
    own = {id(inputs[0]), *map(id, head.module.parameters())}
    foreign = [leaf for leaf in reached.values() if id(leaf) not in own]
    trainable = {name: parameter for name, parameter in head.module.named_parameters() if parameter.requires_grad}
    unreached = [name for name, parameter in trainable.items() if parameter.grad is None]
    head.module.zero_grad()
    with part_errors(config, where, "the loss"):
        if foreign:
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in foreign[:3])
            raise PluginError(
                f"module and loss use {len(foreign)} tensors to train that are no parameters of the module (of shape "
                f"{shapes}), so that they would be neither trained nor saved; make them parameters of the head's module"
            )
        if trainable and len(unreached) == len(trainable):
            raise PluginError(
                "no gradient of the loss reaches the module's parameters, so that the head would not be trained; "
                "is the loss detached from the outputs?"
            )
    return unreached


def check_restored(head: Head, again: Head, config: HeadConfig, width: int, labels: LabelSpace, *, where: str) -> None:
    """Train a head for three steps, load its weights into another one, and check that both give the same.

    Raises:
        PluginError: they do not.
    """
    parameters = [parameter for parameter in head.module.parameters() if parameter.requires_grad]
    if parameters:
        optimizer = torch.optim.AdamW(parameters, lr=1e-2)
        head.module.train()
        for _ in range(3):
            inputs, targets = _texts(8, width, labels, config.reads)
            optimizer.zero_grad()
            loss = head.loss(_run(head.module, inputs, targets, config, where), targets)
            if not loss.isfinite():  # training says that, and keeps what it has
                break
            _go_back(loss, config, where)
            optimizer.step()
    with part_errors(config, where, "loading the module's weights"):
        try:
            again.module.load_state_dict(head.module.state_dict())
        except RuntimeError as error:  # of several lines
            raise PluginError(" ".join(text_of(error).split())) from error
    inputs, _ = _texts(_enough_rows(labels), width, labels, config.reads)
    trained, repeated, loaded = (results_of(one, inputs) for one in (head, head, again))
    if changed := differing_results(trained, repeated):
        with part_errors(config, where, "the module"):
            raise PluginError(
                f"in eval mode its {changed[0]} change from call to call; there it must draw no random numbers, "
                "as dropout does that is always on, and keep nothing from the last call"
            )
    if changed := differing_results(trained, loaded):
        with part_errors(config, where, "loading"):
            raise PluginError(
                f"after a few steps of training, its {changed[0]} cannot be had from its saved weights; what training "
                "changes must be parameters or buffers of the head's module, since nothing else is saved"
            )


#: What a head gives for some texts, by what it is.
Results = dict[str, Tensor | Sequence[Label] | None]


@torch.no_grad()
def results_of(head: Head, inputs: HeadInputs) -> Results:
    """Return what a head gives in eval mode for what it reads of N rows."""
    outputs = head.module.eval()(*inputs)
    decoded = head.decode(outputs)
    return {"outputs": outputs, "labels": decoded.labels, "probabilities": decoded.probabilities}


def differing_results(some: Results, others: Results) -> list[str]:
    """Return what is not the same to the last bit, where NaN equals NaN."""
    return [name for name in some if not _equal(some[name], others.get(name))]


def _equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.shape == other.shape and torch.equal(one.nan_to_num(), other.nan_to_num())
    return one == other


def check_names(head: Head) -> None:
    """Check that metrics and figures can be logged under their names.

    Raises:
        PluginError: a name occurs twice, or has other letters than it may have.
    """
    names, figures = [metric.name for metric in head.metrics], [figure.name for figure in head.figures]
    wrong_names = [
        name for name in names if name == "loss" or not re.fullmatch(METRIC_NAME, name) or names.count(name) > 1
    ]
    messages = []
    if wrong_names:
        messages.append(
            "metric names must differ, must not be `loss`, and have letters, digits, _ - . and spaces only, "
            f"got {', '.join(wrong_names)}"
        )
    if len(set(figures)) < len(figures) or not all(re.fullmatch(r"[\w-]+", name) for name in figures):
        messages.append(f"figure names must differ and have letters, digits, _ and - only, got {', '.join(figures)}")
    if messages:
        raise PluginError("\n".join(messages))


def _run(module: nn.Module, inputs: HeadInputs, targets: Tensor, config: HeadConfig, where: str) -> Tensor:
    """Return a module's outputs (N, C) for what it reads of N rows, or (N, S, C) where targets are of words."""
    rows = len(targets)
    items = targets.shape if are_of_words(targets) else targets.shape[:1]
    with part_errors(config, where, "the module"):
        outputs: object = module(*(one.clone() for one in inputs))  # it may write into them, as it may in training
        if not isinstance(outputs, Tensor) or outputs.ndim != len(items) + 1 or outputs.shape[:-1] != items:
            shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            wanted = f"({', '.join(map(str, items))}, C)"
            of_words = f" of up to {items[1]} words" if len(items) == 2 else ""
            raise PluginError(f"the module must give {wanted} for {texts(rows)}{of_words}, got {shape}")
    return outputs


def _go_back(loss: Tensor, config: HeadConfig, where: str) -> None:
    """Compute the gradients of a loss, where it has any."""
    if loss.requires_grad:
        with part_errors(config, where, "the gradient of the loss"):
            loss.backward()


def _leaves_of(result: Tensor) -> dict[int, Tensor]:
    """Return, by id, the tensors that a gradient of ``result`` reaches and that nothing computed."""
    found: dict[int, Tensor] = {}
    waiting, seen = [result.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(leaf := getattr(node, "variable", None), Tensor):  # a node that accumulates a leaf's gradient
            found[id(leaf)] = leaf
        waiting += [before for before, _ in node.next_functions]
    return found


def _why_not_one_text(module: nn.Module, width: int, labels: LabelSpace, reads: Reading) -> str:
    """Say why a module fails on one text in train mode though not on two; nothing where it does not."""
    module.train()
    try:
        module(*inputs_for(reads, targets_for(labels, 1), width))
    except Exception as error:  # a plugin may raise anything
        return describe(error)
    return ""


def inputs_for(reads: Reading, targets: Shaped[Tensor, "N ..."], width: int) -> HeadInputs:
    """Return what a head may read of N rows with these targets: random vectors."""
    rows = len(targets)
    if reads == "words":
        mask = targets != NO_LABEL if are_of_words(targets) else _are_words(rows)
        return torch.randn(*mask.shape, width), mask
    return (torch.randn(rows, 2, width) if reads == "two pooled" else torch.randn(rows, width),)


def _are_words(rows: int) -> Bool[Tensor, "N S"]:
    """Return a mask (N, S) of texts of one, two and three words in turn."""
    counts = torch.arange(rows) % 3 + 1
    return torch.arange(int(counts.max())) < counts[:, None]


def _texts(rows: int, width: int, labels: LabelSpace, reads: Reading) -> tuple[HeadInputs, Tensor]:
    """Random vectors of N texts, and targets (N, ...) of one class after the other, or of the label space."""
    targets = targets_for(labels, rows)
    return inputs_for(reads, targets, width), targets


def targets_for(labels: LabelSpace, rows: int) -> Shaped[Tensor, "N ..."]:
    """Return targets of a label space for N texts, in which every name occurs once there are as many texts."""
    names = len(labels.names)
    if isinstance(labels, WordLabels):
        mask = _are_words(rows)
        targets = torch.full(mask.shape, NO_LABEL)
        targets[mask] = torch.arange(int(mask.sum())) % names
        return targets
    number = torch.arange(rows) % names
    if isinstance(labels, Numbers):
        mean, scale = torch.tensor(labels.mean), torch.tensor(labels.scale)
        return (mean + scale * (torch.arange(rows) % 7 - 3.0)[:, None]).float()
    one_hot = torch.nn.functional.one_hot(number, names).float()
    if isinstance(labels, LabelSet):
        return (one_hot + one_hot.roll(1, dims=0)).clamp(max=1.0) * (torch.arange(rows) % 4 < 3)[:, None]
    if isinstance(labels, Distribution):
        return 0.75 * one_hot + 0.25 / names
    return number


def _enough_rows(labels: LabelSpace) -> int:
    """How many texts it takes to have one of every class, within bounds."""
    return max(TRIED_ROWS[-1], min(len(labels.names), MAX_TRIED_ROWS))
