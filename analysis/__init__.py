"""From finished runs to a fitted law and its report: no training, no Ray, no torch.

The names in `__all__` are the public API. Each is loaded from its module when it is first used.

>>> import analysis, pandas
>>> sizes = [2.5e6, 4.8e6, 9.6e6, 19e6, 37.9e6, 56.8e6, 75.7e6, 113.4e6]
>>> rfid = [0.539, 0.559, 0.525, 0.519, 0.510, 0.471, 0.470, 0.459]
>>> found = analysis.analyse(pandas.DataFrame({"params": sizes, "rfid": rfid}), "params", "rfid")
>>> low, high = found.line.slope_ci95
>>> f"{found.line.slope:.3f} ({low:.3f} .. {high:.3f})"
'-0.056 (-0.079 .. -0.034)'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.inference.analysis import Analysis, analyse
    from analysis.inference.asked import AskedLaw, Asking
    from analysis.inference.axes import JointAnalysis, analyse_axes
    from analysis.inference.designs import compare_designs
    from analysis.inference.predict import Forecast, Reach, forecast, reach
    from analysis.inference.verdicts import Verdict
    from analysis.laws.curves import Huber
    from analysis.laws.line import Line, fit_line
    from analysis.report.outcome import FitOutcome, fit_table
    from analysis.table.files import read_table
    from analysis.table.mlflow import read_mlflow
    from analysis.table.selection import Selection, select

__all__ = [
    "Analysis",
    "AskedLaw",
    "Asking",
    "FitOutcome",
    "Forecast",
    "Huber",
    "JointAnalysis",
    "Line",
    "Reach",
    "Selection",
    "Verdict",
    "analyse",
    "analyse_axes",
    "compare_designs",
    "fit_line",
    "fit_table",
    "forecast",
    "reach",
    "read_mlflow",
    "read_table",
    "select",
]

_MODULES = {
    "inference.analysis": ("Analysis", "analyse"),
    "inference.asked": ("AskedLaw", "Asking"),
    "inference.axes": ("JointAnalysis", "analyse_axes"),
    "inference.designs": ("compare_designs",),
    "inference.predict": ("Forecast", "Reach", "forecast", "reach"),
    "inference.verdicts": ("Verdict",),
    "laws.curves": ("Huber",),
    "laws.line": ("Line", "fit_line"),
    "report.outcome": ("FitOutcome", "fit_table"),
    "table.files": ("read_table",),
    "table.mlflow": ("read_mlflow",),
    "table.selection": ("Selection", "select"),
}
"""Where the public names are."""


def __getattr__(name: str) -> Any:
    """Loads a public name from its module (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    (module,) = (module for module, names in _MODULES.items() if name in names)
    return getattr(importlib.import_module(f"analysis.{module}"), name)


def __dir__() -> list[str]:
    return list(__all__)
