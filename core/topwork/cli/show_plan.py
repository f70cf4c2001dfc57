"""``topwork plan``."""

from collections.abc import Mapping

from topwork.cli.tables import amount, console, heading, table
from topwork.engine.plan import Plan
from topwork.engine.preparation import prepare
from topwork.experiment.schema import Experiment, SplitName


def show_plan(experiment: Experiment) -> None:
    """Print what would train and what it would cost."""
    prepared = prepare(experiment)
    plan = prepared.plan
    groups = table("group", "#tensors", "#numbers", "#learning rate", "#weight decay")
    for group in plan.groups:
        numbers = f"{plan.size(group):,}"
        groups.add_row(
            group.name, str(len(group.parameters)), numbers, f"{group.learning_rate:g}", f"{group.weight_decay:g}"
        )
    groups.add_row("frozen", "", f"{plan.frozen:,}", "", "")
    heading("what trains")
    console.print(groups)
    console.print()
    rows = table("task", "head", "classes")
    for name, task in prepared.experiment.tasks.items():
        rows.add_row(name, task.head.kind, ", ".join(prepared.dataset.labels[name].names))
    heading("tasks")
    console.print(rows)
    console.print()
    sizes = {name: len(part.texts) for name, part in prepared.dataset.parts.items()}
    console.print(describe_rows(plan, sizes), soft_wrap=True)
    console.print(describe_cut(plan), soft_wrap=True)
    for warning in prepared.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)
    console.print(f"plan {plan.digest[:12]}")


def describe_rows(plan: Plan, sizes: Mapping[SplitName, int]) -> str:
    """Say how many texts there are and how long."""
    splits = ", ".join(f"{name} {count:,}" for name, count in sizes.items())
    return f"rows: {splits}; {plan.tokens / plan.texts:.1f} tokens per text, {plan.truncated:,} texts truncated"


def describe_cut(plan: Plan) -> str:
    """Say where the cut is, what is kept there, and what an epoch costs."""
    if not plan.prefix:
        return "cut: before the first stage, since it trains; every epoch runs the whole backbone"
    where = f"before {plan.suffix[0]}" if plan.suffix and plan.cut.keeps != "pooled" else "behind the pooling"
    ratio = plan.cost.train_uncached / plan.cost.train
    return (
        f"cut: {where}; the {len(plan.prefix)} stages left of it run once\n"
        f"kept: {plan.cut.keeps} of each text, {amount(plan.kept_bytes / plan.texts)} per text, "
        f"{amount(plan.kept_bytes)} in all\n"
        f"cost per text: encoding once {plan.cost.encode / 1e6:,.1f} MFLOP, then each epoch "
        f"{plan.cost.train / 1e6:,.1f} MFLOP instead of {plan.cost.train_uncached / 1e6:,.1f}: "
        f"{ratio:,.1f} times less arithmetic per epoch"
    )
