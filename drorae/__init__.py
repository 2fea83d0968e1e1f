"""drorae: layer-fusing visual tokenizers (DRoRAE, arXiv 2605.10780) and the trials that measure them.

The names in `__all__` are the public API. Each is loaded from its module when it is first used, so that importing the
package costs nothing and needs no torch.

>>> import drorae
>>> config = drorae.override(drorae.PRESETS["smoke"], "fusion.expert_hidden_dim", 64)
>>> config.fusion.expert_hidden_dim
64
>>> len(drorae.config_hash(config))
12
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drorae.config import (
        PRESETS,
        DecoderConfig,
        DiscriminatorConfig,
        EncoderConfig,
        EvaluationConfig,
        FusionConfig,
        ImagesConfig,
        ObjectiveConfig,
        PhaseConfig,
        ProbeConfig,
        Runtime,
        TrialConfig,
        config_hash,
        load_config,
        override,
    )
    from drorae.errors import UserError
    from drorae.export.tokenizer import PretrainedTokenizer, export_trial
    from drorae.trial.reload import reevaluate
    from drorae.trial.result import TrialResult, read_result
    from drorae.trial.run import run_trial

__version__ = "0.1.0"

__all__ = [
    "PRESETS",
    "DecoderConfig",
    "DiscriminatorConfig",
    "EncoderConfig",
    "EvaluationConfig",
    "FusionConfig",
    "ImagesConfig",
    "ObjectiveConfig",
    "PhaseConfig",
    "PretrainedTokenizer",
    "ProbeConfig",
    "Runtime",
    "TrialConfig",
    "TrialResult",
    "UserError",
    "config_hash",
    "export_trial",
    "load_config",
    "override",
    "read_result",
    "reevaluate",
    "run_trial",
]

_MODULES = {
    "PretrainedTokenizer": "drorae.export.tokenizer",
    "TrialResult": "drorae.trial.result",
    "UserError": "drorae.errors",
    "export_trial": "drorae.export.tokenizer",
    "read_result": "drorae.trial.result",
    "reevaluate": "drorae.trial.reload",
    "run_trial": "drorae.trial.run",
}
"""Where the public names are that `drorae.config` has not."""


def __getattr__(name: str) -> Any:
    """Loads a public name from its module (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_MODULES.get(name, "drorae.config")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
