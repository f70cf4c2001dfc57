"""``topwork data``."""

from collections.abc import Mapping

from topwork.cli.format import Format
from topwork.cli.output import Row, write_csv, write_json
from topwork.cli.tables import console, heading, table
from topwork.data.texts import written
from topwork.engine.data_report import DataReport, TaskReport
from topwork.engine.preparation import describe_rows
from topwork.experiment.schema import Experiment

#: Labels of a task that a line of the table has room for.
MAX_LABELS = 8


def show_data(experiment: Experiment, format: Format) -> None:
    """Print what an experiment's rows are like."""
    report = describe_rows(experiment)
    if format is Format.JSON:
        write_json(report.dump())
    elif format is Format.CSV:
        write_csv([row for task in report.tasks for row in rows_of_labels(task)])
    else:
        print_report(report)


def print_report(report: DataReport) -> None:
    """Print a report as tables."""
    heading("sources")
    sources = table("source", "split", "#rows", "#distinct", "#median tokens", "#95 %", "#longest", "#truncated")
    for one in report.sources:
        lengths = f"{one.tokens_median:.0f}", f"{one.tokens_95:.0f}", f"{one.tokens_max:,}", f"{one.truncated:,}"
        sources.add_row(one.source, one.split, f"{one.rows:,}", f"{one.distinct:,}", *lengths)
    console.print(sources)
    console.print()
    heading("tasks")
    tasks = table("task", "source", "split", "#rows", "#labelled", "labels")
    for task in report.tasks:
        counts = f"{task.rows:,}", f"{task.labelled:,}"
        tasks.add_row(task.task, task.source, task.split, *counts, describe_labels(task))
    console.print(tasks)
    if report.conflicts:
        console.print()
        heading("equal texts with different labels")
        conflicts = table("task", "labels", "text")
        for conflict in report.conflicts:
            text = written(conflict.text).replace("\t", " | ")
            labels = ", ".join(f"{name} ({count})" for name, count in conflict.labels.items())
            conflicts.add_row(conflict.task, labels, text if len(text) <= 80 else f"{text[:77]}...")
        for task_name, count in report.conflicting.items():
            if more := count - sum(conflict.task == task_name for conflict in report.conflicts):
                conflicts.add_row(task_name, "", f"and {more:,} more texts")
        console.print(conflicts)
    for warning in report.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)


def describe_labels(task: TaskReport) -> str:
    """Write how the labels of a task are distributed, the most frequent first."""
    if any(isinstance(value, Mapping) for value in task.labels.values()):
        return "; ".join(
            f"{name}: mean {one['mean']:.4g}, sd {one['sd']:.4g}, {one['min']:.4g} to {one['max']:.4g}"
            for name, one in task.labels.items()
        )
    ordered = sorted(task.labels.items(), key=lambda item: -item[1])
    shown = [f"{name} {_share(value, task.items)}" for name, value in ordered[:MAX_LABELS]]
    more = [f"and {len(ordered) - MAX_LABELS:,} more"] if len(ordered) > MAX_LABELS else []
    return ", ".join([*shown, *more])


def rows_of_labels(task: TaskReport) -> list[Row]:
    """One row for each label of a task, or for each measure of its numbers."""
    known: Row = {"task": task.task, "source": task.source, "split": task.split}
    known = {**known, "rows": task.rows, "labelled": task.labelled}
    values = {
        f"{name}{f' {measure}' if measure else ''}": value
        for name, found in task.labels.items()
        for measure, value in (found.items() if isinstance(found, Mapping) else [("", found)])
    }
    return [{**known, "label": name, "value": value} for name, value in values.items()] or [known]


def _share(value: float, items: int) -> str:
    """Write a count with its share of all labels, or a share as it is."""
    return f"{value:,} ({value / items:.0%})" if isinstance(value, int) else f"{value:.0%}"
