"""A study is opened, and whatever ends it, its workers and its run end too."""

import pytest
from mlflow import MlflowClient

from study_helpers import make_study, trained_here
from topwork.engine.preparation_cache import PreparationCache
from topwork.errors import DataError
from topwork.lab.study.resolved_study import StudyPlan, plan_study, resolve_study
from topwork.lab.study.result import StudyObserver
from topwork.lab.study.study_run import open_study, run_trials
from topwork.registry import discover


def test_a_plan_that_fails_leaves_no_run_behind(store_uri: str) -> None:
    resolved = resolve_study(make_study(f"tracking.uri={store_uri}"), discover())

    def plan() -> StudyPlan:
        raise DataError("no such rows")

    with trained_here(), pytest.raises(DataError, match="no such rows"), open_study(resolved, plan, 0.0):
        pass
    client = MlflowClient(tracking_uri=store_uri)
    assert client.search_runs([one.experiment_id for one in client.search_experiments()]) == []


@pytest.mark.slow
@pytest.mark.parametrize(("trained", "status"), [(True, "FINISHED"), (False, "KILLED")])
def test_the_run_ends_as_what_happened_says(store_uri: str, trained: bool, status: str) -> None:
    resolved = resolve_study(make_study(f"tracking.uri={store_uri}", trials=1), discover())
    cache = PreparationCache()

    def carry_out() -> None:
        with trained_here(), open_study(resolved, lambda: plan_study(resolved, cache), 0.0) as run:
            if trained:
                run_trials(run, cache, StudyObserver())
            raise RuntimeError("after it")

    with pytest.raises(RuntimeError, match="after it"):
        carry_out()
    client = MlflowClient(tracking_uri=store_uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    parents = [run for run in client.search_runs(experiments) if "mlflow.parentRunId" not in run.data.tags]
    assert [run.info.status for run in parents] == [status]
