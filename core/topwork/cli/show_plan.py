"""``topwork plan``."""

from collections.abc import Mapping, Sequence

from rich.table import Table

from topwork.cli.format import Format
from topwork.cli.output import Row, write_csv, write_json
from topwork.cli.tables import console, format_bytes, heading, table
from topwork.data.dataset import Dataset
from topwork.engine.encoding.store_decision import EncodingJob, StoreDecision, missing_bytes
from topwork.engine.model.plan import Phase, Plan
from topwork.engine.preparation import prepare
from topwork.engine.training.accelerator import make_accelerator
from topwork.engine.training.sampling import Sampling
from topwork.engine.training.step import Weighting
from topwork.errors import enumerate_names
from topwork.experiment.schema import Experiment, Training
from topwork.experiment.source import SplitName
from topwork.interfaces.loss_weighting import GradientWeighting


def show_plan(experiment: Experiment, format: Format) -> None:
    """Print what would train and what it would cost."""
    prepared = prepare(experiment)
    plan = prepared.plan
    if format is Format.CSV:
        write_csv(rows_of_groups(plan))
        return
    if format is Format.JSON:
        write_json(plan.dump())
        return
    for phase in plan.phases:
        heading("what trains" if len(plan.phases) == 1 else f"what trains from epoch {phase.first}")
        console.print(table_of_groups(plan, phase))
        console.print()
    heading("tasks")
    console.print(table_of_tasks(prepared.experiment, prepared.dataset))
    console.print()
    sizes = {name: len(split.texts) for name, split in prepared.dataset.splits.items()}
    console.print(describe_rows(plan, sizes), soft_wrap=True)
    console.print(describe_epoch(prepared.sampling, experiment.training.batch_size), soft_wrap=True)
    console.print(describe_optimizer(experiment.training), soft_wrap=True)
    if len(prepared.sampling.sizes) > 1:
        console.print(table_of_sources(prepared.sampling))
    passes = passes_backward(prepared.sampling, prepared.trained_of_sources)
    if cost := describe_weighting(prepared.weighting, passes):
        console.print(f"weighting: {cost}", soft_wrap=True)
    if asked := experiment.training.gradient_batches:
        count = min(asked, *prepared.sampling.steps(experiment.training.batch_size))
        more = f"up to {count * passes:,} more passes backward"
        console.print(f"gradients of tasks are compared on {count} batches an epoch: {more}")
    device = make_accelerator(experiment.training).device
    for phase in plan.phases:
        if len(plan.phases) > 1:
            console.print(f"from epoch {phase.first}:")
        console.print(describe_cut(plan, phase), soft_wrap=True)
        prepared.model.set_trainable(phase.unfrozen)
        job, decision = prepared.encoding_job(phase, device), prepared.decide_store(phase, device)
        console.print(describe_store(job, decision), soft_wrap=True)
    for warning in prepared.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
    console.print(f"plan {plan.digest[:12]}")


def table_of_tasks(experiment: Experiment, dataset: Dataset) -> Table:
    """List the tasks, with the rows that have labels of each where those are not all rows."""
    counts = {split: rows.labelled_counts for split, rows in dataset.splits.items()}
    partly = any(count < len(dataset.splits[split].texts) for split in counts for count in counts[split].values())
    columns = [f"#labelled {split}" for split in counts] if partly else []
    tasks = table("task", *(["source"] if len(experiment.data) > 1 else []), "head", *columns, "classes")
    for source, of_source in experiment.label_columns.items():
        for name in (name for name in of_source if name in experiment.trained_tasks):
            labelled = [f"{counts[split][name]:,}" for split in counts] if partly else []
            sources = [source] if len(experiment.data) > 1 else []
            classes = enumerate_names(dataset.labels[name].names)
            tasks.add_row(name, *sources, experiment.tasks[name].head.kind, *labelled, classes)
    return tasks


def describe_rows(plan: Plan, sizes: Mapping[SplitName, int]) -> str:
    """Say how many texts there are and how long."""
    splits = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
    size = plan.corpus_size
    if size.divided:
        return (
            f"rows: {splits}; {size.divided:,} texts are divided, {size.texts:,} windows in all, "
            f"{size.tokens / size.texts:.1f} tokens per window"
        )
    return f"rows: {splits}; {size.tokens / size.texts:.1f} tokens per text, {size.truncated:,} texts truncated"


def describe_epoch(sampling: Sampling, batch_size: int) -> str:
    """Say what an epoch is."""
    rows, steps = [sum(one) for one in sampling.rows], sampling.steps(batch_size)
    kinds = {"mixed": "", "single": ", each of one source", "in_turn": ", each of one source, of all in turn"}
    return f"epoch: {span(rows)} rows in {span(steps)} batches of up to {batch_size}{kinds[sampling.batches]}"


def describe_optimizer(settings: Training) -> str:
    """Say which optimizer steps the groups, and how their rates change."""
    options = ", ".join(f"{name} {value}" for name, value in settings.optimizer_options.items())
    with_options = f" with {options}" if options else ""
    rates = "constant" if settings.schedule == "constant" else f"scaled by {settings.schedule}"
    warmup = f" after a warm-up over {settings.warmup:.3g} of all steps" if settings.warmup else ""
    return f"optimizer: {settings.optimizer}{with_options}; learning rates {rates}{warmup}"


def passes_backward(sampling: Sampling, tasks: Mapping[str, Sequence[str]]) -> int:
    """Return how many tasks a batch can have rows of: of all sources, or of one where each batch is of one."""
    counts = [len(of_source) for of_source in tasks.values()]
    return sum(counts) if sampling.batches == "mixed" else max(counts)


def describe_weighting(weighting: Weighting, passes: int) -> str:
    """Say what each step costs beyond one pass forward and one back; nothing where it is no more."""
    if isinstance(weighting, GradientWeighting):
        return f"each step goes back through what tasks share up to {passes} times, once for each task"
    if weighting.reads_losses_after_step:
        return "each step computes the losses of its batch again after the weights have changed"
    return ""


def table_of_sources(sampling: Sampling) -> Table:
    """List what an epoch takes of each source; of epochs that differ, the least and the most."""
    sources = table("source", "#rows", "#rows an epoch", "#passes an epoch")
    for number, (name, size) in enumerate(sampling.sizes.items()):
        taken = [rows[number] for rows in sampling.rows]
        passes = f"{min(taken) / size:.2f}" + (f" to {max(taken) / size:.2f}" if min(taken) < max(taken) else "")
        sources.add_row(name, f"{size:,}", span(taken), passes)
    return sources


def span(numbers: Sequence[int]) -> str:
    """Write the least and the greatest of some numbers, or the one that all are."""
    return f"{min(numbers):,}" + (f" to {max(numbers):,}" if min(numbers) < max(numbers) else "")


def describe_cut(plan: Plan, phase: Phase) -> str:
    """Say where the cut is, what is kept there, and what an epoch costs."""
    unread = f"\nnot run: {span_of(plan.unread_stages)}, which the pooling does not read" if plan.unread_stages else ""
    if not phase.prefix:
        what = "all that is read" if unread else "the whole backbone"
        return f"cut: before the first stage, since it trains; every epoch runs {what}{unread}"
    where = f"before {phase.suffix[0]}" if phase.suffix and phase.cut.keeps != "pooled" else "after the pooling"
    if phase.cut.keeps == "layers":
        where = "after the pooling of each layer, before they are combined"
    size, cost = plan.kept_bytes(phase), phase.cost
    each, unit = format_bytes(size / plan.corpus_size.distinct_texts), plan.corpus_size.unit
    return (
        f"cut: {where}; the {len(phase.prefix)} stages left of it run once{unread}\n"
        f"kept: {describe_kept(plan, phase)}, {each} per {unit}, {format_bytes(size)} in all\n"
        f"cost per {unit}: encoding once {cost.encode / 1e6:,.1f} MFLOP, then each epoch "
        f"{cost.train / 1e6:,.1f} MFLOP instead of {cost.train_uncached / 1e6:,.1f}: "
        f"{cost.train_uncached / cost.train:,.1f} times less arithmetic per epoch"
    )


def describe_kept(plan: Plan, phase: Phase) -> str:
    """Say what is kept of each text."""
    size, cut = plan.corpus_size, phase.cut
    what = f"the pooled vectors of {cut.layers} layers" if cut.layers > 1 else "the pooled vector of a layer"
    if cut.keeps != "layers":
        what = f"{cut.keeps} and {what}" if cut.layers else cut.keeps
    if cut.keeps_every_token or not size.distinct_words:
        return f"{what} of each {size.unit}"
    words = f"the first token of {size.distinct_words:,} words"
    whole = size.distinct_texts if cut.layers else size.distinct_pooled
    return f"{what} of {whole:,} texts and {words}" if whole else words


def span_of(stages: Sequence[str]) -> str:
    """Name stages in a row."""
    return f"{stages[0]} to {stages[-1]}" if len(stages) > 1 else stages[0]


def describe_store(job: EncodingJob, decision: StoreDecision) -> str:
    """Say whether the activation store serves, and how much of what is needed it has."""
    if decision.stored is None:
        return f"store: not used: {decision.reason}"
    texts, missing = job.plan.corpus_size.distinct_texts, len(decision.stored.missing)
    found = f"store: {texts - missing:,} of {texts:,} distinct {job.plan.corpus_size.unit}s are there"
    if decision.store is None:
        return f"{found}; nothing is added: {decision.reason}"
    return found + (
        f"; {missing:,} will be encoded, {format_bytes(missing_bytes(job, decision.stored))}" if missing else ""
    )


def rows_of_groups(plan: Plan) -> list[Row]:
    """One row for each parameter group of each phase."""
    return [
        {"first_epoch": phase.first, "group": group.name, "tensors": len(group.parameters), "numbers": plan.size(group)}
        | {"learning_rate": group.learning_rate, "weight_decay": group.weight_decay}
        for phase in plan.phases
        for group in phase.groups
    ]


def table_of_groups(plan: Plan, phase: Phase) -> Table:
    """List the parameter groups of a phase with their sizes and rates."""
    groups = table("group", "#tensors", "#numbers", "#learning rate", "#weight decay")
    for group in phase.groups:
        numbers = f"{plan.size(group):,}"
        groups.add_row(
            group.name, str(len(group.parameters)), numbers, f"{group.learning_rate:g}", f"{group.weight_decay:g}"
        )
    training = sum(plan.size(group) for group in phase.groups)
    groups.add_row("frozen", "", f"{plan.frozen + plan.trainable_numbers - training:,}", "", "")
    return groups
