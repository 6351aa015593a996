"""The model registry: MLflow, embedded (SQLite) unless the environment names a tracking server."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # MLflow reads it once, at its import
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # it would be drawn wherever tqdm is installed
