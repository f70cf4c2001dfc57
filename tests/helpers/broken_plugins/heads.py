"""Heads that break one rule each."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from pydantic import ConfigDict, Field
from torch import Tensor, nn

import topwork
from broken_plugins import Broken

#: Goes on from head to head, where torch's own generator is seeded for each.
unseeded = torch.Generator()


class OddModule(nn.Module):
    """A linear layer, or one with something wrong."""

    def __init__(self, width: int, classes: int, broken: str) -> None:
        super().__init__()
        self.broken = broken
        self.linear = nn.Linear(width, classes)
        self.norm = nn.BatchNorm1d(width) if broken == "needs two texts" else nn.Identity()
        if broken == "has a parameter that it does not use":
            self.unused = nn.Parameter(torch.zeros(1))
        if broken == "keeps a weight to itself":
            self.offset = 0.1 * torch.randn(classes)
        if broken == "has a generator of its own":
            nn.init.normal_(self.linear.weight, generator=unseeded)
        self.mean = torch.zeros(width)  # of what it was trained on, where it keeps that to itself

    def forward(self, vectors: Tensor) -> Tensor:
        if self.broken == "keeps a running mean to itself":
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * vectors.detach().mean(dim=0)
            vectors = vectors - self.mean
        if self.broken == "detaches the pooled vectors":
            vectors = vectors.detach()
        if self.broken == "centres the batch":
            vectors = vectors - vectors.mean(dim=0)
        outputs: Tensor = self.linear(self.norm(vectors))
        if self.broken == "keeps a weight to itself":
            outputs = outputs + self.offset
        return 1e-4 * outputs if self.broken == "hardly learns" else outputs


def loss_of(broken: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Cross-entropy, or something like it."""
    cross_entropy = nn.functional.cross_entropy

    def ignore_the_undecided(outputs: Tensor, targets: Tensor) -> Tensor:
        decided = (outputs[:, 0] - outputs[:, 1]).abs() > 0.03
        return (cross_entropy(outputs, targets, reduction="none") * decided).mean()

    scale = nn.Parameter(torch.ones(()))
    weights = torch.tensor([0.2, 5.0])
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "has a loss with a parameter": lambda outputs, targets: cross_entropy(scale * outputs, targets),
        "divides by class weights": lambda outputs, targets: cross_entropy(outputs, targets, weight=weights),
        "divides by class weights and says so": lambda outputs, targets: cross_entropy(
            outputs, targets, weight=weights
        ),
        "smooths labels": lambda outputs, targets: cross_entropy(outputs, targets, label_smoothing=0.4),
        "sums losses": lambda outputs, targets: cross_entropy(outputs, targets, reduction="sum"),
        "takes the logarithm of 0": lambda o, t: nn.functional.nll_loss(o.softmax(dim=1).log(), t),
        "ignores the targets of some texts": ignore_the_undecided,
    }
    return losses.get(broken, cross_entropy)


def decode_of(broken: str, labels: topwork.Classes) -> Callable[[Tensor], topwork.Decoded]:
    """Decode logits, or do something like it."""
    sound = topwork.decode_logits(labels)
    names = list(labels.names)

    def flip(outputs: Tensor) -> topwork.Decoded:
        return topwork.Decoded(
            [names[-1 - number] for number in outputs.argmax(dim=1)], outputs.softmax(dim=1).flip(dims=[1])
        )

    decodings: dict[str, Callable[[Tensor], topwork.Decoded]] = {
        "knows no probabilities": lambda o: topwork.Decoded(sound(o).labels, torch.full_like(o, 1 / len(names))),
        "confuses the classes": flip,
        "decodes the batch together": lambda o: topwork.Decoded(sound(o).labels, (o / o.abs().max()).softmax(dim=1)),
        "decodes in place": lambda outputs: sound(outputs.mul_(2)),
    }
    return decodings.get(broken, sound)


def metrics_of(broken: str, classes: int) -> list[topwork.Metric]:
    """Accuracy and macro-averaged F1, and something like them."""

    def hits(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(dim=1) == targets).float()

    def need_two_classes(outputs: Tensor, targets: Tensor) -> Tensor:
        if len(targets.unique()) < 2:
            raise ValueError("only one class present")
        return hits(outputs, targets).mean()

    others = {
        "measures texts of two classes only": topwork.Metric("area", need_two_classes),
        "has a name that MLflow refuses": topwork.Metric("hits@1", hits),
        "gives a list of one number": topwork.Metric("hits", lambda o, t: hits(o, t).mean()[None]),
        "looks at the neighbours": topwork.Metric("pairs", lambda o, t: (hits(o, t) * hits(o, t).roll(1)).mean()),
        "scores texts together": topwork.Metric("hits", lambda o, t: hits(o, t) / len(o)),
        "counts each text once": topwork.Metric(
            "share", lambda o, t: hits(o, t).mean(), weighted=lambda o, t: lambda counts: hits(o, t).mean()
        ),
        "forgets which way is better": topwork.Metric("errors", lambda o, t: 1 - hits(o, t)),
    }
    return [*topwork.class_metrics(classes), *([others[broken]] if broken in others else [])]


class OddHeadConfig(topwork.HeadConfig):
    """Settings of a head that may break a rule."""

    kind: Literal["odd"] = "odd"
    broken: str = ""
    forgotten: str = Field(default="", exclude=True)

    def build(self, width: int, labels: topwork.Classes) -> topwork.Head:
        classes = len(labels.names)
        pictures = {
            "draws nothing": topwork.HeadFigure("odd", draw_nothing),
            "takes dollars for formulas": topwork.HeadFigure("odd", draw_with_formulas),
        }
        return topwork.Head(
            module=OddModule(width, classes, self.broken),
            loss=loss_of(self.broken),
            decode=decode_of(self.broken, labels),
            metrics=metrics_of(self.broken, classes),
            denominator=(lambda targets: torch.tensor([0.2, 5.0])[targets].sum())
            if self.broken == "divides by class weights and says so"
            else None,
            figures=[topwork.confusion_figure(), *([pictures[self.broken]] if self.broken in pictures else [])],
        )


class NumbersHeadConfig(topwork.HeadConfig):
    """Settings of a head whose labels are numbers."""

    kind: Literal["numbers"] = "numbers"

    def build(self, width: int, labels: topwork.Classes) -> topwork.Head:
        for name in labels.names:
            if not name.replace(".", "", 1).isdigit():
                raise ValueError(f"labels must be numbers, got {name!r}")
        return OddHeadConfig().build(width, labels)


class LooseHeadConfig(OddHeadConfig):
    """Settings that take anything."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["loose"] = "loose"


class UnknownHeadConfig(OddHeadConfig):
    """Settings of a head that is not registered."""

    kind: Literal["unknown"] = "unknown"


def draw_nothing(outputs: Tensor, targets: Tensor, labels: topwork.Classes) -> Any:
    return None


def draw_with_formulas(outputs: Tensor, targets: Tensor, labels: topwork.Classes) -> Figure:
    figure = Figure()
    figure.subplots().set_title(" ".join(labels.names))
    return figure


BROKEN = [
    Broken("test_is_registered_under_its_kind", UnknownHeadConfig()),
    Broken("test_settings_survive_a_round_trip_through_a_file", OddHeadConfig(forgotten="this")),
    Broken("test_an_unknown_setting_is_refused", LooseHeadConfig()),
    Broken(
        "test_outputs_loss_decoding_and_names_are_as_the_interface_says",
        OddHeadConfig(broken="has a name that MLflow refuses"),
        topwork.PluginError,
    ),
    Broken(
        "test_the_loss_is_one_finite_number_for_any_batch_size",
        OddHeadConfig(broken="needs two texts"),
        ValueError,
    ),
    Broken("test_the_loss_of_a_sure_mistake_is_finite", OddHeadConfig(broken="takes the logarithm of 0")),
    Broken("test_the_loss_of_a_batch_is_the_mean_of_those_of_its_texts", OddHeadConfig(broken="sums losses")),
    Broken(
        "test_the_loss_of_a_batch_is_the_mean_of_those_of_its_texts", OddHeadConfig(broken="divides by class weights")
    ),
    Broken(
        "test_the_loss_has_no_parameters_of_its_own",
        OddHeadConfig(broken="has a loss with a parameter"),
        topwork.PluginError,
    ),
    Broken(
        "test_what_training_changes_is_saved",
        OddHeadConfig(broken="keeps a running mean to itself"),
        topwork.PluginError,
    ),
    Broken(
        "test_metrics_raise_on_no_resample_of_the_texts",
        OddHeadConfig(broken="measures texts of two classes only"),
        ValueError,
    ),
    Broken(
        "test_the_loss_of_every_text_depends_on_its_target", OddHeadConfig(broken="ignores the targets of some texts")
    ),
    Broken("test_gradients_reach_all_parameters", OddHeadConfig(broken="has a parameter that it does not use")),
    Broken("test_gradients_reach_what_it_reads", OddHeadConfig(broken="detaches the pooled vectors")),
    Broken("test_a_few_steps_lower_the_loss", OddHeadConfig(broken="hardly learns")),
    Broken("test_what_it_has_learnt_is_what_it_decodes", OddHeadConfig(broken="confuses the classes")),
    Broken("test_decoding_gives_known_labels_and_probabilities", OddHeadConfig(broken="knows no probabilities")),
    Broken("test_a_text_has_the_same_outputs_alone_and_among_others", OddHeadConfig(broken="centres the batch")),
    Broken("test_a_text_is_decoded_alike_alone_and_among_others", OddHeadConfig(broken="decodes the batch together")),
    Broken(
        "test_metrics_give_one_number_or_one_for_each_text",
        OddHeadConfig(broken="gives a list of one number"),
        topwork.PluginError,
        also={"test_outputs_loss_decoding_and_names_are_as_the_interface_says"},
    ),
    Broken("test_metrics_do_not_depend_on_the_order_of_the_texts", OddHeadConfig(broken="looks at the neighbours")),
    Broken("test_a_score_for_each_text_depends_on_that_text_alone", OddHeadConfig(broken="scores texts together")),
    Broken(
        "test_a_weighted_metric_is_that_of_texts_that_are_there_as_often",
        OddHeadConfig(broken="counts each text once"),
    ),
    Broken(
        "test_metrics_are_no_better_for_wrong_answers_than_for_right_ones",
        OddHeadConfig(broken="forgets which way is better"),
    ),
    Broken("test_figures_are_drawn_whatever_classes_are_called", OddHeadConfig(broken="draws nothing")),
    Broken(
        "test_figures_are_drawn_whatever_classes_are_called",
        OddHeadConfig(broken="takes dollars for formulas"),
    ),
    Broken("test_outputs_are_left_as_they_are", OddHeadConfig(broken="decodes in place")),
    Broken("test_the_same_seed_gives_the_same_initial_weights", OddHeadConfig(broken="has a generator of its own")),
    Broken(
        "test_it_is_restored_from_its_parameters_and_buffers",
        OddHeadConfig(broken="keeps a weight to itself"),
        also={"test_what_training_changes_is_saved"},
    ),
]


@topwork.hookimpl
def register_heads(register: topwork.Register[topwork.HeadConfig]) -> None:
    register(OddHeadConfig)
    register(LooseHeadConfig)
    register(NumbersHeadConfig)
