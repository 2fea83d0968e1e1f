"""Processes, signals and memory."""
