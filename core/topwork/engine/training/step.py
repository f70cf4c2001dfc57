"""One step: the losses of a batch, and the gradients that they give."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from topwork.engine.data_parallel import Processes, errors_of_lost_processes, processes_of
from topwork.engine.encoding.examples import Examples
from topwork.engine.model.checked_head import denominator_of
from topwork.engine.model.multitask import MultiTaskModel
from topwork.errors import PluginError
from topwork.interfaces.head import Head
from topwork.interfaces.loss_weighting import GradientWeighting, LossWeighting

Weighting = LossWeighting | GradientWeighting


@dataclass(frozen=True)
class Piece:
    """A part of a batch that is computed at once, or this process's share of it.

    Attributes:
        rows: of it, (B,).
        targets: for each task that has labels of some rows, those of its rows, on the device.
        shares: for each task that has labels of some rows, how much the mean loss over this piece counts in the mean
            loss over the batch.
    """

    rows: Int[Tensor, " B"]
    targets: dict[str, Shaped[Tensor, "_L ..."]]
    shares: dict[str, float]


@dataclass(frozen=True)
class Step:
    """What a batch gave.

    Attributes:
        losses: the mean loss of each task that has labels of some rows.
        denominators: for the same tasks, what that mean is divided by.
        factors: for the same tasks, the derivative of the total by the task's loss, where factors change.
    """

    losses: dict[str, float]
    denominators: dict[str, float]
    factors: dict[str, float]


@dataclass(frozen=True)
class JointLoss:
    """The losses of a model's tasks, made one.

    Attributes:
        wrapped: ``model`` as accelerate runs it where gradients are computed: those of all processes.
        weighting: what makes one total of the losses, or one gradient of theirs.
        loss_weights: the factor of each task's loss before the weighting.
        accumulation: in how many pieces a batch is computed.
    """

    wrapped: nn.Module
    model: MultiTaskModel
    weighting: Weighting
    loss_weights: Mapping[str, float]
    accumulation: int
    accelerator: Accelerator

    @property
    def processes(self) -> Processes:
        """The processes that compute a batch together."""
        return processes_of(self.accelerator)

    def backward(self, examples: Examples, rows: Int[Tensor, " B"]) -> Step:
        """Add the gradients of one batch.

        A task of which no row has a label takes no part: its head gets no gradient.
        """
        pieces, denominators = self._divide(examples, rows)
        if isinstance(self.weighting, GradientWeighting):
            gradients, losses = self._gradients_by_task(examples, pieces, denominators, into_heads=True)
            self._set_shared_gradients(self.weighting, gradients)
            return Step(losses, denominators, {})
        if len(pieces) == 1 and self.processes.count == 1:
            losses, factors = self._backward_at_once(self.weighting, examples, pieces[0])
        else:
            losses, factors = self._backward_in_pieces(self.weighting, examples, pieces, denominators)
        return Step(losses, denominators, {name: float(factor) for name, factor in factors.items()})

    def gradients(self, examples: Examples, rows: Int[Tensor, " B"]) -> dict[str, Float[Tensor, " P"]]:
        """Return the gradient of each task's loss over a batch by the P shared numbers that train.

        Empty where none trains in this epoch. Nothing else changes: neither gradients of parameters, nor buffers, nor
        the random numbers that come next.
        """
        device, model = self.accelerator.device, self.model
        if not shared_parameters(model):
            return {}  # in this epoch nothing that tasks share trains
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            found, _ = self._gradients_by_task(examples, *self._divide(examples, rows), into_heads=False)
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])
        return found

    def after_step(self, examples: Examples, rows: Int[Tensor, " B"]) -> None:
        """Let a weighting that reads the batch's losses after the step have them."""
        if isinstance(self.weighting, LossWeighting) and self.weighting.reads_losses_after_step:
            losses = self._scaled(self._losses_of_batch(examples, *self._divide(examples, rows)))
            self.model.running = ("weighting",)
            if losses:
                self.weighting.after_step(losses)

    def total(self, losses: Mapping[str, float]) -> float:
        """Return the total of losses of whole epochs or splits, which those of other epochs can be compared with.

        Where the factors of losses change, the total is that of the losses as the weighting gets them.
        """
        has_state = bool(self.weighting.state_dict())  # which is on the device, in single precision
        device, dtype = (self.accelerator.device, torch.float32) if has_state else (torch.device("cpu"), torch.float64)
        scaled = self._scaled({name: torch.tensor(one, dtype=dtype, device=device) for name, one in losses.items()})
        if isinstance(self.weighting, LossWeighting) and self.weighting.factors_from == "settings":
            return float(self.weighting(scaled))
        return float(sum(scaled.values()))

    def _divide(self, examples: Examples, rows: Int[Tensor, " B"]) -> tuple[list[Piece], dict[str, float]]:
        return divide_batch(
            self.model.tasks, examples, rows, self.accumulation, self.accelerator.device, self.processes
        )

    def _scaled(self, losses: Mapping[str, Float[Tensor, ""]]) -> dict[str, Float[Tensor, ""]]:
        weights = self.loss_weights
        return {name: loss if weights[name] == 1 else weights[name] * loss for name, loss in losses.items()}

    def _backward_at_once(
        self, weighting: LossWeighting, examples: Examples, piece: Piece
    ) -> tuple[dict[str, float], dict[str, Float[Tensor, ""]]]:
        """Add the gradients of a batch; return its losses, and their factors where these change."""
        losses = self._losses_of_piece(self.wrapped, examples, piece)
        scaled = self._scaled(losses)
        if not scaled:
            return {}, {}
        changing = weighting.factors_from != "settings"
        for loss in scaled.values() if changing else ():
            loss.retain_grad()
        self.model.running = ("weighting",)
        self.accelerator.backward(checked_total(weighting(scaled)))
        factors = {name: loss.grad for name, loss in scaled.items() if loss.grad is not None} if changing else {}
        return {name: loss.item() for name, loss in losses.items()}, factors

    def _backward_in_pieces(
        self,
        weighting: LossWeighting,
        examples: Examples,
        pieces: Sequence[Piece],
        labelled: Collection[str],
    ) -> tuple[dict[str, float], dict[str, Float[Tensor, ""]]]:
        """Do the same piece by piece. The factors come first, since each piece needs those of the whole batch."""
        factors = self._factors(weighting, examples, pieces, labelled)
        sums = dict.fromkeys(factors, 0.0)
        for number, piece in enumerate(pieces):
            with self.accelerator.no_sync(self.wrapped) if number < len(pieces) - 1 else nullcontext():
                losses = self._losses_of_piece(self.wrapped, examples, piece)
                if losses:
                    total = sum(factors[name] * loss for name, loss in self._scaled(losses).items())
                    with errors_of_lost_processes():  # what comes of it is the mean of all processes
                        self.accelerator.backward(total if self.processes.count == 1 else self.processes.count * total)
            for name, loss in losses.items():
                sums[name] += loss.item()
        sums = self._sums_of_processes(sums)
        if sums and (own := list(weighting.parameters())):
            device = self.accelerator.device
            total = weighting(self._scaled({name: torch.tensor(loss, device=device) for name, loss in sums.items()}))
            torch.autograd.backward(total, inputs=own)
        return sums, {} if weighting.factors_from == "settings" else factors

    def _factors(
        self,
        weighting: LossWeighting,
        examples: Examples,
        pieces: Sequence[Piece],
        labelled: Collection[str],
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the factors of the losses of a batch before its gradients are computed.

        Where they depend on its losses, these are computed twice, with the same random numbers.

        Args:
            labelled: the tasks that have labels in the batch.
        """
        device = self.accelerator.device
        losses = {name: torch.ones((), device=device) for name in labelled}
        if weighting.factors_from == "losses":
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                losses = self._losses_of_batch(examples, pieces, labelled)
        if not losses:
            return {}
        scaled = {name: loss.detach().requires_grad_() for name, loss in self._scaled(losses).items()}
        self.model.running = ("weighting",)
        total = checked_total(weighting(scaled))
        found: Sequence[Tensor | None] = torch.autograd.grad(total, list(scaled.values()), allow_unused=True)
        factors = {
            name: torch.zeros((), device=device) if factor is None else factor
            for name, factor in zip(scaled, found, strict=True)
        }
        if self.processes.count > 1:  # a weighting may draw random numbers, of which each process has its own
            of_main = self.processes.from_main(torch.stack(list(factors.values())))
            return dict(zip(factors, of_main.unbind(), strict=True))
        return factors

    def _losses_of_piece(self, model: nn.Module, examples: Examples, piece: Piece) -> dict[str, Float[Tensor, ""]]:
        """Return what a piece adds to the mean loss of each task over the batch.

        Args:
            model: ``wrapped`` where all processes compute gradients of what is returned at once, else the model itself.
        """
        if not piece.shares:
            return {}
        batch, device = examples.batch(piece.rows), self.accelerator.device
        inputs = batch.inputs
        if self.processes.count > 1:  # who computes gradients together must use all that comes out
            inputs = {name: inputs[name] for name in piece.shares}
        with errors_of_lost_processes():
            outputs = model(batch.hidden.to(device), batch.mask.to(device), inputs, batch.windows)
        return {
            name: share * self.model.tasks[name].loss(outputs[name], piece.targets[name])
            for name, share in piece.shares.items()
        }

    @torch.no_grad()
    def _losses_of_batch(
        self, examples: Examples, pieces: Sequence[Piece], labelled: Collection[str]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the mean loss of each task over a batch, without gradients."""
        sums: dict[str, Tensor] = {}
        for piece in pieces:
            for name, loss in self._losses_of_piece(self.model, examples, piece).items():
                sums[name] = sums[name] + loss if name in sums else loss
        return self.processes.sum_by_name(sums, list(labelled))

    def _sums_of_processes(self, losses: Mapping[str, float]) -> dict[str, float]:
        """Return losses of a batch of which each process has computed a part."""
        if self.processes.count == 1:
            return dict(losses)
        summed = self.processes.sum(torch.tensor(list(losses.values()), dtype=torch.float64))
        return dict(zip(losses, summed.tolist(), strict=True))

    def _gradients_by_task(
        self, examples: Examples, pieces: Sequence[Piece], labelled: Collection[str], *, into_heads: bool
    ) -> tuple[dict[str, Float[Tensor, " P"]], dict[str, float]]:
        """Return the gradient of each task's loss over a batch by the P shared numbers that train, and the losses.

        Args:
            labelled: the tasks that have labels in the batch.
            into_heads: whether each head's parameters get the gradient of its own loss.
        """
        shared = shared_parameters(self.model)
        gradients: dict[str, Tensor] = {}
        sums: dict[str, float] = {}
        for piece in pieces:
            losses = self._losses_of_piece(self.model, examples, piece)
            for number, (name, loss) in enumerate(self._scaled(losses).items(), 1):
                own = [one for one in self.model.heads[name].parameters() if one.requires_grad] if into_heads else []
                found = torch.autograd.grad(loss, [*shared, *own], retain_graph=number < len(losses), allow_unused=True)
                for parameter, gradient in zip(own, found[len(shared) :], strict=True):
                    if gradient is not None:
                        parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
                flat = flat_gradient(shared, found)
                gradients[name] = gradients[name] + flat if name in gradients else flat
                sums[name] = sums.get(name, 0.0) + losses[name].item()
        if self.processes.count > 1:
            none = flat_gradient(shared, [None] * len(shared))
            gradients = {name: self.processes.sum(gradients.get(name, none)) for name in labelled}
            sums = self._sums_of_processes({name: sums.get(name, 0.0) for name in labelled})
            for name in labelled if into_heads else ():
                sum_gradients(list(self.model.heads[name].parameters()), self.processes)
        return {name: gradients[name] for name in self.model.tasks if name in gradients}, sums

    def _set_shared_gradients(self, weighting: GradientWeighting, gradients: Mapping[str, Float[Tensor, " P"]]) -> None:
        """Let a weighting make one gradient of those of the tasks, and give each shared parameter its part."""
        shared = shared_parameters(self.model)
        if not gradients or not shared:
            return
        self.model.running = ("weighting",)
        combined = checked_gradient(weighting(torch.stack(list(gradients.values())), list(gradients)), gradients)
        combined = self.processes.from_main(combined)  # it may draw random numbers, of which each process has its own
        for parameter, part in zip(shared, combined.split([one.numel() for one in shared]), strict=True):
            parameter.grad = part.view_as(parameter).to(parameter.dtype)


def divide_batch(
    tasks: Mapping[str, Head],
    examples: Examples,
    rows: Int[Tensor, " B"],
    accumulation: int,
    device: torch.device,
    processes: Processes,
) -> tuple[list[Piece], dict[str, float]]:
    """Divide a batch into pieces; return them, and what each task's mean loss over the whole batch is divided by.

    The pieces are the same whatever the number of processes, and of each a process takes its share.
    """
    divided = [piece for piece in rows.tensor_split(accumulation) if len(piece)]
    targets = [{name: one.to(device) for name, one in examples.batch_targets(piece).items()} for piece in divided]
    parts = [{name: denominator_of(tasks[name], one, device) for name, one in of_piece.items()} for of_piece in targets]
    sums = {name: sum(part.get(name, 0.0) for part in parts) for name in tasks}
    denominators = {name: denominator for name, denominator in sums.items() if denominator}
    if processes.count > 1:
        shares = [share_of_piece(tasks, examples, piece, denominators, device, processes) for piece in divided]
        return [share for share in shares if share is not None], denominators
    pieces = [
        Piece(piece, of_piece, {name: part / denominators[name] for name, part in of_tasks.items() if part})
        for piece, of_piece, of_tasks in zip(divided, targets, parts, strict=True)
    ]
    return pieces, denominators


def share_of_piece(
    tasks: Mapping[str, Head],
    examples: Examples,
    rows: Int[Tensor, " B"],
    denominators: Mapping[str, float],
    device: torch.device,
    processes: Processes,
) -> Piece | None:
    """Return what this process computes of a piece; None where no process has anything to compute of it.

    A process must take part where others compute gradients. Where its share has nothing that a loss reads, it computes
    a row of another's, which counts nothing.
    """

    def make_piece(some: Tensor) -> Piece:
        targets = {name: one.to(device) for name, one in examples.batch_targets(some).items()}
        parts = {name: denominator_of(tasks[name], one, device) for name, one in targets.items()}
        return Piece(some, targets, {name: part / denominators[name] for name, part in parts.items() if part})

    if len(share := processes.share(rows)) and (piece := make_piece(share)).shares:
        return piece
    read = (piece for row in rows.split(1) if (piece := make_piece(row)).shares)
    one = next(read, None)
    return one and Piece(one.rows, one.targets, {next(iter(one.shares)): 0.0})


def sum_gradients(parameters: Sequence[nn.Parameter], processes: Processes) -> None:
    """Give parameters the sum of the gradients of all processes; one that has none in any of them keeps none."""
    if not parameters:
        return
    used = processes.sum(torch.tensor([one.grad is not None for one in parameters], dtype=torch.int64))
    some = [one for one, count in zip(parameters, used.tolist(), strict=True) if count]
    summed = processes.sum(flat_gradient(some, [one.grad for one in some]))
    for parameter, part in zip(some, summed.split([one.numel() for one in some]), strict=True):
        parameter.grad = part.view_as(parameter)


def checked_total(total: object) -> Float[Tensor, ""]:
    """Return the total that a weighting gave.

    Raises:
        PluginError: it is no single number that can be differentiated.
    """
    if not isinstance(total, Tensor) or total.shape != () or not total.requires_grad:
        raise PluginError(f"a loss weighting must give one number that depends on the losses, got {total!r:.60}")
    return total


def checked_gradient(combined: object, gradients: Mapping[str, Float[Tensor, " P"]]) -> Float[Tensor, " P"]:
    """Return the gradient that a weighting made of those of the tasks.

    Raises:
        PluginError: it is no tensor of as many numbers.
    """
    shape = next(iter(gradients.values())).shape
    if not isinstance(combined, Tensor) or combined.shape != shape:
        raise PluginError(f"a gradient weighting must give a gradient of {shape[0]:,} numbers, got {combined!r:.60}")
    return combined.detach()


def flat_gradient(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> Float[Tensor, " P"]:
    """Return the gradients of parameters as one vector, with zeros for those that have none."""
    pairs = zip(parameters, gradients, strict=False)
    parts = [(torch.zeros_like(one) if found is None else found).flatten() for one, found in pairs]
    return torch.cat(parts) if parts else torch.zeros(0)


def shared_parameters(model: MultiTaskModel) -> list[nn.Parameter]:
    """Return what trains and is no head's."""
    named = model.named_parameters()
    return [parameter for name, parameter in named if parameter.requires_grad and not name.startswith("heads.")]
