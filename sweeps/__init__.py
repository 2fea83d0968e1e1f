"""Sweeps of trials: which to run (`spec`), running them on Ray (`run`), recording them in MLflow (`tracking`)."""
