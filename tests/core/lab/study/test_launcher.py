"""Where workers run is settled at the start, and what nodes of a cluster could not share is refused there."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

from study_helpers import resolve_small
from topwork.errors import ConfigurationError
from topwork.lab.study.launcher import make_pool
from topwork.lab.study.slurm_pool import SlurmPool
from topwork.lab.study.worker_pool import WorkerPool

SHARED = "postgresql://me:secret@database/trials"
SERVER = "tracking.uri=http://tracking:5000"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which jobs can be submitted, as far as is looked at here."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "srun", "scancel"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)


def refused(*more: str, **study: Any) -> list[str]:
    """What is wrong with a study on a cluster, without the place."""
    with pytest.raises(ConfigurationError) as caught:
        make_pool(resolve_small(*more, launcher="slurm", **study))
    return [re.sub(r"^.*: (?=(study|tracking)\.\w+: )", "", line) for line in str(caught.value).splitlines()]


def test_workers_are_processes_of_this_machine_unless_said_otherwise() -> None:
    pool = make_pool(resolve_small(workers=9, trials=3))
    assert isinstance(pool, WorkerPool)
    assert pool.count == 3  # no more than there are trials


@pytest.mark.usefixtures("cluster")
def test_jobs_ask_for_what_the_section_says() -> None:
    section = {"partition": "gpu", "hours": 1.5, "memory": 16.0, "cpus": 4, "gpus": 1}
    pool = make_pool(resolve_small(SERVER, launcher="slurm", storage=SHARED, workers=2, slurm=section))
    assert isinstance(pool, SlurmPool)
    asked = {name: value for name, value in pool.parameters.items() if not name.startswith(("slurm_sig", "slurm_add"))}
    assert asked == {
        "name": "topwork-quickstart",
        "timeout_min": 90,
        "mem_gb": 16.0,
        "cpus_per_task": 4,
        "gpus_per_node": 1,
        "slurm_partition": "gpu",
    }


@pytest.mark.usefixtures("cluster")
def test_files_of_one_machine_are_refused_with_their_place() -> None:
    storage, tracking = refused("tracking.uri=sqlite:////srv/mlflow.db", storage="sqlite:////srv/study.db")
    assert storage == (
        "study.storage: launcher slurm needs a database that all nodes reach, and sqlite:////srv/study.db is a file; "
        "set study.storage to postgresql://user@host/database"
    )
    assert tracking == (
        "tracking.uri: launcher slurm needs an MLflow server that all nodes reach, and sqlite:////srv/mlflow.db is a "
        "file; set tracking.uri to http://host:port, or go without: tracking.enabled=false"
    )
    (left,) = refused(SERVER)  # without a storage there is a file in the study's folder
    assert left.startswith("study.storage: launcher slurm needs a database that all nodes reach, and sqlite:///")
    make_pool(resolve_small("tracking.enabled=false", launcher="slurm", storage=SHARED))


def test_a_machine_that_cannot_submit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert refused(SERVER, storage=SHARED) == [
        "study.launcher: this machine has no sbatch, srun, scancel; run the command where jobs can be submitted"
    ]


def test_the_package_that_submits_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "submitit" else found(name))
    assert refused(SERVER, storage=SHARED) == [
        "study.launcher: jobs are submitted by a further package: pip install 'topwork[slurm]'"
    ]
