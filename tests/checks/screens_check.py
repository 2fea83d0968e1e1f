"""Photographs a sweep on a terminal of 80 x 24 with tmux: at the preparation, half-way, after Ctrl-C, at the end.

    python tests/checks/screens_check.py --into docs/terminal.md

Runs the quickstart in a folder of its own, ends it with Ctrl-C half-way, goes on with the command that it printed, and
exits with 1 where a code or a screen is not as it should be. Takes as long as the quickstart.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

DRORAE = Path(sys.executable).with_name("drorae")
COLUMNS, LINES = 80, 24
SECONDS = 3600.0
MARK = "<!-- screens -->"


class Terminal:
    """A shell in a tmux of its own."""

    def __init__(self, folder: Path) -> None:
        self._server = ["tmux", "-L", f"drorae-{folder.name}", "-f", "/dev/null"]
        size = ["-x", f"{COLUMNS}", "-y", f"{LINES}"]
        # A cache of its own, so that there is something to prepare.
        shell = f"DRORAE_CACHE={folder}/cache PATH={DRORAE.parent}:$PATH PS1='$ ' exec bash --norc"
        subprocess.run([*self._server, "new-session", "-d", *size, "-c", str(folder), shell], check=True)

    def send(self, *keys: str) -> None:
        """Types keys as tmux names them."""
        subprocess.run([*self._server, "send-keys", *keys], check=True)

    def screen(self) -> str:
        """What can be seen now."""
        shown = subprocess.run([*self._server, "capture-pane", "-p"], check=True, capture_output=True, text=True)
        return shown.stdout.rstrip("\n")

    def wait(self, reached: Callable[[str], object]) -> str:
        """The first screen that is as wanted.

        Raises:
            TimeoutError: none was for `SECONDS`.
        """
        deadline = time.monotonic() + SECONDS
        while not reached(screen := self.screen()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the screen never came; the last one:\n{screen}")
            time.sleep(0.2)
        return screen

    def close(self) -> None:
        """Ends the shell and what runs in it."""
        subprocess.run([*self._server, "kill-server"], check=False)


@contextlib.contextmanager
def terminal() -> Iterator[Terminal]:
    """A terminal in an empty folder."""
    with tempfile.TemporaryDirectory(prefix="drorae-") as folder:
        shell = Terminal(Path(folder))
        try:
            yield shell
        finally:
            shell.close()


def photograph(preset: str, half: int) -> dict[str, str]:
    """The screens by title, `half` being the number of finished trials at which Ctrl-C is pressed."""
    shots: dict[str, str] = {}
    with terminal() as shell:
        shell.send(f"clear; drorae sweep --preset {preset}; echo code $?", "Enter")
        shots["The preparation"] = shell.wait(lambda text: re.search(r"prepare +phase1 +\d+/|prepare: ready", text))
        shots["Half-way"] = shell.wait(lambda text: f"[{half}/" in text and re.search(r"phase2 +\d+/\d+", text))
        shell.send("C-c")
        shots["After Ctrl-C"] = shell.wait(lambda text: re.search(r"code \d+", text))
        assert "code 130" in shots["After Ctrl-C"] and "Traceback" not in shots["After Ctrl-C"]
        go_on = re.search(r"drorae resume .*", shots["After Ctrl-C"])
        assert go_on is not None
        shell.send(f"clear; {go_on[0].strip()}; echo code $?", "Enter")
        shots["The end, after the command that was printed"] = shell.wait(lambda text: re.search(r"code \d+", text))
        assert "code 0" in shots["The end, after the command that was printed"]
    return shots


def main() -> None:
    """Puts the screens into a page, after its mark."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--preset", default="quickstart")
    options.add_argument("--half", type=int, default=6)
    options.add_argument("--into", type=Path, required=True)
    given = options.parse_args()
    shots = photograph(given.preset, given.half)
    screens = "".join(f"\n## {title}\n\n```\n{screen}\n```\n" for title, screen in shots.items())
    before = given.into.read_text().partition(MARK)[0]
    given.into.write_text(f"{before}{MARK}\n{screens}")


if __name__ == "__main__":
    main()
