"""What arXiv 2605.10780 shows, as data: tables, figures, their numbers, and the trials that measure them again.

Three studies make all of it: `design` (Table 3), `strategy` (Tables 1 and 4, Figures 4, 6, 7, 9) and `scaling` (Tables
8 and 9, Figure 5), whose run with h = 3072 and 12 layers stands in both tables and is trained once. They run `at` the
paper's own size or a smaller one, where widths are scaled to the preset's.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from drorae.config import PRESETS, Scale, TrialConfig, override
from drorae.config.generator import GenerationConfig
from drorae.errors import UserError
from drorae.machine.precision import settled
from drorae.metrics.registry import AUTOGUIDED, PUBLISHED_GUIDANCE, measure_of
from sweeps.spec import Axis, SweepSpec

Study = Literal["design", "strategy", "scaling"]
WIDTH = 3072
"""h of the paper's default module, to which those of its sweep are relative."""
OWN_WIDTHS: Mapping[Scale, int] = types.MappingProxyType({"smoke": 32, "quickstart": 128, "paper": WIDTH})
"""What stands for h = 3072 at each size."""
PROBE_STEPS: Mapping[Scale, int] = types.MappingProxyType({"smoke": 20, "quickstart": 300, "paper": 2000})
"""Of the probe, which stands for the loss of the paper's DiT at epoch 12."""
CAPACITIES = (128, 256, 512, 1024, 2048, 3072, 4096, 6144)
LAYERS = tuple(range(1, 13))


@dataclass(frozen=True)
class Row:
    """A row of a published table."""

    name: str
    published: Mapping[str, float]
    """By the paper's column."""
    point: Mapping[str, Any] = field(default_factory=dict)
    """What tells its trials from the study's others: config fields."""
    after: Literal["", "phase1", "phase2"] = ""
    """The phase after which it is measured, where that is not the trial's last."""
    drawn: Mapping[str, float] = field(default_factory=dict)
    """What the paper's generator adds, by column: shown where trials have one."""
    drawn_point: Mapping[str, Any] | None = None
    """What tells the trials whose generator measures it, as it comes after a trial's last phase; default: its own."""


@dataclass(frozen=True)
class Exhibit:
    """A table or a figure of the paper."""

    name: str
    title: str
    study: Study
    rows: tuple[Row, ...] = ()
    pictures: tuple[str, ...] = ()
    """Files of a trial's folder that draw the same."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What is printed in a figure, by the name that a trial's inspection.json has for it."""
    remarks: tuple[str, ...] = ()
    """Doubts about what is printed, and what is measured in its place."""


_DRAWN = ("gFID", "IS", "precision", "recall", "DiT training loss")
"""Columns that only a trial with a generator measures."""
GENERATORS: Mapping[Scale, GenerationConfig] = types.MappingProxyType(
    {
        "smoke": GenerationConfig("tiny", samples=50, steps=10),
        "quickstart": GenerationConfig("small"),
        "paper": GenerationConfig("dit_dh_xl", "drorae", samples=50_000, steps=250),
    }
)
"""What stands for the paper's generator at each size."""


def is_drawn(column: str) -> bool:
    """Whether one of the paper's columns is of its generator."""
    return column.removesuffix(AUTOGUIDED) in _DRAWN


def _by_width(at: Scale, h: int) -> int:
    """Returns the width at a size that stands for h in the paper: the same share of the default module's."""
    return max(1, round(h * OWN_WIDTHS[at] / WIDTH))


def base(at: Scale, generator: int = 0) -> TrialConfig:
    """Returns the paper's default trial at a size, through phase 2.

    generator: epochs of the generator behind it; 0: none.
    """
    config = settled(override(PRESETS[at], "fusion.expert_hidden_dim", OWN_WIDTHS[at]))
    if generator:
        guidance = ("none", PUBLISHED_GUIDANCE)
        config = replace(config, generator=replace(GENERATORS[at], epochs=generator, guidance=guidance))
    return replace(config, phase3=replace(config.phase3, epochs=0))


def _through_phase_3(at: Scale) -> Mapping[str, Any]:
    # A fifth of phase 1, as published.
    own = PRESETS[at]
    epochs = own.phase3.epochs or max(1, round(own.phase1.epochs / 5))
    return {"phase3.epochs": epochs} | ({} if own.phase3.epochs else {"phase3.batch_size": own.phase1.batch_size})


TUNED = types.MappingProxyType({"phase3.trains": "decoder,encoder", "phase3.lr": 1e-4})
"""The encoder as well, at the paper's rate: at the presets' 1e-3 a pretrained one is soon destroyed."""


NO_FUSION = types.MappingProxyType({"fusion.variant": "last", "fusion.incremental": False})


def study(name: Study, at: Scale, seeds: Sequence[int] = (0,), generator: int = 0) -> SweepSpec:
    """Returns the sweep of a study at a size.

    Args:
        name: of the study.
        at: smoke, quickstart or paper.
        seeds: every trial is run with each.
        generator: epochs of the generator that every trial has; 0: none has one.
    """
    config = base(at, generator)
    points: list[Mapping[str, Any]]
    if name == "design":
        config = override(config, "probe.steps", PROBE_STEPS[at])
        points = [row.point for row in EXHIBITS["table3"].rows]
    elif name == "strategy":
        points = [_through_phase_3(at), {**_through_phase_3(at), **TUNED}]
        if generator:
            # Trials that end where earlier rows are measured.
            points += [NO_FUSION, {}]
    else:
        points = [_scaled(row.point, at) for row in _SCALING]
    axes = (Axis("seed", tuple(seeds)),)
    called = f"reproduce-{name}-{at}" + (f"-generator{generator}" if generator else "")
    return SweepSpec(called, config, axes, tuple(dict(point) for point in points))


def _scaled(point: Mapping[str, Any], at: Scale) -> dict[str, Any]:
    """A point of the scaling study with the size's own width."""
    found = dict(point)
    if "fusion.expert_hidden_dim" in found:
        found["fusion.expert_hidden_dim"] = _by_width(at, found["fusion.expert_hidden_dim"])
    return found


def row_configs(
    exhibit: Exhibit, row: Row, at: Scale, seeds: Sequence[int], generator: int = 0, drawn: bool = False
) -> list[TrialConfig]:
    """Returns the trials, one a seed, that measure a row of an exhibit at a size.

    Args:
        exhibit: the table or figure.
        row: of it.
        at: the size.
        seeds: of the trials.
        generator: epochs of the trials' generator; 0: none.
        drawn: those that measure the columns of the generator.
    """
    config = study(exhibit.study, at, generator=generator).base
    point = _scaled(row.point, at) if exhibit.study == "scaling" else dict(row.point)
    if exhibit.study == "strategy":
        point = {**_through_phase_3(at), **point}
    if drawn and row.drawn_point is not None:
        point = dict(row.drawn_point)
    for name, value in point.items():
        config = override(config, name, value)
    return [override(config, "seed", seed) for seed in seeds]


def published_columns(row: Row, generator: int = 0) -> dict[str, float]:
    """Returns what the paper prints in a row, by column; with a generator also what only that one measures."""
    return {**row.published, **(row.drawn if generator else {})}


def check_drawn(exhibit: Exhibit, generator: int) -> None:
    """Refuses a generator for what shows nothing of one.

    Raises:
        UserError: the exhibit has no column of a generator.
    """
    with_columns = [
        name
        for name, item in EXHIBITS.items()
        if any(is_drawn(column) for row in item.rows for column in published_columns(row, 1))
    ]
    if generator and exhibit.name not in with_columns:
        raise UserError(
            f"--generator: {exhibit.name} shows nothing of a generator, {', '.join(with_columns)} do; leave it out"
        )


def metric_of(column: str, at: Scale, generator: int = 0) -> str:
    """Returns the metric that measures one of the paper's columns at a size; empty where nothing does.

    generator: epochs of the trials' generator; 0: none.
    """
    if is_drawn(column) and not generator:
        return ""
    measured = PRESETS[at].evaluation
    return measure_of(column, measured.extractors, measured.lpips)


def deviations(at: Scale, generator: int = 0) -> list[str]:
    """Returns how the trials of a size differ from the paper's, in sentences.

    generator: epochs of the trials' generator; 0: none.
    """
    return _deviations(at) + ([_of_generator(at, generator)] if generator else [])


def _of_generator(at: Scale, epochs: int) -> str:
    own, paper = GENERATORS[at], GENERATORS["paper"]
    said = (
        f"Generator: {own.size} for {epochs} epochs, {own.samples:,} samples of {own.steps} steps; the paper: "
        f"{paper.size}, {paper.run(0, labelled=True).training.epochs} epochs, {paper.samples:,} samples of "
        f"{paper.steps} steps, AutoGuidance by a DiT^DH-S of an epoch that it does not give, and a training loss at "
        "epoch 12."
    )
    return said + ("" if at == "paper" else f" gFID is {metric_of('gFID', at, epochs)}: not in Inception's features.")


def _deviations(at: Scale) -> list[str]:
    if at == "paper":
        return [
            "The training recipe is the preset's: docs/concepts/recipes.md lists where the paper is silent or doubtful."
        ]
    own, paper = PRESETS[at], PRESETS["paper"]
    images = own.images.train_images or "all"
    return [
        f"Images: {images} crops of {own.images.size} px of a few photographs, not ImageNet at {paper.images.size} px.",
        f"Networks: {own.encoder.name} at {own.encoder.input_size} px, a decoder {own.decoder.width} wide of "
        f"{own.decoder.depth} blocks, h = {OWN_WIDTHS[at]} for {WIDTH}; the paper: {paper.encoder.name}, "
        f"{paper.decoder.width} wide, {paper.decoder.depth} blocks.",
        f"Training: {own.phase1.epochs} and {own.phase2.epochs} epochs for {paper.phase1.epochs} and "
        f"{paper.phase2.epochs}, {own.objective.perceptual} for {paper.objective.perceptual}, no discriminator.",
        f"Distance: {metric_of('rFID', at)} over the validation crops, whose values are not those of rFID; only orders "
        "and shapes compare.",
    ]


def _design(name: str, variant: str, incremental: bool, rfid: float, loss: float | None) -> Row:
    point = {"fusion.variant": variant, "fusion.incremental": incremental}
    # The probe's held-out loss and the generator's own stand beside the same number.
    probed, drawn = ({}, {}) if loss is None else ({"DiT loss": loss}, {"DiT training loss": loss})
    return Row(name, {"rFID": rfid} | probed, point, drawn=drawn)


def _drawn(plain: Sequence[float], guided: Sequence[float]) -> dict[str, float]:
    """gFID, Inception Score, precision and recall, without guidance and with AutoGuidance."""
    columns = _DRAWN[:4]
    named = [f"{column}{AUTOGUIDED}" for column in columns]
    return dict(zip((*columns, *named), (*plain, *guided), strict=True))


def _capacity(h: int, rfid: float) -> Row:
    return Row(f"h = {h}", {"rFID": rfid}, {"fusion.expert_hidden_dim": h})


def _layer(count: int, rfid: float) -> Row:
    # All twelve layers are the default, 0: the run that both tables have.
    point: dict[str, Any] = {"fusion.expert_hidden_dim": WIDTH}
    return Row(f"{count} layers", {"rFID": rfid}, point | ({"fusion.num_layers": count} if count < len(LAYERS) else {}))


_BY_CAPACITY = tuple(map(_capacity, CAPACITIES, (0.539, 0.559, 0.525, 0.519, 0.510, 0.471, 0.470, 0.459)))
_BY_LAYERS = tuple(
    map(_layer, LAYERS, (0.570, 0.530, 0.568, 0.518, 0.540, 0.515, 0.522, 0.507, 0.466, 0.541, 0.515, 0.471))
)
_SCALING = (*_BY_CAPACITY, *_BY_LAYERS[:-1])
"""Nineteen runs: the one that both tables have, once."""

EXHIBITS: Mapping[str, Exhibit] = types.MappingProxyType(
    {
        item.name: item
        for item in (
            Exhibit(
                "table1", "Reconstruction before and after each phase", "strategy",
                (
                    Row("RAE", {"rFID": 0.57, "PSNR": 18.8, "LPIPS": 0.256, "SSIM": 0.483}, after="phase1",
                        drawn=_drawn((2.16, 214.8, 0.82, 0.59), (1.74, 235.0, 0.81, 0.60)), drawn_point=NO_FUSION),
                    Row("phase 2", {"rFID": 0.47, "PSNR": 21.79, "LPIPS": 0.195, "SSIM": 0.583}, after="phase2",
                        drawn=_drawn((2.45, 197.8, 0.80, 0.60), (1.70, 222.6, 0.81, 0.61)), drawn_point={}),
                    Row("phase 3", {"rFID": 0.29, "PSNR": 24.32, "LPIPS": 0.134, "SSIM": 0.701},
                        drawn=_drawn((2.68, 197.8, 0.80, 0.59), (1.65, 230.6, 0.81, 0.60))),
                ),
                remarks=("The generation columns need a generator (--generator). Table 1 prints gFID 2.45 without "
                         "guidance after phase 2, Table 4 2.46.",),
            ),
            Exhibit(
                "table3", "Designs of the fusion, after phase 2", "design",
                (
                    _design("no fusion", "last", False, 0.57, 0.43),
                    _design("cross-attention", "cross_attention", False, 0.498, None),
                    _design("softmax, no incremental", "softmax", False, 0.475, 0.79),
                    _design("energy, no incremental", "energy", False, 0.447, 0.81),
                    _design("softmax + incremental", "softmax", True, 0.512, 0.48),
                    _design("energy + incremental", "energy", True, 0.470, 0.47),
                ),
                remarks=("The DiT's training loss at epoch 12 is measured by the probe's held-out loss; their order "
                         "can depend on what latents are divided by (probe.scale).",
                         "The formula of the cross-attention is not published (drorae/models/fusion/attention.py)."),
            ),
            Exhibit(
                "table4", "Training strategies", "strategy",
                (
                    Row("fusion only", {"rFID": 0.47, "gFID": 2.46, "gFID with AutoGuidance": 1.70}, after="phase2",
                        drawn_point={}),
                    Row("fusion, then decoder", {"rFID": 0.29, "gFID": 2.68, "gFID with AutoGuidance": 1.65}),
                    Row("fusion, then decoder and encoder", {"rFID": 0.13, "gFID": 18.36}, TUNED),
                ),
                remarks=("The paper trains the encoder in a phase of its own that it does not describe; here with the "
                         "decoder in phase 3.",
                         "Its text calls the evaluation of the third row's generation pending; the table prints it."),
            ),
            Exhibit("table8", "Expert capacity", "scaling", _BY_CAPACITY),
            Exhibit("table9", "Number of fused layers", "scaling", _BY_LAYERS),
            Exhibit(
                "scaling", "Both axes and their laws (Figure 5)", "scaling", _SCALING,
                remarks=("The paper counts the run with h = 3072 and 12 layers twice in its pooled fit; here it is one "
                         "trial and one point.",),
            ),
            Exhibit("figure4", "Reconstructions", "strategy", pictures=("grid.png",)),
            Exhibit(
                "figure6", "Spectra", "strategy", pictures=("spectrum.png",),
                numbers={"fft_mad_phase1": 0.613, "fft_mad_fused": 0.587},
                remarks=("Published are the means of the three images shown: 0.58, 0.69, 0.57 for RAE and 0.53, 0.67, "
                         "0.56 for DRoRAE.",),
            ),
            Exhibit(
                "figure7", "Router logits and latents", "strategy", pictures=("logits.png", "latents.png"),
                remarks=("Its claims as numbers: gradient_correlation_01 (shallow logits follow image gradients) and "
                         "least_logit_correlation with its pair of layers (antagonistic pairs; the paper: 6, 8).",),
            ),
            Exhibit(
                "figure9", "All layers' routing and the distance from z_base", "strategy",
                pictures=("logits.png", "latents.png"), numbers={"cos_fuse_base": -0.22},
                remarks=("The paper calls a cosine of -0.22 nearly orthogonal.",),
            ),
        )
    }
)  # fmt: skip
"""Everything that can be measured again, in the paper's order."""
