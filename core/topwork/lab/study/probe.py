"""Which layer, and which pooling: a head of each task on every layer of the frozen encoder."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from topwork.engine.evaluation.comparison import Difference, SplitOutputs
from topwork.engine.evaluation.estimates import estimate
from topwork.engine.preparation_cache import PreparationCache
from topwork.errors import ConfigurationError, StudyError
from topwork.experiment.schema import Experiment
from topwork.experiment.search import with_overrides
from topwork.files import write_file
from topwork.interfaces.backbone import Backbone
from topwork.interfaces.head import Metric
from topwork.lab.study.grid import (
    check_splits,
    compared_metric,
    gain,
    measure_of,
    outputs_of_trials,
    train_grid,
    with_grid,
)
from topwork.lab.study.probe_figure import draw_probe
from topwork.lab.study.probe_result import Probe, ProbeResult
from topwork.lab.study.resolved_study import ResolvedStudy, StudyPlan, identity_of, resolve_study
from topwork.lab.study.result import StudyObserver, TrialSummary
from topwork.lab.study.search_space import values_of
from topwork.lab.study.storage import check_url
from topwork.lab.study.study_run import StudyRun, open_study
from topwork.lab.tracking.store import redact_uri
from topwork.registry import discover

#: The poolings that layers are tried with.
POOLINGS = ("cls", "mean")


def probe(experiment: Experiment, *, workers: int | None = None, observer: StudyObserver | None = None) -> ProbeResult:
    """Train the heads on each layer of the frozen encoder, pooled by its first token and by the mean, with each seed.

    The experiment's own pooling and freeze strategy are set aside. Texts are encoded once, in one pass for all layers.
    The same call goes on where this was interrupted. What was found is logged, and written to ``probe.csv`` in the
    study's folder.

    Args:
        workers: processes of one thread each; without it the study section's, or 2.
        observer: its methods are called while trainings run.

    Raises:
        TopworkError: what is wrong, and what to do about it.
        StudyError: trainings failed one after another, or nothing could be trained.
    """
    started = time.time()
    observer = observer or StudyObserver()
    cache, registry = PreparationCache(), discover(experiment.plugins)
    frozen = with_frozen_encoder(experiment)
    baseline = cache.prepare(with_overrides(frozen, {"training.seeds": None}, registry))
    check_splits(baseline, "probe")
    monitors = baseline.monitors
    compared = {
        task: compared_metric(head.metrics, monitors[task if task in monitors else None], task)
        for task, head in baseline.model.tasks.items()
    }
    objective = [f"{task}/{metric}" for task, metric in compared.items()]
    settings = settings_of(probes_of(baseline.model.backbone))
    study = with_grid(frozen, "probe", "pooling", settings, objective=objective, workers=workers)
    resolved = resolve_study(study, registry)
    check_url(resolved.storage_url)
    observer.resolved(resolved)
    with open_study(resolved, lambda: _plan(resolved, cache), started) as run:
        trials, encoding_seconds = train_grid(run, cache, observer)
        result = _result(run, compared, trials, encoding_seconds)
        write_file(result.folder / "probe.csv", result.as_csv().encode())
        if run.log:
            _log(run, result)
    return result


def with_frozen_encoder(experiment: Experiment) -> Experiment:
    """Return the experiment with the encoder frozen, and with those tasks alone whose heads read pooled vectors.

    Raises:
        ConfigurationError: there are none.
    """
    pooled = [name for name, task in experiment.trained_tasks.items() if task.head.reads != "words"]
    if not pooled:
        raise ConfigurationError(
            f"{experiment.origin.locate('tasks')}: probe compares pooled vectors, and every head reads words"
        )
    parts: dict[str, Any] = {"freeze": {"kind": "all"}, "pooling": {"kind": "cls"}}
    if len(pooled) < len(experiment.tasks):
        parts["training.tasks"] = pooled
    varied = with_overrides(experiment, parts, discover(experiment.plugins))
    return varied.model_copy(update={"study": experiment.study})


def probes_of(backbone: Backbone) -> list[Probe]:
    """Return each layer of a backbone, and what its embeddings give, with each pooling."""
    numbers = sorted({stage.layer for stage in backbone.stages() if stage.layer is not None})
    layers = ["embeddings", *(f"layer.{number}" for number in numbers)]
    return [Probe(layer, pooling) for layer in layers for pooling in POOLINGS]


def settings_of(probes: Sequence[Probe]) -> list[dict[str, Any]]:
    """Return the settings of the pooling of each probe; of the last layer those that say nothing of layers."""
    last = probes[-1].layer
    return [
        {"kind": probe.pooling} if probe.layer == last else {"kind": probe.pooling, "layer": _layer_of(probe)}
        for probe in probes
    ]


def _layer_of(probe: Probe) -> int | str:
    return probe.layer if probe.layer == "embeddings" else int(probe.layer.removeprefix("layer."))


def _plan(study: ResolvedStudy, cache: PreparationCache) -> StudyPlan:
    """Check the experiment.

    Raises:
        TopworkError: something does not fit.
    """
    baseline = cache.prepare(study.trial_experiment({}))
    directions = tuple(
        next(one.greater_is_better for one in baseline.model.tasks[task].metrics if one.name == metric)
        for task, _, metric in (objective.partition("/") for objective in study.settings.objectives)
    )
    return StudyPlan(baseline, directions, identity_of(study, baseline.dataset.digest))


def _result(
    run: StudyRun, compared: Mapping[str, str], trials: Sequence[TrialSummary], encoding_seconds: float
) -> ProbeResult:
    """Compare what was trained.

    Raises:
        StudyError: nothing was trained.
    """
    study, log = run.study, run.log
    probes = probes_of(run.plan.baseline.model.backbone)
    by_settings = {repr(settings): probe for probe, settings in zip(probes, settings_of(probes), strict=True)}
    named = {by_settings[repr(values_of(trial.parameters, study.search)["pooling"])]: trial for trial in trials}
    outputs, warnings = outputs_of_trials(run, {probe: named[probe] for probe in probes if probe in named})
    if left := len(probes) - len(named):
        warnings.append(f"{left} of {len(probes)} poolings were not trained; run the same command to go on")
    if not outputs:
        reasons = "; ".join(dict.fromkeys(trial.reason for trial in trials if trial.reason))
        raise StudyError(f"nothing was trained, so that there is nothing to compare{f': {reasons}' if reasons else ''}")
    first = next(iter(outputs.values()))
    measures = {task: measure_of(study.experiment, first, task, metric) for task, metric in compared.items()}
    validation = {
        (task, probe): named[probe].values[number] for number, task in enumerate(compared) for probe in outputs
    }
    chosen = {
        task: max(outputs, key=lambda probe: validation[task, probe] * (1 if measure.greater_is_better else -1))
        for task, measure in measures.items()
    }
    return ProbeResult(
        name=study.name,
        folder=study.folder,
        metrics=dict(compared),
        validation=validation,
        values={
            (task, probe): estimate(measure, outputs[probe].by_seed(task), outputs[probe].targets[task])
            for task, measure in measures.items()
            for probe in outputs
        },
        chosen=chosen,
        against_last={
            task: _gain(outputs, task, chosen[task], Probe(probes[-1].layer, chosen[task].pooling), measure)
            for task, measure in measures.items()
        },
        seeds=study.seeds,
        training_seconds=sum(trial.training_seconds for trial in trials),
        seconds=time.time() - run.started,
        encoding_seconds=encoding_seconds,
        run_id=log.run_id if log else None,
        tracking_uri=redact_uri(log.store.uri) if log else None,
        warnings=[*run.plan.baseline.warnings, *warnings],
    )


def _gain(
    outputs: Mapping[Probe, SplitOutputs], task: str, chosen: Probe, last: Probe, measure: Metric
) -> Difference | None:
    """Return how much better a probe is than another; None where they are one, or the other was not trained."""
    return None if chosen == last or last not in outputs else gain(outputs[last], outputs[chosen], task, measure)


def _log(run: StudyRun, result: ProbeResult) -> None:
    """Log the table to MLflow: as metrics, as a file and as a figure."""
    assert run.log is not None
    run.log.log_figures(
        {f"probe/{task}/{probe.pooling}/{probe.layer}": one for (task, probe), one in result.values.items()}
    )
    run.log.log_files({"probe": draw_probe(result)}, {"probe.csv": result.as_csv()})
