"""Comes in: an experiment. Goes out: all that it names, loaded, resolved and checked, but not yet computed."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from accelerate import Accelerator

from topwork.data.dataset import Dataset, load_dataset
from topwork.engine.data_parallel import Processes
from topwork.engine.data_report import DataReport, describe_data
from topwork.engine.encoding.activations import compute_activations
from topwork.engine.encoding.corpus import Corpus, make_corpus, texts_to_read
from topwork.engine.encoding.examples import Examples, make_examples
from topwork.engine.encoding.store_decision import EncodingJob, StoreDecision, decide_store
from topwork.engine.evaluation.comparison import SplitOutputs, digests_of_texts
from topwork.engine.evaluation.estimates import outputs_of
from topwork.engine.model.building import (
    adapt_backbone,
    build_backbone,
    build_model,
    check_all_figures,
    check_gradients,
    check_training,
)
from topwork.engine.model.encoder_checks import check_restorable
from topwork.engine.model.multitask import MultiTaskModel
from topwork.engine.model.parallel_checks import check_norms
from topwork.engine.model.plan import Phase, Plan, make_plan
from topwork.engine.model.plugin_checks import errors_of_plugins, plugin_errors
from topwork.engine.model.precision_checks import check_precision, warn_if_slow
from topwork.engine.model.seeding import seeded
from topwork.engine.observer import EncodingReport, Observer
from topwork.engine.training.checkpoint_folder import KEPT
from topwork.engine.training.checkpoints import Checkpoints
from topwork.engine.training.loop import Fit, LoadExamples, fit
from topwork.engine.training.optimizer import check_optimizer
from topwork.engine.training.sampling import Sampling, resolve_sampling
from topwork.engine.training.step import Weighting
from topwork.engine.training.stopping import Monitor, find_monitors, make_stopping
from topwork.engine.training.weighting import build_weighting, check_shared, warn_of_no_pairs
from topwork.errors import ConfigurationError, StorageError
from topwork.experiment.origin import Origin
from topwork.experiment.schema import Experiment, Window
from topwork.experiment.source import SplitName
from topwork.interfaces.backbone import Backbone, BackboneConfig
from topwork.interfaces.freeze_strategy import FreezeStrategyConfig
from topwork.interfaces.head import Reading
from topwork.interfaces.loss_weighting import LossWeighting
from topwork.interfaces.plugin import PluginConfig
from topwork.torchrun import process_here


@dataclass(frozen=True)
class Preparation:
    """An experiment with its rows, token ids, model and plan.

    Attributes:
        sampling: what every epoch takes of each source.
        weighting: what makes one total of the tasks' losses, or one gradient of theirs; it has state of its own.
        monitors: what is watched for each task, or, by the name None, for all together.
    """

    experiment: Experiment
    dataset: Dataset
    corpus: Corpus
    model: MultiTaskModel
    plan: Plan
    sampling: Sampling
    weighting: Weighting
    monitors: dict[str | None, Monitor]

    @property
    def warnings(self) -> list[str]:
        """What the researcher should know, with counts."""
        size = self.plan.corpus_size
        too_long = (
            f"{size.truncated} of {size.texts} texts are longer than the backbone's max_length and were truncated"
        )
        if size.unread_words:
            too_long += f"; {size.unread_words:,} of their words are not read, so they are neither trained nor measured"
        joining = warn_of_no_pairs(
            self.weighting, self.experiment.weighting, self.experiment.training, self.sampling, self.trained_of_sources
        )
        slow = warn_if_slow(self.experiment.backbone.precision, self.experiment.training)
        return [*self.dataset.warnings, *([too_long] if size.truncated else []), *joining, *slow]

    @property
    def trained_of_sources(self) -> dict[str, list[str]]:
        """The tasks of each source that are trained."""
        columns = self.experiment.label_columns
        return {source: [task for task in tasks if task in self.model.tasks] for source, tasks in columns.items()}

    @property
    def checkpoint_bytes(self) -> int:
        """About how many bytes the checkpoints of a training have: those that are kept, and the one that is written."""
        trained = [one.nbytes for name, one in self.model.named_parameters() if name in self.plan.shapes]
        return (KEPT + 1) * 4 * sum(trained)  # weights, two moments of each, and the best weights

    def encoding_job(self, phase: Phase, device: torch.device) -> EncodingJob:
        """Return what decides the activations of a phase."""
        experiment = self.experiment
        prefix = self.model.prefix_of(phase.cut)
        return EncodingJob(prefix, experiment.pooling, self.corpus, self.plan, phase, experiment.training, device)

    def decide_store(self, phase: Phase, device: torch.device) -> StoreDecision:
        """Decide whether the activation store serves a phase, and look up what it has. Computes nothing.

        Raises:
            StorageError: it cannot, and ``training.store`` is ``require``.
        """
        try:
            return decide_store(self.encoding_job(phase, device))
        except StorageError as error:
            error.located(self.experiment.origin.locate("training", "store"))
            raise

    def encoding_jobs(self, device: torch.device, after: int = 0) -> list[EncodingJob]:
        """Return what decides the activations of the phases after an epoch that the activation store can serve."""
        phases = [phase for phase in self.plan.phases if phase.first > after and phase.prefix_is_pretrained]
        return [self.encoding_job(phase, device) for phase in phases]

    def load_examples(
        self, phase: Phase, device: torch.device, observer: Observer, also: Sequence[EncodingJob] = ()
    ) -> tuple[dict[SplitName, Examples], EncodingReport]:
        """Return the examples of each split, and where their activations came from.

        The model must be frozen and cut as ``phase`` says.

        Args:
            also: what others will need of the same texts. A pass over texts that fills the store fills it for these
                too, and for the other phases.

        Raises:
            StorageError: the store holds something else than the prefix gives, or ``training.store`` is ``require``
                and the store cannot serve.
        """
        decision = self.decide_store(phase, device)
        job = self.encoding_job(phase, device)
        missing = decision.stored is not None and len(decision.stored.missing) > 0
        later = self.encoding_jobs(device, phase.first) if missing else []
        activations, report = compute_activations(job, decision, observer, [*later, *also])
        word_places = self.corpus.sequences.word_places(phase.cut)
        examples = {
            name: make_examples(
                activations, word_places, self.corpus.text_ids[name], split, self.model.reads, self.corpus.windows
            )
            for name, split in self.dataset.splits.items()
        }
        return examples, report

    def fit(
        self,
        load_examples: LoadExamples,
        *,
        accelerator: Accelerator,
        observer: Observer,
        checkpoints: Checkpoints | None = None,
    ) -> Fit:
        """Train what the plan says on the examples that ``load_examples`` gives for each phase.

        Args:
            checkpoints: from the newest of which training goes on; there are none by default.

        Raises:
            TrainingError: a loss or weight is not finite; the model is back at the best epoch so far.
            PluginError: a plugin fails.
            StorageError: the checkpoints cannot be read.
        """
        experiment, tasks = self.experiment, self.model.tasks

        def load_selected(phase: Phase) -> dict[SplitName, Examples]:
            selected = {split: examples.select(tasks) for split, examples in load_examples(phase).items()}
            return {split: examples for split, examples in selected.items() if examples.count}

        validated = self.dataset.tasks_with_labels("validation")
        stopping = make_stopping(self.monitors, tasks, validated, self.plan.shapes.keys())
        try:
            with self.naming_plugins():
                return fit(
                    self.model,
                    self.plan,
                    load_selected,
                    experiment.training,
                    self.sampling,
                    self.weighting,
                    experiment.loss_weights,
                    stopping,
                    checkpoints or Checkpoints(),
                    accelerator=accelerator,
                    observer=observer,
                )
        finally:
            with plugin_errors(experiment.freeze, experiment.origin.locate("freeze")):
                experiment.freeze.finish(self.model.backbone)

    def outputs(
        self, examples: Examples, *, device: torch.device, processes: Processes | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the outputs (L, C) of each task for the examples that have a label of it, on the CPU.

        Args:
            processes: that compute a part each; this one alone by default.

        Raises:
            PluginError: a plugin fails.
        """
        with self.naming_plugins():
            return outputs_of(self.model, examples, device=device, processes=processes)

    def naming_plugins(self) -> AbstractContextManager[None]:
        """Say which plugin fails, where one does within the block."""
        experiment, locate = self.experiment, self.experiment.origin.locate
        configs: dict[tuple[str, ...], PluginConfig] = {
            ("backbone",): experiment.backbone,
            ("pooling",): experiment.pooling,
            ("weighting",): experiment.weighting,
            **{("tasks", name, "head"): task.head for name, task in experiment.tasks.items()},
        }
        located = {locate(*path): config for path, config in configs.items()}
        return errors_of_plugins(located, lambda: locate(*self.model.running))

    def split_outputs(self, split: SplitName, outputs: dict[str, torch.Tensor], examples: Examples) -> SplitOutputs:
        """Return the outputs (L, C) of each task for its rows of a split, with what is needed to compare them."""
        rows, targets = self.dataset.splits[split], examples.labelled_targets()
        return SplitOutputs(
            split="training" if split == "train" else split,
            texts_sha256={task: digest for task, digest in digests_of_texts(rows).items() if task in outputs},
            width=self.model.pooling.width,
            labels={task: self.dataset.labels[task] for task in outputs},
            outputs=outputs,
            targets={task: targets[task] for task in outputs},
        )


def prepare(experiment: Experiment) -> Preparation:
    """Read the rows, load the model, and resolve the plan.

    Raises:
        TopworkError: whatever is wrong with data, plugins or settings, before anything is computed.
    """
    dataset = load_dataset(experiment.data, experiment.label_columns)
    backbone = build_backbone(experiment.backbone, seed=experiment.training.seed, origin=experiment.origin)
    where = experiment.origin.locate("window")
    corpus = tokenize_splits(dataset, experiment.reads, experiment.window, backbone, where=where)
    prepared = assemble(experiment, dataset, corpus, backbone)
    seed, origin = experiment.training.seed, experiment.origin
    check_saving(experiment.backbone, experiment.freeze, backbone, seed=seed, origin=origin)
    check_drawing(prepared)
    return prepared


def check_saving(
    config: BackboneConfig, freeze: FreezeStrategyConfig, backbone: Backbone, *, seed: int, origin: Origin
) -> None:
    """Check that a backbone can be saved and restored, as it is after training.

    Raises:
        PluginError: it cannot.
    """
    if freeze.adapts_backbone:
        backbone = copy.deepcopy(backbone)
        with plugin_errors(freeze, origin.locate("freeze")):
            freeze.finish(backbone)
    with plugin_errors(config, origin.locate("backbone")), seeded(seed, "trying"):
        check_restorable(backbone, config)


def check_drawing(prepared: Preparation) -> None:
    """Check that the heads' figures can be drawn for texts of every class.

    Raises:
        PluginError: one cannot be drawn.
    """
    experiment = prepared.experiment
    heads = {name: task.head for name, task in experiment.trained_tasks.items()}
    seed, origin = experiment.training.seed, experiment.origin
    check_all_figures(heads, prepared.model, prepared.dataset.labels, seed=seed, origin=origin)


def describe_rows(experiment: Experiment) -> DataReport:
    """Read the rows of an experiment and say what they are like, without a look at what is to be trained.

    Raises:
        TopworkError: whatever is wrong with the data or the backbone.
    """
    dataset = load_dataset(experiment.data, experiment.label_columns)
    backbone = build_backbone(experiment.backbone, seed=experiment.training.seed, origin=experiment.origin)
    where = experiment.origin.locate("window")
    corpus = tokenize_splits(dataset, experiment.reads, experiment.window, backbone, where=where)
    return describe_data(experiment.label_columns, dataset, corpus)


def tokenize_splits(
    dataset: Dataset, reads: Mapping[str, Reading], window: Window | None, backbone: Backbone, *, where: str
) -> Corpus:
    """Turn the texts of all splits into token ids.

    Args:
        reads: what the head of each task reads.
        window: how long texts are divided; None truncates them.
        where: the place of these settings, with which errors begin.

    Raises:
        ConfigurationError: the backbone has no such windows.
    """
    texts = {name: texts_to_read(split, reads) for name, split in dataset.splits.items()}
    if window and backbone.prefix:
        raise ConfigurationError(
            f"{where}: windows of a text have no prefix, and the backbone puts {backbone.prefix!r} before each text; "
            "leave out one of them"
        )
    try:
        stride = window.stride if window else None
        return make_corpus(backbone.tokenizer, texts, prefix=backbone.prefix, stride=stride)
    except ConfigurationError as error:
        raise error.located(where) from None


def assemble(experiment: Experiment, dataset: Dataset, corpus: Corpus, backbone: Backbone) -> Preparation:
    """Put an experiment together from what is loaded already.

    Raises:
        TopworkError: it does not fit together, or does not fit the settings.
    """
    settings, origin = experiment.training, experiment.origin
    check_optimizer(settings, origin=origin)
    adapt_backbone(backbone, experiment.freeze, seed=settings.seed, origin=origin)
    heads = {name: task.head for name, task in experiment.trained_tasks.items()}
    model = build_model(
        backbone,
        experiment.pooling,
        heads,
        dataset.labels,
        reads=experiment.reads,
        precision=experiment.backbone.precision,
        seed=settings.seed,
        origin=origin,
    )
    where = origin.locate("weighting")
    weighting = build_weighting(experiment.weighting, tuple(heads), seed=settings.seed, where=where)
    of_losses = weighting if isinstance(weighting, LossWeighting) else None
    plan = make_plan(model, corpus.size, experiment.freeze, experiment.optimizer, settings, of_losses, origin=origin)
    frozen = any(phase.cut.stage for phase in plan.phases)
    where = origin.locate("backbone", "precision")
    check_precision(experiment.backbone.precision, backbone, frozen=frozen, where=where)
    check_gradients(model, plan, experiment.backbone, experiment.pooling, origin=origin)
    check_shared(weighting, experiment.weighting, settings, plan, origin=origin)
    train, (processes, _) = dataset.splits["train"], process_here()
    check_norms(model, min(phase.cut.stage for phase in plan.phases), processes, origin=origin)
    check_training(heads, model, dataset.labels, settings, rows=train, processes=processes, origin=origin)
    sampling = resolve_sampling(
        experiment.sampling, train.sizes_of(experiment.tasks), settings.epochs, where=origin.locate("sampling")
    ).of_sizes(train.sizes_of(heads))
    validated = dataset.tasks_with_labels("validation")
    monitors = find_monitors(settings, experiment.tasks, model.tasks, validated, origin=origin)
    return Preparation(experiment, dataset, corpus, model, plan, sampling, weighting, monitors)
