"""Analyses as files: pages, figures, JSON, MLflow runs."""
