"""Ending a sweep when its law is decided: its trials batch by batch, with a look at the law after each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from drorae.config import TrialConfig
from drorae.errors import UserError
from drorae.trial.folder import TrialStatus, ready_trial, set_damaged_aside, write_ending
from sweeps.checks import fusion_size
from sweeps.driver.session import Session
from sweeps.folder.sweep import TABLE
from sweeps.folder.table import table_rows, write_table
from sweeps.settings import Settings
from sweeps.spec import Search

Decided = Callable[[str, Path, int], str | None]
"""Says whether a law is decided: of the verdict's name, the path of a table of the trials so far with the columns of
trials.csv, and how many looks there are at most. Returns the verdict in words, or None."""

LEAST_SIZES = 5
"""No look is taken at fewer sizes, where a sweep has more: they cannot show a bend."""


def check_until(
    settings: Settings, search: Search | None, decided: Decided | None, law: Collection[TrialConfig]
) -> None:
    """Checks that a sweep can be ended by its law, where it is to be.

    Raises:
        UserError: it cannot: nobody says when it is decided, no size varies, or something else says what is run.
    """
    if not settings.until:
        return
    option = "--until decided"
    if decided is None:
        raise UserError(f"until: {settings.until} has nobody to judge it; give run_sweep(decided=), or leave until out")
    if search is not None or settings.pruner_of(search) != "none":
        what = "--tune" if search is not None else "--pruner"
        raise UserError(f"{option}: {what} says by other rules what is run; drop one of the two")
    if settings.pack > 1:
        raise UserError(f"{option}: a pack would train trials that may not be needed; use --pack 0 or drop --until")
    if len({fusion_size(config) for config in law}) < 2:
        raise UserError(f"{option}: no size varies that a law could be of; add --axis capacity=8,32,128,512")


def nested(count: int) -> list[int]:
    """Returns the numbers below `count`, first both ends, then the middle, the quarter points, and so on."""
    order, parts = dict.fromkeys((0, count - 1)), 2
    while len(order) < count:
        order |= dict.fromkeys(round(part * (count - 1) / parts) for part in range(parts + 1))
        parts *= 2
    return list(order)


def batches_of(law: Mapping[str, TrialConfig]) -> list[list[str]]:
    """Returns the batches that the trials of a law run in: first one of every size, then one more of every size each.

    The first of every size are cut where five sizes are there, nine, seventeen.

    law: by config hash; of a size the first given runs first.
    """
    sizes: dict[int, list[str]] = {}
    for key, config in law.items():
        sizes.setdefault(fusion_size(config), []).append(key)
    levels = [sizes[size] for size in sorted(sizes)]
    first = [levels[i][0] for i in nested(len(levels))]
    found, begin, end = [], 0, LEAST_SIZES
    while begin < len(first):
        found.append(first[begin:end])
        begin, end = end, 2 * end - 1
    more = range(1, max(map(len, levels)))
    return found + [[level[i] for level in levels if len(level) > i] for i in more]


class Until:
    """The trials of a sweep that its law may end, asked for as from `sweeps.driver.queue.Listed`.

    What comes next follows from the trials that are done, so that another driver goes on as this one would have. When
    the law is decided, those of its trials that are left are recorded as not needed; checks of convergence run at the
    end in any case.

    Args:
        session: knows the trials.
        missing: config hashes of those that are not done.
        verdict: the name of the one that decides.
        decided: says whether it does.
    """

    def __init__(self, session: Session, missing: Sequence[str], verdict: str, decided: Decided) -> None:
        self.line = ""
        """What was decided, once it was, or that nothing was by all trials."""
        self._session, self._verdict, self._decided = session, verdict, decided
        self._law = {key: config for key, config in session.configs.items() if key not in session.roles}
        self.missing = dict.fromkeys(missing)
        """Trials that are needed, and were not done before this call."""
        self._left: list[str] = []
        self._running: set[str] = set()
        self._rest = self._batches()
        self._over = False
        self._go_on()

    @property
    def total(self) -> int:
        """Trials to run in this call, as far as is known."""
        return len(self.missing)

    @property
    def finished(self) -> bool:
        """Whether all have ended that are needed."""
        return self._over and not self._left and not self._running

    def keep(self, runnable: Collection[str]) -> None:
        """Leaves out trials that cannot run."""
        self.missing = {key: None for key in self.missing if key in runnable}
        self._left = [key for key in self._left if key in self.missing]

    def ask(self) -> str | None:
        """The config hash of the next trial; None where none is left, or where the batch has yet to end."""
        self._go_on()
        if not self._left:
            return None
        key = self._left.pop(0)
        self._running.add(key)
        return key

    def tell(self, key: str) -> None:
        """One has ended."""
        self._running.discard(key)

    def _go_on(self) -> None:
        """Takes the next batch that has something to run, once the one before has ended."""
        while not (self._left or self._running or self._over):
            batch = next(self._rest, None)
            self._over = batch is None
            self._left = [key for key in batch or () if key in self.missing]

    def _batches(self) -> Iterator[Sequence[str]]:
        batches, seen = batches_of(self._law), list[str]()
        for batch in batches:
            yield batch
            seen += batch
            if said := self._look(seen, len(batches)):
                self._end(f"decided after {len(seen)} of {len(self._law)} trials: {said}", seen)
                break
        else:
            self._end(f"not decided by all {len(self._law)} trials", seen)
        yield list(self._session.roles)

    def _look(self, keys: Sequence[str], looks: int) -> str | None:
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / TABLE
            write_table(table, table_rows([self._law[key] for key in keys], self._session.trials))
            return self._decided(self._verdict, table, looks)

    def _end(self, line: str, seen: Collection[str]) -> None:
        """Records that of the law's trials no more than these are needed."""
        self.line, session = line, self._session
        session.screen.line(line)
        needed = set(seen)
        for key in [key for key in self.missing if key in self._law and key not in needed]:
            session.check()
            ready_trial(session.trials / key, self._law[key])
            # A damaged result would hide the ending.
            set_damaged_aside(session.trials / key)
            write_ending(session.trials / key, TrialStatus.NOT_NEEDED, line)
            session.waiting.pop(key, None)
            del self.missing[key]
            session.screen.total -= 1
