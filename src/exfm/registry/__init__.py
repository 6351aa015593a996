"""The model registry: MLflow, embedded (SQLite) unless the environment names a tracking server."""
