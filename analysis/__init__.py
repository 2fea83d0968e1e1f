"""From finished runs to a fitted law and its report: no training, no Ray, no torch.

The names in `__all__` are the public API. Each is loaded from its module when it is first used.

>>> import analysis, pandas
>>> sizes = [2.5e6, 4.8e6, 9.6e6, 19e6, 37.9e6, 56.8e6, 75.7e6, 113.4e6]
>>> rfid = [0.539, 0.559, 0.525, 0.519, 0.510, 0.471, 0.470, 0.459]
>>> found = analysis.analyse(pandas.DataFrame({"params": sizes, "rfid": rfid}), "params", "rfid")
>>> low, high = found.fit.slope_ci95
>>> f"{found.fit.slope:.3f} ({low:.3f} .. {high:.3f})"
'-0.056 (-0.079 .. -0.034)'
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.axes import JointAnalysis, analyse_axes
    from analysis.compare import compare_designs
    from analysis.fit import Analysis, FitOutcome, analyse, fit_table
    from analysis.laws import LawFit, fit_law
    from analysis.predict import Forecast, Reach, forecast, reach
    from analysis.runs import Selection, read_mlflow, read_table, select
    from analysis.verdicts import Verdict

__all__ = [
    "Analysis",
    "FitOutcome",
    "Forecast",
    "JointAnalysis",
    "LawFit",
    "Reach",
    "Selection",
    "Verdict",
    "analyse",
    "analyse_axes",
    "compare_designs",
    "fit_law",
    "fit_table",
    "forecast",
    "reach",
    "read_mlflow",
    "read_table",
    "select",
]

_MODULES = {
    "JointAnalysis": "analysis.axes",
    "analyse_axes": "analysis.axes",
    "compare_designs": "analysis.compare",
    "LawFit": "analysis.laws",
    "fit_law": "analysis.laws",
    "Forecast": "analysis.predict",
    "Reach": "analysis.predict",
    "forecast": "analysis.predict",
    "reach": "analysis.predict",
    "Selection": "analysis.runs",
    "read_mlflow": "analysis.runs",
    "read_table": "analysis.runs",
    "select": "analysis.runs",
    "Verdict": "analysis.verdicts",
}
"""Where the public names are that `analysis.fit` has not."""


def __getattr__(name: str) -> Any:
    """Loads a public name from its module (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES.get(name, "analysis.fit")), name)


def __dir__() -> list[str]:
    return list(__all__)
