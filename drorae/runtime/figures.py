"""Matplotlib as figures need it: under its own settings, whatever a user's are, and without a word."""

from __future__ import annotations

import contextlib
import logging
import threading
import warnings
from collections.abc import Iterator

_SETTINGS = threading.RLock()
"""Held while matplotlib's settings, which all threads share, are a figure's."""


@contextlib.contextmanager
def plain_figures() -> Iterator[None]:
    """Figures are made and drawn here with matplotlib's defaults, and those of its users are put back.

    A sign that no font has is drawn as a box, as it is in a terminal, and nobody is warned of it. Also a decorator.
    """
    import matplotlib

    # The backend is for windows, of which these figures have none.
    chosen = {name: value for name, value in matplotlib.rcParamsDefault.items() if not name.startswith("backend")}
    # Type 42 is TrueType, which journals ask for. A dollar sign in a name is one, and no mathematics.
    settings = chosen | {"svg.hashsalt": "drorae", "svg.fonttype": "path", "pdf.fonttype": 42, "text.parse_math": False}
    with _SETTINGS, warnings.catch_warnings(), matplotlib.rc_context(settings):
        warnings.filterwarnings("ignore", message=r"Glyph \d+", category=UserWarning)
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support", category=UserWarning)
        # A font of another weight than asked for is as good.
        fonts = logging.getLogger("matplotlib.font_manager")
        level = fonts.level
        fonts.setLevel(logging.ERROR)
        try:
            yield
        finally:
            fonts.setLevel(level)
