"""What a pickle of something would take along."""

from __future__ import annotations

import contextlib
import io
import pickle
import threading
from typing import Any


def reached(things: Any) -> list[str]:
    """What a pickle of `things` comes upon that belongs to the driver alone, whether or not it then fails at it."""
    import cloudpickle

    from sweeps.driver.screen import Screen
    from sweeps.driver.session import Session
    from sweeps.tracking.recorder import Recorder

    lock_types = (type(threading.Lock()), type(threading.RLock()), threading.Thread, threading.Event)
    found = []

    class Seeing(cloudpickle.Pickler):  # type: ignore[misc]
        def persistent_id(self, thing: Any) -> None:
            kind = type(thing)
            ours = isinstance(thing, (Screen, Session, Recorder, io.IOBase, threading.Condition, *lock_types))
            if ours or kind.__module__.split(".")[0] == "rich":
                found.append(f"{kind.__module__}.{kind.__qualname__}")

    with contextlib.suppress(TypeError, AttributeError, pickle.PicklingError):
        Seeing(io.BytesIO()).dump(things)
    return found
