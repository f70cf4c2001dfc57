"""Where a study's workers run: on this machine, or on the nodes of a cluster."""

import importlib.util

from topwork.errors import ConfigurationError
from topwork.experiment.study import SlurmSettings
from topwork.lab.study.resolved_study import ResolvedStudy
from topwork.lab.study.storage import is_local, redacted
from topwork.lab.study.worker_pool import Pool, WorkerPool
from topwork.lab.tracking.store import redact_uri, sqlite_file, tracking_uri_of


def make_pool(study: ResolvedStudy) -> Pool:
    """Return a pool for the study's workers, none of which is started yet.

    Raises:
        ConfigurationError: its launcher cannot serve; names all that is missing.
    """
    settings = study.settings
    count = min(settings.workers, study.n_trials)
    if settings.launcher == "local":
        return WorkerPool(study.folder, count)
    errors = list(_not_shared(study))
    where = study.experiment.origin.locate("study", "launcher")
    if importlib.util.find_spec("submitit") is None:
        errors.append(f"{where}: jobs are submitted by a further package: pip install 'topwork[slurm]'")
    else:
        from topwork.lab.study.slurm_pool import SlurmPool, missing_programs

        if missing := missing_programs():
            errors.append(f"{where}: this machine has no {missing}; run the command where jobs can be submitted")
    if errors:
        raise ConfigurationError("\n".join(errors))
    return SlurmPool(study.folder, study.name, count, settings.slurm or SlurmSettings())


def _not_shared(study: ResolvedStudy) -> list[str]:
    """What is a file of one machine and should be a database or a server that all nodes reach."""
    origin, tracking = study.experiment.origin, study.experiment.tracking
    errors = []
    if is_local(study.storage_url):
        errors.append(
            f"{origin.locate('study', 'storage')}: launcher slurm needs a database that all nodes reach, and "
            f"{redacted(study.storage_url)} is a file; set study.storage to postgresql://user@host/database"
        )
    uri = tracking_uri_of(tracking.uri) if tracking.enabled else ""
    if uri and sqlite_file(uri):
        errors.append(
            f"{origin.locate('tracking', 'uri')}: launcher slurm needs an MLflow server that all nodes reach, and "
            f"{redact_uri(uri)} is a file; set tracking.uri to http://host:port, or go without: tracking.enabled=false"
        )
    return errors
