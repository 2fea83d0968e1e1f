"""The list of metrics: what is measured is in it, and directions are those of the metrics themselves."""

from __future__ import annotations

from typing import Any

import pytest

from drorae.config import TrialConfig, flatten, override
from drorae.metrics import extractors
from drorae.metrics.registry import (
    CONTROLS,
    GENERATED,
    METRICS,
    Metric,
    better,
    generated,
    looked_through,
    mark,
    objective,
    plain,
    title,
)

EFFNET = {f"{kind}_effnet" for kind in ("rfd", "kd", "gfd", "is", "precision", "recall")}
DINOV2 = {f"{kind}_dinov2" for kind in ("rfd", "kd", "gfd", "precision", "recall")}


def test_every_extractor_s_distances_are_in_the_list() -> None:
    classes = [kind for kind in extractors.EXTRACTORS.values() if isinstance(kind, type)]
    assert len(classes) == len(extractors.EXTRACTORS)
    frechet = {item.name: item.extractor for item in METRICS if item.extractor}
    assert {kind.metric: kind.name for kind in classes} == frechet
    assert {kind.kernel_metric for kind in classes} <= {item.name for item in METRICS}


def test_every_extractor_s_metrics_of_generated_images_are_in_the_list() -> None:
    networks = {item.name: (item.network, item.better) for item in METRICS}
    for kind in extractors.EXTRACTORS.values():
        assert isinstance(kind, type)
        assert networks[kind.generated_metric] == (kind.name, "lower")
        assert networks[kind.precision_metric] == networks[kind.recall_metric] == (kind.name, "higher")
        assert not kind.score_metric or networks[kind.score_metric] == (kind.name, "higher")
        assert not kind.spatial_metric or networks[kind.spatial_metric] == (kind.name, "lower")
    assert title("gfd_effnet2") == "Generation's Fréchet distance (EfficientNet-Lite2 features)"
    assert mark("gfd_dinov2", ["dinov2=tokenizer"]) == "in the tokenizer's own features"
    assert objective(("effnet2", "dinov2")) == "rfd_effnet2"


def test_names_are_unique() -> None:
    names = [item.name for item in METRICS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("psnr", "higher"),
        ("rFID-50k", "lower"),
        ("baseline", None),
        ("ssim_val", "higher"),
        ("lpips_squeeze", "lower"),
        ("baseline_l1", "lower"),
        ("gain_l1", "higher"),
        ("gain_rfd_dinov2_se", "higher"),
        ("gain_mine", None),
        ("gfd_mine", "lower"),
        ("sFID", "lower"),
        ("IS", "higher"),
        ("precision", "higher"),
        ("recall_clip", "higher"),
        ("autoguidance_1.5.gfd_effnet2", "lower"),
        ("cfg_2.is_effnet2", "higher"),
        ("internal_1.2.recall_dinov2_se", "higher"),
        ("gfd_effnet2_gaussian", "lower"),
        ("generator_loss", "lower"),
        ("generator.epochs", None),
    ],
)
def test_directions(name: str, wanted: str | None) -> None:
    assert better(name) == wanted


def test_the_objective_of_a_search() -> None:
    assert objective(("inception", "dinov2")) == "rfid_inception"
    assert objective(()) == "psnr"


def test_a_search_s_objective_is_no_metric_that_training_looks_through() -> None:
    assert objective(("effnet", "dinov2", "effnet2"), "dinov2=tokenizer effnet=training") == "rfd_effnet2"
    assert objective(("effnet",), "effnet=training") == "psnr"


@pytest.mark.parametrize(
    "name", ["rfd_effnet", "kd_effnet", "phase2.rfd_effnet", "baseline_kd_effnet", "rfd_effnet_reference"]
)
def test_whatever_is_measured_in_training_s_features_is_marked(name: str) -> None:
    seen = looked_through(flatten(TrialConfig()))
    assert mark(name, ["", seen]) == "in training's features" and mark(name, [""]) == mark(name, []) == ""
    assert not mark(name.replace("effnet", "effnet2"), [seen]) and not mark("psnr", [seen])


@pytest.mark.parametrize(
    ("fields", "marked"),
    [
        ({}, EFFNET | DINOV2),
        ({"objective.perceptual_weight": 0.0}, DINOV2),
        ({"objective.perceptual": "none", "encoder.weights": "hub"}, set()),
        ({"objective.perceptual": "lpips_vgg", "encoder.weights": "random"}, {"lpips_vgg"}),
    ],
)
def test_marks_are_of_the_networks_of_a_config(fields: dict[str, Any], marked: set[str]) -> None:
    config = TrialConfig()
    for name, value in fields.items():
        config = override(config, name, value)
    seen = looked_through(flatten(config))
    assert {item.name for item in METRICS if mark(item.name, [seen])} == marked
    assert mark("rfd_dinov2", [looked_through(flatten(config), "dinov2")]) == "in the tokenizer's own features"


def test_distances_begin_with_the_independent_network_s_and_end_with_training_s() -> None:
    found = [item.name for item in METRICS if item.extractor]
    assert (METRICS[0].name, found[0], found[-1]) == ("rfd_effnet2", "rfd_effnet2", "rfd_effnet")


def test_a_name_without_title_stays_as_it_is() -> None:
    assert title("psnr") == "PSNR (dB)" and title("mine") == "mine" and title("gain_mine") == "gain_mine"


@pytest.mark.parametrize("guidance", ["none", "cfg=2", "cfg=1.5", "autoguidance=1.5", "internal=10.25"])
@pytest.mark.parametrize("metric", [item for item in METRICS if item.name in GENERATED or item.name == "is_effnet2"])
def test_a_guidance_before_a_metric_changes_its_title_alone(guidance: str, metric: Metric) -> None:
    # A guidance is checked here to be one that a trial's config takes.
    override(override(TrialConfig(), "generator.early_depth", 1), "generator.guidance", (guidance,))
    kind, _, scale = guidance.partition("=")
    name, said = (metric.name, "") if kind == "none" else (f"{kind}_{scale}.{metric.name}", f", {kind} {scale}")
    assert (plain(name), better(name), title(name)) == (metric.name, metric.better, metric.title + said)
    assert better(f"{name}_se") == metric.better and plain(f"{name}_images") == f"{metric.name}_images"
    assert mark(name, [f"{metric.network}=training"]) == "in training's features"


def test_controls_are_titled_and_marked_as_what_they_control() -> None:
    titles = [title(f"gfd_dinov2_{control}") for control in CONTROLS]
    assert len(set(titles)) == 3 and all(text.startswith(title("gfd_dinov2") + " of ") for text in titles)
    assert mark("gfd_dinov2_real", ["dinov2=tokenizer"]) == "in the tokenizer's own features"
    assert title("psnr_real") == "psnr_real" and title("gfd_mine_real") == "gfd_mine_real"


def test_the_distances_of_generated_images_among_columns() -> None:
    assert set(GENERATED) == {
        kind.generated_metric for kind in extractors.EXTRACTORS.values() if isinstance(kind, type)
    }
    behind = [f"gfd_effnet2_{end}" for end in ("se", "images", *CONTROLS)]
    columns = ["psnr", "cfg_2.gfid_inception", *behind, "cfg_2.gfd_effnet2", "gfd_effnet2", "phase2.gfd_effnet2"]
    assert generated(columns) == ["gfd_effnet2", "cfg_2.gfd_effnet2", "cfg_2.gfid_inception"]
