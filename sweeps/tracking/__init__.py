"""A sweep in MLflow."""
