"""Searching as well as sweeping: Optuna studies that propose trials, one study for each configuration of a sweep.

With `--tune lr` every capacity gets a study of its own, so that no size is judged at a learning rate that suits
another. The base config's own value is each study's first trial: the law at that fixed value is part of the search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from drorae.config import TrialConfig, config_hash, former_hash, from_dict, override, relocated, to_dict
from drorae.errors import UserError, brief, one_line
from drorae.metrics.registry import better
from drorae.storage.places import sqlite_uri
from drorae.trial.folder import ENDED, MEASURED, TrialStatus, read_outcome, ready_trial
from sweeps.driver.pruning import quiet_optuna
from sweeps.spec import Range, SweepSpec, expand, point_label, read_field, varied_fields

if TYPE_CHECKING:
    import optuna


def direction(objective: str) -> Literal["maximize", "minimize"]:
    """`maximize` or `minimize`; an objective of unknown direction is minimised."""
    return "maximize" if better(objective) == "higher" else "minimize"


@dataclass
class _Group:
    """A configuration of the sweep: its configs, one per seed, and its study."""

    configs: list[TrialConfig]
    study: optuna.Study
    trials: dict[str, int] = field(default_factory=dict)
    """Number in the study of every trial asked for, by config hash."""
    running: set[str] = field(default_factory=set)
    again: list[str] = field(default_factory=list)
    """Asked for by a driver that died, or failed in its time: to be run first."""
    repeats: list[str] = field(default_factory=list)
    """At the best and the base values with the other seeds: to be run when the study is over."""
    repeated: set[str] = field(default_factory=set)
    exhausted: bool = False
    """Every value was tried."""


class Studies:
    """The studies of a sweep in an SQLite file, which optuna-dashboard can open, and what they want run next.

    A driver may die at any moment: the next one finds the studies, the trials asked for and those not yet answered.
    """

    def __init__(self, path: Path, spec: SweepSpec, trials: Path) -> None:
        """Opens or creates the studies.

        Args:
            path: the SQLite file.
            spec: a sweep with a search.
            trials: the folder that holds one folder per trial, named by config hash.

        Raises:
            UserError: unusable settings, or the file holds another search.
        """
        if spec.search is None:
            raise UserError("not a search; expected ranges")
        self.search = spec.search
        self.trials = trials
        self.configs: dict[str, TrialConfig] = {}
        """Every trial known so far, by config hash."""
        fields = [item.field for item in self.search.ranges]
        together: dict[TrialConfig, list[TrialConfig]] = {}
        for config in expand(spec):
            neutral = self._with_values(replace(config, seed=0), TrialConfig())
            together.setdefault(neutral, []).append(config)
        firsts = [configs[0] for configs in together.values()]
        varied = [name for name in varied_fields(firsts) if name not in fields]
        self._groups: list[_Group] = []
        for neutral, configs in together.items():
            name = f"{spec.name} {point_label(configs[0], varied)}".rstrip()
            names = [f"{name} {end}" for end in (config_hash(neutral), former_hash(neutral))]
            self._groups.append(self._open(path, names, configs))
        self._plan_repeats()

    @property
    def total(self) -> int:
        """Trials that the search will have run, as far as is known."""
        total = 0
        for group in self._groups:
            total += len(group.trials) if self._over(group) else self.search.trials
            planned = len(group.repeats) + len(group.repeated)
            total += planned or (0 if self.multi else 2 * (len(group.configs) - 1))
        return total

    @property
    def finished(self) -> bool:
        """Whether nothing is left to ask for and nothing runs."""
        return not any(group.running or self._wants(group) for group in self._groups)

    @property
    def multi(self) -> bool:
        """Whether there are several objectives, and so no single best."""
        return len(self.search.objectives) > 1

    def ask(self) -> str | None:
        """The config hash of the next trial, its folder ready; None while what is left waits for running ones."""
        while wanting := [group for group in self._groups if self._wants(group)]:
            group = min(wanting, key=lambda item: (len(item.running), len(item.trials)))
            if group.again:
                key = group.again.pop(0)
            elif group.repeats:
                key = group.repeats.pop(0)
                group.repeated.add(key)
            else:
                key = self._propose(group)
            if key:
                group.running.add(key)
                ready_trial(self.trials / key, self.configs[key])
                return key
        return None

    def tell(self, key: str) -> None:
        """Takes note of how a trial ended, from its folder."""
        for group in self._groups:
            if key in group.running:
                group.running.discard(key)
                if key in group.trials:
                    self._record(group, key)
                self._plan_repeats()

    def group_of(self, key: str) -> str | None:
        """Returns the name of the study that asked for a running trial; None for one that repeats another's values."""
        return next(
            (group.study.study_name for group in self._groups if key in group.running & set(group.trials)), None
        )

    def roles(self) -> dict[str, str]:
        """What each trial is to the law: best, fixed, `best fixed` or tried; empty with several objectives.

        best: at its study's best values. fixed: at the base config's own. tried: neither.
        """
        if self.multi:
            return {}
        found: dict[str, str] = {}
        for group in self._groups:
            best, fixed = self._best_and_fixed(group)
            for key in [*group.trials, *group.repeated]:
                roles = [role for role, trials in (("best", best), ("fixed", fixed)) if key in trials]
                found[key] = " ".join(roles) or "tried"
        return found

    def _open(self, path: Path, names: Sequence[str], configs: list[TrialConfig]) -> _Group:
        """Opens or creates the study of these configs; `names`: its name, and the one of earlier versions."""
        import optuna
        from sqlalchemy.exc import DatabaseError

        quiet_optuna()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            storage = sqlite_uri(path)
            directions = [direction(objective) for objective in self.search.objectives]
            known = optuna.get_all_study_names(storage) if path.exists() else []
            study = optuna.create_study(
                storage=storage,
                study_name=next((name for name in names if name in known), names[0]),
                directions=directions,
                sampler=self._sampler(0),
                load_if_exists=True,
            )
            if [item.name.lower() for item in study.directions] != directions:
                raise ValueError("one for other objectives")
        except DatabaseError as error:
            raise UserError(
                f"{path}: not readable ({brief(error)}); rename it, and the search begins anew beside its trials"
            ) from None
        except RuntimeError as error:
            # Its tables are of another version of Optuna's; the error says what to install.
            raise UserError(f"{path}: not read, and not changed ({brief(error, 300)})") from None
        except (ValueError, OSError) as error:
            raise UserError(f"{path}: holds another search ({one_line(error)}); give this one another --name") from None
        group = _Group(configs, study)
        finished = optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED
        left: dict[str, bool] = {}
        for trial in study.trials:
            tree = trial.user_attrs.get("config")
            if tree is None:
                continue
            # Where things lie may have changed since.
            config = relocated(from_dict(TrialConfig, tree), configs[0])
            key = self._know(replace(config, label=configs[0].label))
            group.trials[key] = trial.number
            left[key] = trial.state not in finished
        group.again = [key for key, unanswered in left.items() if unanswered]
        for key in list(group.again):
            if self._has_ended(key):
                group.again.remove(key)
                self._record(group, key)
        if not study.trials:
            values = {item.name: read_field(configs[0], item.field) for item in self.search.ranges}
            if all(item.holds(values[item.name]) for item in self.search.ranges):
                study.enqueue_trial(values)
        return group

    def _know(self, config: TrialConfig) -> str:
        key = config_hash(config)
        self.configs.setdefault(key, config)
        return key

    def _has_ended(self, key: str) -> bool:
        return read_outcome(self.trials / key)["status"] in ENDED

    def _over(self, group: _Group) -> bool:
        return group.exhausted or len(group.trials) >= self.search.trials

    def _wants(self, group: _Group) -> bool:
        return bool(group.again or group.repeats) or not self._over(group)

    def _propose(self, group: _Group) -> str:
        """A config that the study has not tried; empty where it finds none, as on a grid of few values."""
        for _ in range(50):
            number = len(group.study.trials)
            # Reproducible whatever process asks: the proposal depends on the study and the trial's number.
            group.study.sampler = self._sampler(group.configs[0].seed + 1000 * number)
            trial = group.study.ask()
            config = group.configs[0]
            for item in self.search.ranges:
                whole = isinstance(read_field(config, item.field), int)
                config = override(config, item.field, _suggest(trial, item, whole))
            key = config_hash(config)
            if key not in group.trials:
                trial.set_user_attr("config", to_dict(config))
                group.trials[key] = trial.number
                return self._know(config)
            # What is known is answered, not run again.
            self._finish(group, trial.number, key)
        group.exhausted = True
        return ""

    def _record(self, group: _Group, key: str) -> None:
        import optuna

        number = group.trials[key]
        old = group.study.trials[number]
        if old.state.is_finished():
            # It failed once and was run again: Optuna's answers are final, so this one is a trial beside it.
            state, values = self._answer(key)
            user = {"config": to_dict(self.configs[key])}
            group.study.add_trial(
                optuna.trial.create_trial(
                    state=state, values=values, params=old.params, distributions=old.distributions, user_attrs=user
                )
            )
            group.trials[key] = len(group.study.trials) - 1
        else:
            self._finish(group, number, key)

    def _finish(self, group: _Group, number: int, key: str) -> None:
        state, values = self._answer(key)
        group.study.tell(number, values, state=state, skip_if_finished=True)

    def _answer(self, key: str) -> tuple[Any, list[float] | None]:
        """How the trial ended in Optuna's terms: a value, a failure, or pruned, which samplers take as the worst."""
        from optuna.trial import TrialState

        outcome = read_outcome(self.trials / key)
        status = outcome["status"]
        if status in ENDED and status not in MEASURED:
            return TrialState.PRUNED if not self.multi else TrialState.FAIL, None
        if status not in MEASURED:
            return TrialState.FAIL, None
        return TrialState.COMPLETE, [self._value(outcome, name) for name in self.search.objectives]

    def _value(self, outcome: Mapping[str, Any], objective: str) -> float:
        found = outcome.get("metrics", {}).get(objective, outcome.get(objective))
        if not isinstance(found, int | float):
            known = [*outcome.get("metrics", {}), "fusion_params", "train_seconds", "device_seconds", "train_flops"]
            raise UserError(f"--objective {objective}: no trial measures it; expected one of {', '.join(known)}")
        return float(found)

    def _best(self, group: _Group) -> TrialConfig | None:
        """The best finished trial; of unconverged ones only where there is no other."""
        sign = -1 if direction(self.search.objectives[0]) == "maximize" else 1
        outcomes = {key: read_outcome(self.trials / key) for key in group.trials}
        ranked = [
            (outcome["status"] != TrialStatus.FINISHED, sign * self._value(outcome, self.search.objectives[0]), key)
            for key, outcome in outcomes.items()
            if outcome["status"] in MEASURED
        ]
        return self.configs[min(ranked)[2]] if ranked else None

    def _seeded(self, group: _Group, config: TrialConfig) -> dict[str, TrialConfig]:
        """A config's values of the searched fields with each of the group's seeds, by config hash."""
        seeded = (self._with_values(own, config) for own in group.configs)
        return {config_hash(own): own for own in seeded}

    def _with_values(self, config: TrialConfig, other: TrialConfig) -> TrialConfig:
        """Returns a config with the values that another has in the searched fields."""
        for item in self.search.ranges:
            config = override(config, item.field, read_field(other, item.field))
        return config

    def _best_and_fixed(self, group: _Group) -> tuple[dict[str, TrialConfig], dict[str, TrialConfig]]:
        """The trials at the study's best values and at the base config's own, with every seed."""
        best = self._best(group)
        return {} if best is None else self._seeded(group, best), self._seeded(group, group.configs[0])

    def _plan_repeats(self) -> None:
        """Once a study is over, its best and its base values are run with the other seeds."""
        if self.multi:
            return
        for group in self._groups:
            if not self._over(group) or group.running or group.again or group.repeats or group.repeated:
                continue
            best, fixed = self._best_and_fixed(group)
            chosen = best | fixed if config_hash(group.configs[0]) in group.trials else best
            for key, config in chosen.items():
                if key in group.trials:
                    continue
                self._know(config)
                if self._has_ended(key):
                    group.repeated.add(key)
                else:
                    group.repeats.append(key)

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        import optuna

        name = self.search.sampler
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=4)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if name == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=4)
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=max(4, self.search.trials // 4))


def _suggest(trial: optuna.Trial, item: Range, whole: bool) -> Any:
    if item.values:
        return trial.suggest_categorical(item.name, item.values)
    if whole:
        return trial.suggest_int(item.name, int(item.low), int(item.high), log=item.log)
    # Four digits: a learning rate that can be read and typed.
    return float(f"{trial.suggest_float(item.name, item.low, item.high, log=item.log):.4g}")
