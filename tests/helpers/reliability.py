"""What can go wrong with runs, the store, studies and tracking, and the tests that make it go wrong.

``python tests/helpers/reliability.py`` writes docs/reliability.md.
"""

import ast
from collections import defaultdict
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"

#: By row: the fault, and what happens then.
FAULTS = {
    "Training and checkpoints": {
        "A1": ("SIGKILL at any moment", "the same command ends with the same weights, metrics and MLflow history"),
        "A2": ("SIGKILL before or after any write or rename", "the checkpoint before it is used, and no rest stays"),
        "A3": ("the newest checkpoint is cut short", "it is put aside with a warning; the one before it is used"),
        "A4": ("one bit of a checkpoint is flipped", "its sha256 tells; as above"),
        "A5": ("no checkpoint can be read", "exit code 6, nothing is deleted, nothing begins anew"),
        "A6": ("SIGTERM or SIGHUP in a step", "the step is finished and written down; exit code 143 or 129"),
        "A7": ("Ctrl-C, once and twice", "as above with 130; the second ends the run at once, and files stay whole"),
        "A8": ("a signal handler of the script; no main thread", "it is called and put back; no handler is touched"),
        "A9": ("the states of random numbers cannot be read", "the checkpoint is damaged as a whole; as A3"),
        "A10": ("other settings, rows or plugins", "all differences are listed and refused, but for a short list"),
        "A11": ("the folder of a run is not there", "it is named, and no run begins"),
        "A12": ("a checkpoint of the first format", "it is read, and the training goes on"),
        "A13": ("a checkpoint of a newer format", "it is refused with the version that reads it"),
        "A14": ("another device, processor or torch", "refused; --allow-inexact goes on, and the run says so"),
        "A15": (
            "a loss that is not finite",
            "training ends with the step, the task and the rates; the best epoch is kept",
        ),
        "A16": ("rates that are far too high", "as above"),
        "A17": ("memory runs out in a step", "the step is named with what needs less; checkpoints stay"),
        "A18": ("two processes for one run", "the second is refused with the number of the first"),
        "A19": ("the run was moved; another working folder", "it goes on: nothing in it is an absolute path"),
        "A20": ("the disk is full, read-only, or has a quota", "the checkpoint before it is whole, no rest stays"),
    },
    "Activation store": {
        "B21": ("SIGKILL while it is filled", "what is whole is used, the rest is encoded, no rest stays"),
        "B22": ("several processes fill it", "each text is encoded once, the others wait and read"),
        "B23": ("the holder of a lock is killed", "the kernel frees the lock, and the next goes on at once"),
        "B24": ("a shard is cut short or empty", "it is encoded again with a warning"),
        "B25": ("a bit of a shard is flipped", "its sha256 tells; as above"),
        "B26": ("a shard without manifest, a manifest without shard", "unnamed files go, missing ones are made"),
        "B27": ("the disk is full", "known beforehand where possible; training goes on in memory"),
        "B28": ("it is read-only, or somebody else's", "it is read, and where to write is said"),
        "B29": ("a weight, cut, type, length or token differs", "another key"),
        "B30": ("another process, path or order", "the same key"),
        "B31": ("a plugin left of the cut draws or changes", "what the store has is compared, and the run stops"),
        "B32": ("what is left of the cut was trained", "neither written nor read"),
        "B33": ("with the store or without", "the same bits"),
        "B34": ("a frozen part in train mode", "it runs in eval mode all the same"),
        "B35": ("frozen weights change while others train", "they do not, to the last bit"),
        "B36": ("a shard is replaced while it is read", "the reader keeps what it had"),
        "B37": ("it is pruned while a run reads it", "the run is not disturbed"),
        "B38": ("it comes from another processor or torch", "another key, so it is encoded again"),
        "B39": ("a file system without flock", ""),
    },
    "Studies": {
        "C40": ("SIGKILL of a worker", "its trial is queued again, and the study ends with as many as were wanted"),
        "C41": ("SIGKILL of all processes", "the same command goes on; long trials go on from their checkpoints"),
        "C42": ("two workers find the same dead trial", "it is queued again once"),
        "C43": ("SIGKILL while the database is written", "the database is readable, and nothing is lost"),
        "C44": ("SIGTERM to a worker", "its trial is marked, and queued again"),
        "C45": ("the database is locked or gone", "it is waited for, then said with what to do"),
        "C46": ("many workers begin at once", "the database is made once, and trials are shared"),
        "C47": (
            "a trial fails, or gives no number",
            "it fails with its reason, and the study goes on; five in a row end it",
        ),
        "C48": ("all trials fail", "no best is reported; the last reason is"),
        "C49": ("many workers, one trial", "one takes it"),
        "C50": ("another search space", "the difference is listed and refused"),
        "C51": ("the same study twice", "the same suggestions"),
        "C52": ("the time of a job ends", "it is queued again, and its trial goes on from its checkpoint"),
        "C53": ("SIGKILL of workers and of a whole host", "the others end the study with as many as were wanted"),
    },
    "MLflow": {
        "D52": ("the server is away at the beginning", "said within seconds, with the setting to go without"),
        "D53": ("the server ends in the middle", "training goes on; what is logged waits on disk, and is sent later"),
        "D54": ("the server accepts and never answers", "as above, after five seconds"),
        "D55": ("several processes, one database", "nothing is lost"),
        "D56": ("SIGKILL before the run is closed", "the next start marks it, or goes on with it; nothing twice"),
        "D57": ("long values, many parameters, odd names", "shortened with a note, or refused before anything runs"),
        "D58": ("the server ends in the middle of a study", "as D53; what trials logged is sent when the study ends"),
    },
}

#: Why a row has no test.
REASONS = {
    "B39": "Not tested: no such file system can be made here. The locks are those of the package filelock, which ends "
    "with an error where `flock` is missing; put runs and the cache on a file system that has it.",
}


def marked_tests() -> dict[str, list[str]]:
    """The tests that are marked with each row, as ``file::test``."""
    found = defaultdict[str, list[str]](list)
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.reliability":
                    for row in mark.args:
                        assert isinstance(row, ast.Constant)
                        found[str(row.value)].append(f"{path.relative_to(TESTS.parent).as_posix()}::{node.name}")
    return dict(found)


def page() -> str:
    """The whole page."""
    marked = marked_tests()
    lines = [
        "# What can go wrong, and what happens then",
        "",
        "Each row has tests that make it happen: processes are killed, disks filled, files damaged and servers ended.",
        "This page is made from the marks of these tests by `python tests/helpers/reliability.py`.",
    ]
    for area, rows in FAULTS.items():
        lines += ["", f"## {area}", "", "| | fault | what happens | tests |", "|---|---|---|---|"]
        for row, (fault, then) in rows.items():
            tests = "<br>".join(_link(test) for test in marked.get(row, [])) or REASONS[row]
            lines.append(f"| {row} | {fault} | {then} | {tests} |")
    return "\n".join(lines) + "\n"


def _link(test: str) -> str:
    path, _, name = test.partition("::")
    return f"{name.removeprefix('test_').replace('_', ' ')} (`{path}`)"


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
