"""``topwork runs`` and ``topwork sync``."""

import shlex
import time
from pathlib import Path

from topwork.cli.format import Format
from topwork.cli.output import write_rows
from topwork.cli.tables import console, table
from topwork.engine.training.checkpoint_names import checkpoints_in, position_of
from topwork.errors import ConfigurationError, StorageError, text_of
from topwork.files import is_held
from topwork.lab.run_record import (
    CHECKPOINTS,
    RESULT_FILE,
    RunRecord,
    find_runs,
    model_path,
    read_record,
    trainings_in,
    unsent_in,
)

#: A row of the table: text by column.
Row = dict[str, str]


def show_runs(folder: Path | None, format: Format) -> None:
    """Print the runs beside the models in a folder, or in this one and in ``models``."""
    if folder is not None and not folder.is_dir():
        raise ConfigurationError(f"{folder} is no folder")
    rows = [describe_run(path) for path in find_runs([folder] if folder else [Path(), Path("models")])]
    if format is not Format.TABLE:
        write_rows(rows, format)
        return
    if not rows:
        console.print(f"no runs in {folder or 'this folder, or in models'}", soft_wrap=True)
        return
    shown = table("run", "state", "done", "begun", "next")
    for row in rows:
        shown.add_row(*row.values())
    console.print(shown)


def show_sync(run: Path, uri: str | None) -> None:
    """Send what waits for the MLflow store, and say how much that was."""
    from topwork.lab.tracking.sync import sync

    sent = sync(run, uri=uri)
    console.print(f"{sent} writes sent" if sent else f"nothing of {run} waits to be sent", soft_wrap=True)


def describe_run(path: Path) -> Row:
    """Return what a run is, how far it has come, and what is to be done with it."""
    quoted = shlex.quote(str(path))
    try:
        record = read_record(path)
    except StorageError as error:
        return {"run": str(path), "state": "damaged", "done": "", "begun": "", "next": text_of(error)}
    state: str = record.state
    model = model_path(path, record)
    if state == "finished":
        gone = f"its model is gone from {model}"
        trust = " --trust-plugins" if record.plugins else ""
        next_step = f"topwork predict {shlex.quote(str(model))} 'a text'{trust}" if model.exists() else gone
    elif state == "failed":
        next_step = record.reason.splitlines()[0]
    elif is_held(path):
        state, next_step = "running", "wait for it"
    else:
        next_step = f"topwork resume {quoted}"
    if waiting := sum(len(unsent_in(one)) for one in trainings_in(path).values()):
        next_step += f"; {waiting} writes wait for MLflow: topwork sync {quoted}"
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.begun))
    return {
        "run": str(path),
        "state": state,
        "done": describe_progress(path, record),
        "begun": begun,
        "next": next_step,
    }


def describe_progress(path: Path, record: RunRecord) -> str:
    """Say how much of a run is done."""
    most = record.identity.get("training.epochs", "?")
    done = [f"{count} of {most} epochs{_of(name)}" for name, count in record.epochs.items()]
    if len(done) > 2:
        done = [f"{len(done)} trainings"]
    for name, training in trainings_in(path).items():
        newest = checkpoints_in(training / CHECKPOINTS)[:1]
        if newest and not (training / RESULT_FILE).exists():
            epoch, step = position_of(newest[0])
            done.append(f"{epoch - 1} of {most} epochs{f' and {step} steps' if step else ''}{_of(name)}")
    return ", ".join(done) or "nothing"


def _of(training: str) -> str:
    return f" of {training}" if training else ""
