"""Sweeps of trials: which to run, running them on Ray, recording them in MLflow.

The names in `__all__` are the public API. Each is loaded from its module when it is first used, so that importing the
package needs neither Ray nor MLflow.

>>> import sweeps
>>> spec = sweeps.SWEEPS["smoke"]
>>> [config.fusion.expert_hidden_dim for config in sweeps.expand(spec)]
[4, 16, 64, 256]
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweeps.driver.run import SweepOutcome, resume_sweep, run_sweep
    from sweeps.presets import SWEEPS
    from sweeps.resources import Resources
    from sweeps.settings import Asha
    from sweeps.spec import Axis, Range, Search, SweepSpec, expand

__all__ = [
    "SWEEPS",
    "Asha",
    "Axis",
    "Range",
    "Resources",
    "Search",
    "SweepOutcome",
    "SweepSpec",
    "expand",
    "resume_sweep",
    "run_sweep",
]

_MODULES = {
    "SWEEPS": "sweeps.presets",
    "Asha": "sweeps.settings",
    "Resources": "sweeps.resources",
    "SweepOutcome": "sweeps.driver.run",
    "resume_sweep": "sweeps.driver.run",
    "run_sweep": "sweeps.driver.run",
}
"""Where the public names are that `sweeps.spec` has not."""


def __getattr__(name: str) -> Any:
    """Loads a public name from its module (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES.get(name, "sweeps.spec")), name)


def __dir__() -> list[str]:
    return list(__all__)
