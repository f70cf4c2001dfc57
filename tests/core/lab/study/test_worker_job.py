"""What the parent of a study tells its workers arrives as it was sent."""

from pathlib import Path

from topwork.lab.study.worker_job import TrackedRun, WorkerJob, outputs_file
from topwork.plugin_file import PluginFile


def test_a_job_is_one_line_that_reads_back() -> None:
    job = WorkerJob(
        experiment={"name": "a\nname", "training": {"clip_norm": None}},
        plugins=(PluginFile(path=Path("my_head.py"), sha256="0" * 64, text="import topwork\n"),),
        folder=Path("/somewhere"),
        storage="sqlite:////somewhere/study.db",
        tracked=TrackedRun(uri="sqlite:////somewhere/mlflow.db", experiment_id="1", run_id="abc"),
        digest="123",
        since=1.5,
        deadline=None,
    )
    line = job.model_dump_json()
    assert "\n" not in line
    assert WorkerJob.model_validate_json(line) == job


def test_outputs_of_different_databases_and_trials_lie_apart() -> None:
    files = {outputs_file(Path("pair"), study, number) for study in ("abc", "def") for number in (1, 12)}
    assert len(files) == 4
    assert Path("pair/trials/abc/12.safetensors") in files
