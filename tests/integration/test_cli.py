"""The command line: help, results on stdout alone, and every mistake answered with exit code 2 and one line."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from records import empty_records

from drorae.commands.main import COMMANDS, main
from drorae.config import PRESETS, Runtime
from drorae.errors import UserError
from drorae.machine.capacity import check_machine
from drorae.machine.telemetry import TELEMETRY

ROOT = Path(__file__).resolve().parents[2]
PAPER = str(ROOT / "results" / "paper" / "capacity.csv")
pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    captured = capsys.readouterr()
    assert f"usage: drorae {command}" in captured.out and captured.err == ""


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from drorae.commands.main import main; main(['--help']); main(['sweep', '--help'])\n"
        "heavy = {'torch', 'timm', 'numpy', 'ray', 'mlflow', 'pandas', 'scipy', 'matplotlib', 'statsmodels'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.stderr.strip() == "[]"
    assert all(command in done.stdout for command in COMMANDS)


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


MISTAKES: list[tuple[str, str]] = [
    ("", "expected one of"),
    ("trian", "unrecognized options: trian"),
    ("train --treads 3", "perhaps you meant --threads"),
    ("train --threads three", "--threads: expected a whole number"),
    ("train --threads -1", "expected 0"),
    ("train --device tpu", "--device: expected auto, cpu, cuda or cuda:N"),
    ("train --device cuda:99", "cuda"),
    ("train --features sometimes", "invalid choice 'sometimes'"),
    ("train --cache-limit-gb 0", "above 0"),
    ("train --preset enormous", "choose one of quickstart"),
    ("train --preset smoke --config c.json", "expected one of them"),
    ("train --config missing.json", "no such config file"),
    ("train --config broken.json", "not readable as JSON"),
    ("train --set fusion.beta", "expected NAME=VALUE"),
    ("train --set fusion.gamma=1", "fusion.gamma"),
    ("train --set fusion.beta=much", "expected a number"),
    ("train --set seed=1 seed=2", "given twice"),
    ("train --set capacity=big", "expected a whole number"),
    ("train --set images.source=folder images.path=nowhere", "nowhere"),
    ("train --set images.source=npz", "images.path"),
    ("sweep --preset enormous", "choose one of quickstart"),
    ("sweep --axis capacity", "not an axis"),
    ("sweep --axis capacity=", "an empty value"),
    ("sweep --axis capacity=8,big", "expected a whole number"),
    ("sweep --axis depth=1,2", "depth"),
    ("sweep --axis capacity=8 fusion.expert_hidden_dim=16", "given twice"),
    ("sweep --set seed=3", "the sweep varies it"),
    ("sweep --name a/b", "not usable as a sweep's name"),
    ("sweep --max-concurrent -1", "expected 0"),
    ("sweep --preset smoke --max-failures -1", "expected 0 or more"),
    ("sweep --config broken.json", "not readable as JSON"),
    ("eval nowhere", "no finished trial here"),
    ("eval . --extractors vgg", "choose from inception"),
    ("inspect nowhere", "no finished trial here"),
    ("probe nowhere", "no finished trial here"),
    ("fit", "missing from drorae fit"),
    ("fit missing.csv --y psnr", "no such file"),
    ("fit broken.json --y psnr", "expected a name ending in .csv"),
    ("fit empty.csv --y psnr", "empty.csv"),
    ("fit . --y psnr", "no trials.csv"),
    ("fit mlflow:nothing --y psnr", "no such MLflow store"),
    ("fit PAPER", "at least one metric"),
    ("fit PAPER --y rfod", "did you mean rfid"),
    ("fit PAPER --x weights --y rfid", "no such column"),
    ("fit PAPER --y rfid --law cubic", "cubic: no such law; laws: log-linear"),
    ("fit PAPER --y rfid --include some", "no such status"),
    ("fit PAPER --y rfid --track", "mlflow:EXPERIMENT"),
    ("fit PAPER --y rfid --out broken.json", "broken.json"),
    ("report nowhere", "no such file"),
    ("ui", "no MLflow store here"),
    ("ui --root here --port 99999", "from 1 to 65535"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[arguments for arguments, _ in MISTAKES])
def test_mistakes_are_one_line(arguments: str, said: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (elsewhere / "broken.json").write_text("{")
    (elsewhere / "empty.csv").write_text("")
    (elsewhere / "here").mkdir()
    (elsewhere / "here" / "mlflow.db").touch()
    before = sorted(elsewhere.rglob("*"))
    assert main(arguments.replace("PAPER", PAPER).split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", captured.err), captured.err
    assert said in captured.err
    assert sorted(elsewhere.rglob("*")) == before


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_parser_s_boxes_become_one_line_in_any_locale(encoding: str) -> None:
    command = [sys.executable, "-m", "drorae", "fit"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(PYTHONIOENCODING=encoding))
    assert done.returncode == 2
    assert done.stderr == "error: missing from drorae fit: SOURCE; see drorae fit --help\n"


def test_the_process_itself_exits_with_2_and_one_line() -> None:
    command = [sys.executable, "-m", "drorae", "fit", "missing.csv", "--y", "psnr"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 2 and done.stdout == ""
    # A machine that takes long to load the libraries gives a sign of life.
    assert re.fullmatch(r"(fitting missing\.csv \.\.\.\n)?error: missing\.csv: [^\n]+\n", done.stderr)
    done = subprocess.run([*command, "--debug"], capture_output=True, text=True, env=environment())
    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (
            RuntimeError("two\nlines"),
            1,
            "internal error: RuntimeError: two lines (rerun with --debug for the traceback)",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/archive/a.json"),
            2,
            "error: /archive/a.json: Read-only file system; let this user write there, or copy it",
        ),
        (KeyboardInterrupt(), 130, "interrupted before it was done"),
        (ModuleNotFoundError("No module named 'ray'", name="ray"), 2, "error: the package ray is not installed"),
    ],
)
def test_what_goes_wrong_inside_is_one_line(
    raised: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Any) -> int:
        raise raised

    monkeypatch.setattr("drorae.commands.doctor.Doctor.run", fail)
    assert main(["doctor"]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(said) and captured.err.count("\n") == 1
    with pytest.raises(type(raised)):
        main(["doctor", "--debug"])


def test_the_paper_s_setting_is_refused_where_it_does_not_fit(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for command in ("train", "sweep"):
        assert main([command, "--preset", "paper"]) == 2
        said = capsys.readouterr().err
        assert "images.path" in said and "CUDA GPU" in said and "GB of GPU memory" in said and said.count("\n") == 1
    assert not list(elsewhere.iterdir())
    monkeypatch.setattr("drorae.machine.capacity.memory_bytes", lambda: 8e9)
    for preset in ("quickstart", "smoke"):
        check_machine(PRESETS[preset], Runtime(device="cpu"))
    with pytest.raises(UserError, match="CUDA"):
        check_machine(PRESETS["smoke"], Runtime(device="cuda"))


def test_nothing_phones_home_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import os, sys; from drorae.commands.main import main; main(['doctor', '--help'])\n"
        f"print({{name: os.environ[name] for name in {list(TELEMETRY)}}}, file=sys.stderr)\n"
        "from mlflow.telemetry.utils import is_telemetry_disabled\n"
        "from ray._common.usage.usage_lib import usage_stats_enabled\n"
        "print(is_telemetry_disabled(), usage_stats_enabled(), file=sys.stderr)"
    )
    clean = {name: value for name, value in environment().items() if name not in TELEMETRY}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean)
    said, libraries = done.stderr.splitlines()[-2:]
    assert said == str(TELEMETRY) and libraries == "True False"
    asked = {**clean, "RAY_USAGE_STATS_ENABLED": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=asked)
    assert "'RAY_USAGE_STATS_ENABLED': '1'" in done.stderr and done.stderr.splitlines()[-1] == "True True"


def test_sweep_ends_with_its_law_and_fit_and_report_find_it_again(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sweeps.driver.run

    quick = functools.partial(
        sweeps.driver.run.run_sweep, run_trial="fake_trial:run_trial", prepare="fake_trial:prepare"
    )
    monkeypatch.setattr(sweeps.driver.run, "run_sweep", quick)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "tests" / "support"), str(ROOT)]))
    empty_records(elsewhere / "runs")
    arguments = ["sweep", "--preset", "smoke", "--axis", "capacity=4,8,16,32", "--axis", "seed=0,1", "--name", "toy"]
    assert main([*arguments, "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["counts"] == {"finished": 10}, "two of them check convergence"
    slopes = {fit["y"]: fit["slope"] for fit in outcome["fits"]}
    assert slopes["psnr"] == pytest.approx(1.0)
    assert Path(outcome["paths"]["html"]) == elsewhere.resolve() / "runs" / "toy" / "law" / "report.html"

    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "SUPPORTED: converged: twice the steps move the law by less than a quarter of its range (psnr)" in said
    assert "psnr = " in said and "report.html" in said and "drorae ui --root runs" in said

    for source in ("runs/toy", "mlflow:toy"):
        assert main(["fit", source, "--y", "psnr", "--json"]) == 0
        tree = json.loads(capsys.readouterr().out)
        assert tree["slope"] == pytest.approx(1.0) and tree["n"] == 8
        assert [end["at"] for end in tree["convergence"]["ends"]] == ["h = 4", "h = 32"], "also from MLflow's tags"
    page = elsewhere / "runs" / "toy" / "law" / "report.html"
    page.unlink()
    assert main(["report", "runs/toy"]) == 0
    assert page.is_file()

    from mlflow.tracking import MlflowClient

    client = MlflowClient(outcome["tracking_uri"])
    experiment = client.get_experiment_by_name("toy")
    assert experiment is not None
    written = client.search_runs([experiment.experiment_id], "tags.`drorae.kind` = 'analysis'")
    assert {run.data.tags["drorae.y"] for run in written} == set(slopes)
    assert {run.data.tags["drorae.converged"] for run in written} == {"supported"}
