"""Runs in MLflow; nothing outside this package imports mlflow."""

import os

# Set before mlflow is imported. Usage is reported to nobody; a store that has gone away costs seconds and not
# the minutes of retries that are mlflow's default, since we try again ourselves; its log and its progress bars stay
# out of ours.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
