"""drorae: layer-fusing visual tokenizers (DRoRAE, arXiv 2605.10780) and the trials that measure them.

Importing the package is free: torch is loaded by the modules that compute, not here.
"""

__version__ = "0.1.0"
