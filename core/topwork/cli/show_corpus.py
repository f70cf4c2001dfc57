"""``topwork encode-corpus``."""

import shlex
from dataclasses import asdict
from pathlib import Path

from topwork.cli.format import Format
from topwork.cli.output import result_alone, write_csv, write_json
from topwork.cli.show_training import ProgressBar, make_progress
from topwork.cli.tables import console, format_bytes
from topwork.experiment.schema import Experiment
from topwork.lab.encode_corpus import StoredCorpus, encode_corpus


def show_corpus(experiment: Experiment, file: Path, format: Format) -> None:
    """Encode with a progress bar, then print what is stored."""
    with result_alone(format), make_progress() as progress:
        corpus = encode_corpus(experiment, observer=ProgressBar(progress))
    folders = [str(folder) for folder in corpus.folders]
    if format is Format.JSON:
        write_json({**asdict(corpus), "folders": folders})
    elif format is Format.CSV:
        write_csv([{**asdict(corpus), "folders": " ".join(folders)}])
    else:
        _print(corpus, file)


def _print(corpus: StoredCorpus, file: Path) -> None:
    others = corpus.texts - corpus.encoded
    speed = f", {corpus.encoded / corpus.seconds:,.0f} texts/s" if corpus.encoded else ""
    console.print(
        f"stored: {corpus.texts:,} distinct texts, {corpus.tokens:,} tokens, {format_bytes(corpus.bytes)}\n"
        f"encoded here: {corpus.encoded:,} on {corpus.device} in {corpus.seconds:,.1f} s{speed}; "
        f"{others:,} were there, or came from other processes\n"
        f"shared by: claims by {corpus.claims}; folders are locked by {corpus.lock}",
        soft_wrap=True,
    )
    if corpus.difference is not None:
        console.print(
            f"the CPU's activations differ from these by up to {corpus.difference:.1e}; they are kept apart, so a run "
            "on the CPU encodes its own",
            soft_wrap=True,
        )
    for folder in corpus.folders:
        console.print(f"folder: {folder}", soft_wrap=True)
    console.print(f"  topwork train {shlex.quote(str(file))} reads it", soft_wrap=True)
