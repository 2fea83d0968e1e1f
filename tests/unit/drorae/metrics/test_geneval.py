"""GenEval's score: as its own summary counts it, with standard errors over prompts; damaged files are named."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from geneval_files import result, results, write_results

from drorae.errors import UserError
from drorae.metrics.geneval import NAME, TAGS, read_geneval
from drorae.metrics.registry import METRICS, better, title

EQUAL, UNEQUAL = (4,), (1, 4, 7, 2)


def of(path: Path) -> dict[str, float]:
    return read_geneval(path).metrics


@pytest.mark.parametrize("images", [EQUAL, UNEQUAL])
def test_the_score_is_that_of_geneval_s_own_summary(tmp_path: Path, images: tuple[int, ...]) -> None:
    path = write_results(tmp_path / "results.jsonl", results(20, images))
    frame = pd.read_json(path, orient="records", lines=True)
    by_tag = frame.groupby("tag", sort=False)["correct"]
    found = read_geneval(path)
    assert found.metrics[NAME] == pytest.approx(np.mean([part.mean() for _, part in by_tag]), abs=1e-15)
    assert {tag: found.metrics[f"{NAME}_{tag}"] for tag in TAGS} == pytest.approx(by_tag.mean().to_dict(), abs=1e-15)
    counts = {tag: found.metrics[f"{NAME}_{tag}_images"] for tag in TAGS}
    assert counts == by_tag.size().to_dict() and found.metrics[f"{NAME}_images"] == found.images == len(frame)
    assert found.prompts == len(frame.groupby("metadata")) == 120
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("images", [EQUAL, UNEQUAL])
def test_a_tag_s_standard_error_is_the_cluster_robust_one_over_prompts(tmp_path: Path, images: tuple[int, ...]) -> None:
    path = write_results(tmp_path / "results.jsonl", results(20, images))
    metrics, frame = of(path), pd.read_json(path, lines=True)
    for tag, part in frame.groupby("tag"):
        correct, groups = part["correct"].astype(float), part["metadata"].astype("category").cat.codes
        fit = sm.OLS(correct, np.ones(len(part))).fit(cov_type="cluster", cov_kwds={"groups": groups})
        assert metrics[f"{NAME}_{tag}_se"] == pytest.approx(fit.bse.iloc[0], rel=1e-10)
        shares = part.groupby("metadata")["correct"].mean()
        over_prompts = shares.std(ddof=1) / np.sqrt(len(shares))
        assert (metrics[f"{NAME}_{tag}_se"] == pytest.approx(over_prompts, rel=1e-10)) == (images == EQUAL)


@pytest.mark.parametrize("images", [EQUAL, UNEQUAL])
def test_the_score_s_standard_error_is_that_of_a_bootstrap_over_prompts(
    tmp_path: Path, images: tuple[int, ...]
) -> None:
    path = write_results(tmp_path / "results.jsonl", results(80, images, seed=1))
    frame, draw = pd.read_json(path, lines=True), np.random.default_rng(2)
    replicates = np.zeros(4000)
    for _, part in frame.groupby("tag"):
        prompts = part.groupby("metadata")["correct"].agg(["sum", "count"]).to_numpy()
        chosen = prompts[draw.integers(len(prompts), size=(len(replicates), len(prompts)))].sum(axis=1)
        replicates += chosen[:, 0] / chosen[:, 1] / 6
    # 4000 replicates err by 1.1%, the factor 80 / 79 that a bootstrap lacks is 0.6% of the error.
    error = of(path)[f"{NAME}_se"]
    assert error == pytest.approx(replicates.std(), rel=0.05)
    images = frame.groupby("tag")["correct"].agg(["var", "count"])
    assert error > 1.2 * np.sqrt((images["var"] / images["count"]).sum()) / 6, "that of independent images is too small"


def test_the_score_s_standard_error_is_that_of_a_mean_of_independent_tags(tmp_path: Path) -> None:
    metrics = of(write_results(tmp_path / "results.jsonl", results(20, UNEQUAL)))
    assert metrics[f"{NAME}_se"] == pytest.approx(np.linalg.norm([metrics[f"{NAME}_{tag}_se"] for tag in TAGS]) / 6)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say(tmp_path: Path) -> None:
    hits = []
    # How hard a prompt is has the mean share that its tag is made with.
    truth = np.mean([0.95, 0.5, 0.4, 0.8, 0.1, 0.2])
    for seed in range(200):
        metrics = of(write_results(tmp_path / "results.jsonl", results(20, UNEQUAL, seed=seed)))
        hits.append(abs(metrics[NAME] - truth) < 1.96 * metrics[f"{NAME}_se"])
    # 190 of 200, with a standard deviation of 3.1.
    assert 180 <= sum(hits) <= 199


def test_a_tag_of_one_prompt_has_no_standard_error_and_so_the_score_has_none(tmp_path: Path) -> None:
    rows = [row for row in results(3, EQUAL) if row["tag"] != "position"]
    rows += [result("position", 0, image, bool(image % 2)) for image in range(4)]
    metrics = of(write_results(tmp_path / "results.jsonl", rows))
    without = {f"{NAME}_se", f"{NAME}_position_se"}
    assert metrics["geneval_position"] == 0.5 and not without & set(metrics)
    assert {f"{NAME}_{tag}_se" for tag in TAGS} - without <= set(metrics)


def test_blank_lines_and_any_line_s_end_are_read(tmp_path: Path) -> None:
    path = write_results(tmp_path / "results.jsonl", results(3, EQUAL))
    wanted = of(path)
    path.write_bytes(b"\n" + path.read_bytes().replace(b"\n", b"\r\n\r\n").rstrip())
    assert of(path) == wanted


def test_the_registry_knows_every_metric() -> None:
    listed = {metric.name: metric for metric in METRICS if metric.prompted}
    assert list(listed) == [NAME, *(f"{NAME}_{tag}" for tag in TAGS)]
    for name in listed:
        assert better(name) == better(f"{name}_se") == "higher" and title(name).startswith("GenEval")
    assert [name for name, metric in listed.items() if metric.fitted] == [NAME]


GOOD = result("position", 0, 0, True)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (json.dumps(GOOD)[:-30], "damaged, not JSON"),
        (b"\xff\xfe\x00\x81", "damaged, not JSON"),
        ("[" * 100_000, "damaged, not JSON"),
        ('["correct"]', "not a JSON object"),
        *((GOOD, name) for name in ("filename", "tag", "correct", "metadata")),
        (GOOD | {"correct": 1}, "correct is 1, expected true or false"),
        (GOOD | {"correct": None}, "correct is null, expected true or false"),
        (GOOD | {"metadata": {"tag": "position"}}, 'metadata is {"tag": "position"}, expected text'),
        (
            GOOD | {"tag": "negation"},
            "tag 'negation' is none of GenEval's (single_object, two_object, counting, colors",
        ),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str | bytes | dict[str, Any], said: str) -> None:
    if isinstance(line, dict) and said in line:
        line, said = {name: value for name, value in line.items() if name != said}, f"no {said}, expected"
    text = json.dumps(line) if isinstance(line, dict) else line
    path = write_results(tmp_path / "results.jsonl", results(3, (1,)))
    path.write_bytes(path.read_bytes() + (text if isinstance(text, bytes) else text.encode()))
    with pytest.raises(UserError) as raised:
        read_geneval(path)
    message = str(raised.value)
    assert message.startswith(f"{path}, line 19: ") and said in message and "\n" not in message
    assert message.endswith("; give the file that GenEval's evaluate_images.py wrote, whole and as it is")


def test_an_image_counts_once(tmp_path: Path) -> None:
    rows = results(3, (1,))
    path = write_results(tmp_path / "results.jsonl", [*rows, rows[4]])
    with pytest.raises(UserError, match=r"line 19: 'images/.*png' again, the image of line 5; give"):
        read_geneval(path)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"results.jsonl: no results in it; give the file"):
        read_geneval(tmp_path / "results.jsonl")


def test_missing_tags_are_named(tmp_path: Path) -> None:
    rows = [row for row in results(3, EQUAL) if row["tag"] not in ("counting", "color_attr")]
    with pytest.raises(UserError, match=r"no images of counting, color_attr, and the score is of all six tags"):
        read_geneval(write_results(tmp_path / "results.jsonl", rows))


@pytest.mark.parametrize("name", ["nowhere.jsonl", "."])
def test_a_file_that_is_none_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"cannot be read \((No such file or|Is a) directory") as raised:
        read_geneval(tmp_path / name)
    assert str(raised.value).startswith(f"{tmp_path / name}: ")
