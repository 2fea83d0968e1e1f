"""The command that writes batch scripts takes only what makes one, and a sweep that would run."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from drorae.commands.main import main

SWEEP = ["--", "drorae", "sweep", "--preset", "smoke", "--name", "mine"]


def _array(script: str, name: str) -> list[str]:
    """A variable of the script as bash reads it."""
    line = next(line for line in script.splitlines() if line.startswith(f"{name}="))
    return subprocess.run(
        ["bash", "-c", f"{line}\nprintf '%s\\n' \"${{{name}[@]}}\""], capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_a_script_goes_to_the_file_or_to_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "slurm", "--nodes", "2", *SWEEP]) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("#!/bin/bash\n#SBATCH --job-name=drorae\n#SBATCH --nodes=2\n") and not shown.err
    path = tmp_path / "new folder" / "job.sh"
    assert main(["cluster", "slurm", "--nodes", "2", "--out", str(path), *SWEEP]) == 0
    told = capsys.readouterr()
    assert path.read_text() == shown.out and told.out == "" and f"sbatch '{path}'" in told.err


@pytest.mark.parametrize("start", [["drorae", "sweep"], ["sweep"], []])
def test_the_sweep_is_what_follows_word_for_word(start: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--preset",
        "smoke",
        "--name",
        "it's $mine",
        "--root",
        "/a b/runs",
        "--notify",
        "echo 'two words'",
        "--no-fit",
    ]
    assert main(["cluster", "slurm", "--setup", "module load 'x y'; : \"$A\"", "--", *start, *words]) == 0
    script = capsys.readouterr().out
    assert _array(script, "sweep_words") == ["sweep", *words]
    where = ["it's $mine", "--root", "/a b/runs"]
    assert _array(script, "status_words") == ["status", *where]
    assert _array(script, "resume_words") == ["resume", *where, "--no-fit", "--notify", "echo 'two words'"]
    assert _array(script, "setup") == ["module load 'x y'; : \"$A\""]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--nodes", "2"], "no sweep"),
        (["--", "drorae", "resume", "mine"], "-- resume: expected a sweep"),
        (["--", "drorae", "sweep", "--preset", "nothing"], "--preset nothing: no such sweep"),
        (["--", "drorae", "sweep", "--nmae", "mine"], "unrecognized options"),
        ([*SWEEP, "--address", "auto"], "--address: expected none"),
        ([*SWEEP, "--dry-run"], "--dry-run: expected"),
        (["--nodes", "0", *SWEEP], "--nodes 0: expected 1 or more"),
        (["--gpus-per-node", "-1", *SWEEP], "--gpus-per-node -1: expected 0 or more"),
        (["--cpus-per-task", "0", *SWEEP], "--cpus-per-task 0: expected 1 or more"),
        (["--time", "1 hour", *SWEEP], "--time '1 hour': expected MINUTES"),
        (["--time", "1:2", *SWEEP], "--time '1:2': expected MINUTES"),
        (["--partition", "gpu\n#SBATCH --exclusive", *SWEEP], "--partition 'gpu\\n#SBATCH"),
        (["--account", "my lab", *SWEEP], "--account 'my lab': expected a name without spaces"),
        (["--job-name", "", *SWEEP], "--job-name '': expected a name"),
        (["--container", "", *SWEEP], "--container '': expected an image, or none"),
    ],
)
def test_what_makes_no_script_is_refused_in_a_line(
    words: list[str], said: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cluster", "slurm", *words]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("error: ") and shown.err.count("\n") == 1 and said in shown.err


@pytest.mark.parametrize("limit", ["90", "90:30", "24:00:00", "2-12", "2-12:30", "2-12:30:00"])
def test_time_limits_are_those_that_slurm_knows(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cluster", "slurm", "--time", limit, *SWEEP]) == 0
    assert re.search(rf"^#SBATCH --time={limit}$", capsys.readouterr().out, re.MULTILINE)
