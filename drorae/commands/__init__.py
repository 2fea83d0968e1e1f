"""The commands of `drorae`, one dataclass each: its fields are the options, `run` does the work.

Nothing heavy is imported before `run`, so that `--help` is quick; only here may drorae import sweeps and analysis.
"""
