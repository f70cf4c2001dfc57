"""What a head must keep to."""

import io
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from matplotlib.figure import Figure
from torch import Tensor

from topwork.engine.model.building import build_head
from topwork.engine.model.checked_head import check_decoded, check_scores
from topwork.engine.model.head_checks import (
    HeadInputs,
    check_gradients,
    check_parts,
    check_restored,
    inputs_for,
    pieces_error,
    targets_for,
)
from topwork.errors import describe
from topwork.interfaces.head import Head, HeadConfig, Label
from topwork.interfaces.labels import NO_LABEL, Classes, Distribution, LabelSet, LabelSpace, Numbers, WordLabels
from topwork.testing.plugin import (
    WIDTH,
    PluginContract,
    check_gradients_reach,
    check_initial_weights,
    check_restored_module,
    gradient_of,
    telling,
)


class HeadContract(PluginContract):
    """A head learns, decodes, and measures.

    Attributes:
        config: the head under test.
        labels: a label space that suits it.
    """

    config: ClassVar[HeadConfig]
    labels: ClassVar[LabelSpace] = Classes(("no", "yes"))

    def test_outputs_loss_decoding_and_names_are_as_the_interface_says(self) -> None:
        check_parts(self._checked(), self.config, WIDTH, self.labels, where="")

    def test_the_loss_is_one_finite_number_for_any_batch_size(self) -> None:
        head = self._build()
        for rows in (1, 2, 7):
            loss = head.loss(head.module(*self._inputs(rows)), self._targets(rows))
            told = f"the loss of {rows} texts must be one finite number"
            assert loss.shape == (), f"{told}, got shape {tuple(loss.shape)}; is its mean missing?"
            assert loss.isfinite(), f"{told}, got {loss.item()}"

    def test_the_loss_of_a_sure_mistake_is_finite(self) -> None:
        head = self._build()
        vectors, *mask = self._inputs(32)
        outputs = head.module(1000 * vectors, *mask)
        for target in self._targets(len(self.labels.names) + 32):
            loss = head.loss(outputs, self._repeated(target, 32))
            assert loss.isfinite(), f"the loss of a sure mistake must be finite, got {loss.item()} of target {target}"

    def test_the_loss_of_a_batch_is_the_mean_of_those_of_its_texts(self) -> None:
        head, outputs = self._try(7)
        error = pieces_error(head, outputs + torch.randn_like(outputs), self._targets(7))
        assert not error, error

    def test_the_loss_has_no_parameters_of_its_own(self) -> None:
        check_gradients(self._checked(), self.config, WIDTH, self.labels, where="")

    def test_the_loss_of_every_text_depends_on_its_target(self) -> None:
        head, outputs = self._try(64)
        for row in outputs.split(1):
            losses = {head.loss(row, target[None]).item() for target in self._targets(len(self.labels.names) + 64)}
            assert len(losses) > 1, f"outputs {row.tolist()} have the same loss with any target"

    def test_gradients_reach_all_parameters(self) -> None:
        head = self._build()
        check_gradients_reach(head.module, head.loss(head.module(*self._inputs(32)), self._targets(32)))

    def test_gradients_reach_what_it_reads(self) -> None:
        head = self._build()
        vectors, *mask = self._inputs(32)
        vectors.requires_grad_()
        reached = gradient_of(head.loss(head.module(vectors, *mask), self._targets(32)), vectors).any()
        assert reached, "no gradient of the loss reaches what the head reads, so that the backbone would not be trained"

    def test_a_few_steps_lower_the_loss(self) -> None:
        head, inputs, targets, losses = self._learn()
        told = f"200 steps of AdamW must lower the loss, got {losses[0]:.4g}, then {losses[-1]:.4g}"
        assert losses[-1] < losses[0], told
        # half the loss of wrong answers, not of the beginning: the loss of a label that is smoothed never nears 0
        wrong = head.loss(head.module.eval()(*inputs).detach(), self._wrong(targets))
        assert losses[-1] < wrong / 2, f"{told}; that of wrong labels is {wrong:.4g}"

    def test_what_it_has_learnt_is_what_it_decodes(self) -> None:
        head, inputs, targets, _ = self._learn()
        decoded = head.decode(head.module.eval()(*inputs).detach())
        check_learnt(self.labels, decoded.labels, targets)

    def test_decoding_gives_known_labels_and_probabilities(self) -> None:
        head, outputs = self._try(9)
        decoded = check_decoded(head.decode(outputs), outputs.shape, self.labels)
        ordered = isinstance(self.labels, Classes) and self.labels.ordered  # the median may be named then
        if isinstance(self.labels, Classes | Distribution) and not ordered:
            assert decoded.probabilities is not None, "decode must give probabilities of classes, got None"
            likeliest = [self.labels.names[number] for number in decoded.probabilities.argmax(dim=1)]
            told = f"the label must be the likeliest class, {likeliest}, got {list(decoded.labels)}"
            assert list(decoded.labels) == likeliest, told

    def test_a_text_has_the_same_outputs_alone_and_among_others(self) -> None:
        module, inputs = self._build().module.eval(), self._inputs(9)
        rows = zip(*(one.split(1) for one in inputs), strict=True)
        for row, outputs in zip(rows, module(*inputs), strict=True):
            alone = module(*without_padding(row))[0]
            torch.testing.assert_close(
                alone, outputs[: len(alone)], msg=telling("a text must have the same outputs alone")
            )

    def test_a_text_is_decoded_alike_alone_and_among_others(self) -> None:
        head, outputs = self._try(9)
        alone = [head.decode(row.clone()) for row in outputs.split(1)]
        decoded = head.decode(outputs)
        for number, one in enumerate(alone):
            same = isinstance(self.labels, Numbers) or list(one.labels) == [decoded.labels[number]]
            assert same, f"a text is decoded as {one.labels[0]} alone, and as {decoded.labels[number]} among others"
            if decoded.probabilities is not None and one.probabilities is not None:
                torch.testing.assert_close(one.probabilities[0], decoded.probabilities[number])

    def test_metrics_give_one_number_or_one_for_each_text(self) -> None:
        head, outputs = self._try(9)
        for metric in head.metrics:
            scores = metric.compute(outputs, self._targets(9))
            check_scores(metric.name, scores, 9, combined=metric.combine is not None)
            total = metric.total(scores)
            assert total.isfinite(), f"metric {metric.name} must be a finite number, got {total.item()}"

    def test_metrics_raise_on_no_resample_of_the_texts(self) -> None:
        head, outputs = self._try(9)
        for target in self._targets(len(self.labels.names) + 9):
            for metric in head.metrics:
                metric.compute(outputs, self._repeated(target, 9))  # where one is not defined, it gives NaN

    def test_metrics_do_not_depend_on_the_order_of_the_texts(self) -> None:
        head, outputs = self._try(9)
        targets = self._targets(9)
        for metric in head.metrics:
            value = metric.total(metric.compute(outputs, targets))
            for order in (torch.randperm(9) for _ in range(5)):
                shuffled = metric.total(metric.compute(outputs[order], targets[order]))
                told = telling(f"metric {metric.name} must not depend on the order of texts")
                torch.testing.assert_close(shuffled, value, msg=told)

    def test_a_score_for_each_text_depends_on_that_text_alone(self) -> None:
        head, outputs = self._try(9)
        targets = self._targets(9)
        for metric in head.metrics:
            scores = metric.compute(outputs, targets)
            if scores.shape == (9,) or metric.combine:
                alone = [metric.compute(outputs[i : i + 1], targets[i : i + 1]) for i in range(9)]
                told = telling(
                    f"the score of a text must depend on that text alone, and that of {metric.name} does not"
                )
                torch.testing.assert_close(torch.cat(alone), scores, msg=told)

    def test_a_weighted_metric_is_that_of_texts_that_are_there_as_often(self) -> None:
        head, outputs = self._try(9)
        targets, rows = self._targets(9), torch.arange(9)
        for metric in head.metrics:
            if metric.weighted is None:
                continue
            measure = metric.weighted(outputs, targets)
            for counts in (torch.ones(9), torch.tensor([2.0, 0, 1, 3, 0, 1, 1, 0, 1])):
                drawn = rows.repeat_interleave(counts.long())
                wanted = metric.compute(outputs[drawn], targets[drawn])
                told = telling(
                    f"weighted of metric {metric.name} must give what compute gives of texts that are there so often"
                )
                torch.testing.assert_close(measure(counts), wanted, equal_nan=True, msg=told)

    def test_metrics_are_no_better_for_wrong_answers_than_for_right_ones(self) -> None:
        head, inputs, targets, _ = self._learn()
        outputs = head.module.eval()(*inputs).detach()
        for metric in head.metrics:
            wrong = metric.total(metric.compute(outputs, self._wrong(targets)))
            gain = metric.total(metric.compute(outputs, targets)) - wrong
            told = f"metric {metric.name} is better for wrong answers; is it greater_is_better?"
            assert gain >= 0 if metric.greater_is_better else gain <= 0, told

    def test_figures_are_drawn_whatever_classes_are_called(self) -> None:
        head, outputs = self._try(9)
        labels = replace(self.labels, names=tuple(f"{name} $\\frac$ & <b>" for name in self.labels.names))
        for figure in head.figures:
            drawn = figure.draw(outputs, self._targets(9), labels)
            assert isinstance(drawn, Figure), f"figure {figure.name} must be a matplotlib Figure, got {drawn!r:.60}"
            try:
                drawn.savefig(io.BytesIO(), format="png")
            except ValueError as error:
                told = f"figure {figure.name} must be drawn whatever classes are called, also with $ in a name"
                raise AssertionError(f"{told}: {describe(error)}") from error

    def test_outputs_are_left_as_they_are(self) -> None:
        head, outputs = self._try(9)
        before, targets = outputs.clone(), self._targets(9)
        targets_before = targets.clone()
        head.loss(outputs, targets)
        head.decode(outputs)
        for metric in head.metrics:
            metric.compute(outputs, targets)
        for figure in head.figures:
            figure.draw(outputs, targets, self.labels)
        told = "loss, decode, metrics and figures must leave {} as they are"
        assert torch.equal(outputs, before), told.format("outputs")
        assert torch.equal(targets, targets_before), told.format("targets")

    def test_the_same_seed_gives_the_same_initial_weights(self) -> None:
        check_initial_weights(lambda: self._build().module)

    def test_it_is_restored_from_its_parameters_and_buffers(self) -> None:
        inputs = self._inputs(9)
        check_restored_module(lambda: self._build().module, lambda module: module(*inputs))

    def test_what_training_changes_is_saved(self) -> None:
        check_restored(self._checked(), self._checked(), self.config, WIDTH, self.labels, where="")

    def _build(self) -> Head:
        try:
            return self.config.build(WIDTH, self.labels)
        except ValueError as error:
            raise AssertionError(f"set `labels` to classes that suit this head: {error}") from error

    def _checked(self) -> Head:
        self._build()  # for its message
        return build_head(self.config, WIDTH, self.labels, where="")

    def _try(self, rows: int) -> tuple[Head, Tensor]:
        """A new head, and its outputs for texts as it gives them after training."""
        head = self._build()
        return head, head.module.eval()(*self._inputs(rows)).detach()

    def _learn(self) -> tuple[Head, HeadInputs, Tensor, list[float]]:
        """A head trained on one vector for each target, what it read of 64 rows, their targets, and the losses."""
        head = self._build()
        targets = self._targets(64)
        kinds, kind_of = targets.unique(dim=0, return_inverse=True)
        inputs = tuple(one[kind_of] for one in inputs_for(self.config.reads, kinds, WIDTH))
        optimizer = torch.optim.AdamW(head.module.parameters(), lr=1e-2)
        losses = []
        for _ in range(200):
            loss = head.loss(head.module(*inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return head, inputs, targets, losses

    def _inputs(self, rows: int) -> HeadInputs:
        return inputs_for(self.config.reads, self._targets(rows), WIDTH)

    def _targets(self, rows: int) -> Tensor:
        return targets_for(self.labels, rows)

    def _wrong(self, targets: Tensor) -> Tensor:
        """The targets of other texts or, of words, other classes."""
        if isinstance(self.labels, WordLabels):
            return torch.where(targets == NO_LABEL, targets, (targets + 1) % len(self.labels.names))
        return targets.roll(1, dims=0)

    def _repeated(self, target: Tensor, rows: int) -> Tensor:
        """The target of one text for so many."""
        return target.expand(rows, *target.shape).clone()


#: What decoding has to give back.
LEARNT = "what was learnt must be what is decoded"


def without_padding(inputs: HeadInputs) -> HeadInputs:
    """Return what a head reads of one row, without what stands behind the last word."""
    count = int(inputs[1].sum()) if len(inputs) == 2 else len(inputs[0][0])
    return tuple(one[:, :count] for one in inputs)


def check_learnt(labels: LabelSpace, found: Sequence[Label], targets: Tensor) -> None:
    """Check that labels are those, or numbers near those, that a head was trained on, targets (N, ...)."""
    if isinstance(labels, Numbers):
        rows = [list(label.values()) if isinstance(label, dict) else [label] for label in found]
        error, spread = torch.tensor(rows) - targets, targets - targets.mean(dim=0)
        assert (error.abs().mean(dim=0) < spread.abs().mean(dim=0) / 2).all(), "numbers are no nearer than their mean"
    elif isinstance(labels, WordLabels):
        for label, row in zip(found, targets.tolist(), strict=True):
            assert isinstance(label, tuple), f"decode must give a tuple of classes for words, got {label!r}"
            wanted = [labels.names[number] for number in row if number != NO_LABEL]
            assert list(label[: len(wanted)]) == wanted, f"{LEARNT}: words are {wanted}, got {label}"
    elif isinstance(labels, LabelSet):
        sets = [tuple(itertools.compress(labels.names, row)) for row in targets.tolist()]
        assert list(found) == sets, f"{LEARNT}: {sets}, got {list(found)}"
    else:
        numbers = targets.argmax(dim=1) if isinstance(labels, Distribution) else targets
        names = [labels.names[number] for number in numbers]
        assert list(found) == names, f"{LEARNT}: {names}, got {list(found)}"
