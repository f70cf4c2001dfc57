"""Serve an MLflow store in the browser, and find what there is to compare in it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from topwork.errors import ConfigurationError, StorageError, first_line, reason_of
from topwork.lab.tracking.store import PARENT_TAG, STUDY_TAG, check_reachable, redact_uri

#: Seconds that the server may take to start.
START_TIMEOUT = 60

#: How many runs a link compares: more make no readable page.
MAX_COMPARED_RUNS = 100


def find_newest(uri: str) -> tuple[str, str]:
    """Say what the newest study or run is, and return the part of a link that shows it.

    Of a study that is the comparison of its trials, of a run the list that it stands in.

    Raises:
        StorageError: the store cannot be read.
    """
    try:
        client = MlflowClient(tracking_uri=uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, order_by=["attributes.start_time DESC"], max_results=1)
        if not runs:
            return "no runs yet", "#/experiments"
        run = runs[0]
        experiment_id, parent = run.info.experiment_id, run.data.tags.get(PARENT_TAG)
        study = run.data.tags.get(STUDY_TAG)
        if study is None:
            return f"run {run.info.run_name}", f"#/experiments/{experiment_id}/runs"
        query = f"tags.`{PARENT_TAG}` = '{parent or run.info.run_id}'"
        trials = client.search_runs(
            [experiment_id], query, order_by=["attributes.start_time ASC"], max_results=MAX_COMPARED_RUNS
        )
        if not trials:
            return f"study {study}, which has no trials yet", f"#/experiments/{experiment_id}/runs"
    except MlflowException as error:
        raise StorageError(f"the MLflow store {redact_uri(uri)} cannot be read: {first_line(error)}") from error
    ids = quote(json.dumps([trial.info.run_id for trial in trials], separators=(",", ":")))
    return f"the trials of study {study}", f"#/compare-runs?runs={ids}&experiments={quote(json.dumps([experiment_id]))}"


@contextmanager
def serving(uri: str, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Run ``mlflow server`` on a store, for this machine only, from when it answers until the block ends.

    Raises:
        ConfigurationError: the port is taken.
        StorageError: the server does not start.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} cannot be used: {reason_of(error)}; choose another with --port"
            ) from None
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", "127.0.0.1"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--workers", "1"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,  # it has processes of its own, which are to end with it
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    try:
        _wait(process, port)
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _wait(process: "subprocess.Popen[bytes]", port: int) -> None:
    until = time.monotonic() + START_TIMEOUT
    while True:
        if process.poll() is not None:
            raise StorageError(f"mlflow server ended with exit code {process.returncode}; its output is above")
        try:
            check_reachable(f"http://127.0.0.1:{port}")
        except OSError:
            if time.monotonic() > until:
                raise StorageError(f"mlflow server did not answer within {START_TIMEOUT} seconds") from None
            time.sleep(0.3)
        else:
            return
