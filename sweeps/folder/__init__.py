"""A sweep's folder: its table, the state of its trials, its lease, its copy at a URL."""
