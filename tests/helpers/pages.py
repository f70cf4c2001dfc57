"""The blocks of a page, and what it takes to run them as a reader would, from top to bottom."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from topwork.cli import main as topwork_main

#: What makes trainings short; readers run them whole.
SHORT = ["--set", "training.epochs=1"]

BLOCK = re.compile(
    r"(?:^<!-- (?P<note>.+?) -->\n)?^```(?P<language>\w+)(?P<options>.*)\n(?P<code>(?:.*\n)*?)^```$", re.M
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        title: the file that it is the content of; empty for what is run or shown.
        note: of a comment before it: ``not run: WHY``, or ``an example``.
    """

    language: str
    code: str
    title: str
    note: str


def blocks_of(page: Path, language: str = "") -> Iterator[Block]:
    """The blocks of a page, or those of one language."""
    for found in BLOCK.finditer(page.read_text(encoding="utf-8")):
        title = re.search(r'title="([^"]+)"', found["options"])
        if language in ("", found["language"]):
            yield Block(found["language"], found["code"], title[1] if title else "", found["note"] or "")


class Reader:
    """Does what a page says, in a folder that has the experiments."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self.patch, self.capture = folder, patch, capture
        self.names: dict[str, Any] = {"__name__": "page"}
        self.printed = ""

    def read(self, block: Block) -> None:
        """Write a block's file, run it, or compare it with what was printed last."""
        if block.note:
            assert block.note == "an example" or re.fullmatch(r"not run: .{10,}", block.note), block.note
            return
        if block.title:
            (self.folder / block.title).write_text(block.code, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.code, "page", "exec"), self.names)
        elif block.language == "bash":
            for line in block.code.splitlines():
                self.run(line)
        elif block.language == "text":
            assert stripped(block.code) == stripped(self.printed)

    def run(self, line: str) -> None:
        """Run one command, as far as it is about data that is here."""
        words = shlex.split(line, comments=True)
        if not words or "reviews.txt" in line:  # real data is not part of the project
            return
        with self.patch.context() as patch:
            while "=" in words[0]:
                patch.setenv(*words.pop(0).split("=", 1))
            if words[:2] == ["python", "-m"]:
                self.printed = run_module([*words[2:], "-p", "no:cacheprovider"], self.folder)
            elif words[0] == "torchrun":
                self.printed = run_module(["torch.distributed.run", *words[1:], *more_of(words)], self.folder)
            elif words[0] == "topwork":
                self.printed = self.run_topwork(words, patch)
            else:
                assert words[0] in ("make", "pip"), f"nothing runs {line!r}"  # the tests of the installation do

    def run_topwork(self, words: list[str], patch: pytest.MonkeyPatch) -> str:
        """Run a ``topwork`` command in this process, which has imported what it needs."""
        patch.setattr(sys, "argv", [*words, *more_of(words)])
        self.capture.readouterr()
        with pytest.raises(SystemExit) as leaving:
            topwork_main()
        printed = self.capture.readouterr()
        assert not leaving.value.code, f"{shlex.join(words)}: {printed.err}"
        return printed.out


def more_of(words: list[str]) -> list[str]:
    """Return the settings with which a command is short."""
    more = SHORT if "train" in words or "study" in words else []
    return [*more, "--set", "study.trials=2"] if "study" in words else more


def run_module(words: list[str], folder: Path) -> str:
    """Run a module of Python in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stripped(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]
