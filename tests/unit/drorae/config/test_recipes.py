"""The presets of published recipes, field by field against what was published; docs/concepts/recipes.md says the same.

Sources: RAE's and RAEv2's YAML files in their repositories, the tables of the papers. Where a preset has another value
than was published the row says why, and where nothing was published `silent` says what was chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from drorae.config import PRESETS, TrialConfig, flatten

PAGE = Path(__file__).resolve().parents[4] / "docs" / "concepts" / "recipes.md"


@dataclass(frozen=True)
class Row:
    """One thing that was published: in its source's words, and as a field's value."""

    words: str
    field: str
    value: Any
    why: str = ""
    """Why the preset has another value; empty: it has this one."""


@dataclass(frozen=True)
class Recipe:
    """What was published of one recipe."""

    preset: str
    source: str
    rows: tuple[Row, ...]
    silent: dict[str, str] = field(default_factory=dict)
    """Fields of which nothing is said, and why they are what they are."""


def rae_rows(phase: str, steps: int, batch: str = "512") -> tuple[Row, ...]:
    """What the YAML files of RAE and RAEv2 have in common, for a phase of so many steps an epoch.

    RAE's names; RAEv2's file has `gan.` for `gan.disc.`.
    """
    return (
        Row("training.epochs: 16", f"{phase}.epochs", 16),
        Row(f"training.global_batch_size: {batch}", f"{phase}.batch_size", int(batch)),
        Row("training.ema_decay: 0.9978", f"{phase}.ema_decay", 0.9978),
        Row("training.clip_grad: 0.0", f"{phase}.clip_norm", 0.0),
        Row("training.optimizer.lr: 2.0e-4", f"{phase}.lr", 2e-4),
        Row("training.optimizer.betas: [0.9, 0.95]", f"{phase}.betas", [0.9, 0.95]),
        Row("training.optimizer.weight_decay: 0.0", f"{phase}.weight_decay", 0.0),
        Row("training.scheduler.warmup_epochs: 1", f"{phase}.warmup_steps", steps),
        Row("training.scheduler.final_lr: 2.0e-5", f"{phase}.final_lr", 2e-5),
        Row("stage_1.params.noise_tau: 0.8", f"{phase}.latent_noise", 0.8),
        Row("gan.loss.disc_upd_start: 6", f"{phase}.disc_start_steps", 6 * steps),
        Row("gan.loss.disc_start: 8", f"{phase}.gan_start_steps", 8 * steps),
        Row("gan.loss.disc_weight: 0.75", "objective.gan_weight", 0.75),
        Row("gan.loss.max_d_weight: 10000.0", "objective.max_adaptive_weight", 1e4),
        Row("gan.loss.perceptual_weight: 1.0", "objective.perceptual_weight", 1.0),
        Row("src/disc/lpips.py: VGG16", "objective.perceptual", "lpips_vgg"),
        Row("gan.disc.arch.recipe: S_8", "discriminator.name", "vit_small_patch8_224.dino"),
        Row("gan.disc.arch.ks: 9", "discriminator.kernel", 9),
        Row("gan.disc.optimizer.lr: 2.0e-4", "discriminator.lr", 2e-4),
        Row("gan.disc.optimizer.betas: [0.9, 0.95]", "discriminator.betas", [0.9, 0.95]),
        Row("gan.disc.optimizer.weight_decay: 0.0", "discriminator.weight_decay", 0.0),
        Row("gan.disc.scheduler.final_lr: 2.0e-5", "discriminator.final_lr", 2e-5),
        Row("gan.disc.scheduler.decay_end_epoch: 16, from its first step on", "discriminator.decay", "phase"),
        Row("the training script: painted again in eval mode, rounded", "discriminator.fakes", "repainted"),
        Row("src/disc/diffaug.py: translation first", "discriminator.augment", "shift_first"),
        Row("src/disc/dinodisc.py: called for fakes and for reals", "discriminator.power_iterations", 2),
        Row("configs/decoder/ViTXL: decoder_hidden_size 1152", "decoder.width", 1152),
        Row("configs/decoder/ViTXL: decoder_num_hidden_layers 28", "decoder.depth", 28),
        Row("configs/decoder/ViTXL: decoder_num_attention_heads 16", "decoder.heads", 16),
        Row("configs/decoder/ViTXL: decoder_intermediate_size 4096", "decoder.mlp_dim", 4096),
        Row("src/stage1/decoders/decoder.py: nn.Linear's own, class token of zeros", "decoder.init", "linear"),
        Row("the normalisation without scale and shift", "encoder.norm_affine", False),
        Row("--image-size 256", "images.size", 256),
    )


def swapped(rows: tuple[Row, ...], *others: Row) -> tuple[Row, ...]:
    """Rows, those of the same fields exchanged for others; new ones at the end."""
    new = {row.field: row for row in others}
    return tuple(new.pop(row.field, row) for row in rows) + tuple(new.values())


INPUT = "the usual side of this network's input"
PRECISION = "its commands name bf16 and fp32"
OURS = {
    "images.source": "ImageNet as a folder; `images.path` says where",
    "images.path": "ImageNet as a folder; `images.path` says where",
    "encoder.weights": "timm's copy of the published weights",
    "evaluation.extractors": "the published rFID's network, and two beside it",
    "evaluation.dinov2_size": INPUT,
    "evaluation.effnet2_size": INPUT,
    "evaluation.quantise": "as RAE's code evaluates",
    "evaluation.lpips": "LPIPS is published; its network is not named",
}
"""What was chosen for all presets alike."""
FASTER = "within 2 of 255 of Pillow's, at nearly twice the images a second"
CROPS = (
    Row("src/train_stage1.py: Resize(384, bicubic), RandomCrop(256)", "images.resize", 384),
    Row("src/train_stage1.py: Resize of Pillow's pictures", "images.resampling", "pillow", FASTER),
    Row("a fresh crop every epoch", "images.views", 0),
)
DINOV2 = (
    Row("encoder_config_path: facebook/dinov2-with-registers-base", "encoder.name", "vit_base_patch14_reg4_dinov2"),
    Row("encoder_input_size: 224", "encoder.input_size", 224),
    Row("src/stage1/rae.py: interpolate(bicubic)", "encoder.resize", "plain"),
    Row("src/stage1/rae.py: x * encoder_std + encoder_mean", "decoder.output", "encoder"),
)
DINOV3 = (
    Row("encoder_name: dinov3mls-vit-l16", "encoder.name", "vit_large_patch16_dinov3.lvd1689m"),
    Row("resolution: 256", "encoder.input_size", 256),
)

RAE = Recipe(
    "rae",
    "RAE (arXiv 2510.11690), configs/stage1/training/DINOv2-B_decXL.yaml and the code beside it",
    (*rae_rows("phase1", 2502), *CROPS, *DINOV2, Row("the last layer", "fusion.variant", "last")),
    {"phase1.precision": PRECISION, "fusion.incremental": "without a fusion it means nothing"},
)
RAEV2 = Recipe(
    "raev2",
    "RAEv2 (arXiv 2605.18324), configs/stage1/training/dinov3l-k7-imagenet.yaml and the code beside it",
    (
        *rae_rows("phase1", 2502),
        *DINOV3,
        Row("src/stage1/rae.py: interpolate(bicubic)", "encoder.resize", "plain"),
        Row("src/stage1/rae.py: the decoder's output as it is", "decoder.output", "none"),
        Row("the mean, and the spatial mean of the last", "fusion.variant", "mean_dc"),
        Row("the mean itself", "fusion.incremental", False),
        Row("the decoder reads the mean", "phase1.latent", "fused"),
        Row("layers=11.13.15.17.19.21.23, from 0", "fusion.layers", [12, 14, 16, 18, 20, 22, 24]),
        Row("--precision bf16 by default", "phase1.precision", "bf16"),
        Row(
            "images cut to 256 px beforehand, seen whole", "images.views", 1,
            "ImageNet as it comes is cut at random along its longer side, anew every epoch",
        ),
    ),
    {"images.resampling": FASTER},
)  # fmt: skip
HIRAE_SILENT = "not said; RAEv2's, which it is compared with on the same encoder"
HIRAE = Recipe(
    "hirae",
    "HiRAE-24 (arXiv 2609.37775), Table 10 and Appendix A",
    (
        Row("epochs 16", "phase2.epochs", 16),
        Row("batch size 128", "phase2.batch_size", 128),
        Row("EMA 0.9978", "phase2.ema_decay", 0.9978),
        Row("no clipping", "phase2.clip_norm", 0.0),
        Row("AdamW, 2e-4", "phase2.lr", 2e-4),
        Row("cosine to 2e-5", "phase2.final_lr", 2e-5),
        Row("betas (0.9, 0.95)", "phase2.betas", [0.9, 0.95]),
        Row("no weight decay", "phase2.weight_decay", 0.0),
        Row("warm-up of 1 epoch", "phase2.warmup_steps", 10009),
        Row("noise 0.8", "phase2.latent_noise", 0.8),
        Row("discriminator trained from epoch 6", "phase2.disc_start_steps", 60054),
        Row("adversarial loss from epoch 8", "phase2.gan_start_steps", 80072),
        Row("fusion and decoder jointly", "phase2.trains", ["fusion", "decoder"]),
        Row("fusion and decoder jointly", "phase2.start", "fresh"),
        Row("one phase", "phase1.epochs", 0),
        Row("one phase", "phase3.epochs", 0),
        Row("GAN weight 0.75", "objective.gan_weight", 0.75),
        Row("adaptive weight up to 1e4", "objective.max_adaptive_weight", 1e4),
        Row("LPIPS weight 1", "objective.perceptual_weight", 1.0),
        Row("LPIPS", "objective.perceptual", "lpips_vgg"),
        Row("ViT-XL decoder", "decoder.width", 1152),
        Row("ViT-XL decoder", "decoder.depth", 28),
        Row("ViT-XL decoder", "decoder.heads", 16),
        Row("ViT-XL decoder", "decoder.mlp_dim", 4096),
        Row("DINOv3-L/16", "encoder.name", "vit_large_patch16_dinov3.lvd1689m"),
        Row("256 x 256", "encoder.input_size", 256),
        Row("256 x 256", "images.size", 256),
        Row("hierarchical residuals", "fusion.variant", "hirae"),
        Row("h = 4C", "fusion.expert_hidden_dim", 4096),
        Row("all 24 blocks", "fusion.num_layers", 0),
    ),
    {
        "phase2.precision": "not said; as the other presets",
        "images.resize": "not said; RAE's crop",
        "images.views": "not said; RAE's crop",
        "images.resampling": FASTER,
        "encoder.resize": "without effect: the encoder sees the crop at its own size",
        "decoder.init": HIRAE_SILENT,
        "decoder.output": HIRAE_SILENT,
        **{
            f"discriminator.{name}": '"DINO-based", hinge loss; the rest RAE\'s'
            for name in ("fakes", "augment", "power_iterations", "decay")
        },
    },
)
SIZE = '"1536 x 24, MLP ratio 4" is 680 M, not the 335 M printed; RAE\'s XL (413 M) is the baseline that it starts from'
HEADS = (
    'RAE\'s S/8, whose heads have 7.4 M; "768 wide, 24 M" is `vit_base_patch16_224.dino` with `discriminator.kernel=7`'
)
PAPER = Recipe(
    "paper",
    "DRoRAE (arXiv 2605.10780), Table 5 and Appendix A; RAE's recipe where they are silent",
    swapped(
        (*rae_rows("phase1", 5004, "256"), *CROPS, *DINOV2),
        # What Table 5 says takes the place of RAE's.
        Row("phase 1: 100 epochs", "phase1.epochs", 100),
        Row("phase 2: 100 epochs", "phase2.epochs", 100),
        Row("phase 3: 20 epochs", "phase3.epochs", 20),
        *(
            Row(words, f"phase{number}.{name}", value)
            for number in (1, 2, 3)
            for words, name, value in (
                ("batch size 256", "batch_size", 256),
                ("AdamW, 1e-4", "lr", 1e-4),
                ("betas (0.5, 0.9)", "betas", [0.5, 0.9]),
                ("weight decay 0.05", "weight_decay", 0.05),
                # RAE's, for all three.
                ("RAE's warm-up of 1 epoch", "warmup_steps", 5004),
                ("RAE's cosine to 2e-5", "final_lr", 2e-5),
                ("RAE's EMA", "ema_decay", 0.9978),
                ("RAE's missing clipping", "clip_norm", 0.0),
            )
        ),
        Row("GAN warm-up 30k steps", "phase1.gan_start_steps", 30000),
        Row("GAN warm-up 10k steps", "phase2.gan_start_steps", 10000),
        Row("RAE's six epochs of eight", "phase1.disc_start_steps", 22500),
        Row("RAE's six epochs of eight", "phase2.disc_start_steps", 7500),
        Row("phase 3: all else as phase 1", "phase3.gan_start_steps", 30000),
        Row("phase 3: all else as phase 1", "phase3.disc_start_steps", 22500),
        Row("phase 3: all else as phase 1", "phase3.latent_noise", 0.8),
        Row(
            "RAE's noise 0.8", "phase2.latent_noise", 0.8,
            "RAE's noise makes a decoder robust; in phase 2 the decoder is frozen",
        ),
        Row("discriminator: 1e-4", "discriminator.lr", 1e-4),
        Row("discriminator: betas (0.5, 0.9)", "discriminator.betas", [0.5, 0.9]),
        Row("discriminator: weight decay 0.05", "discriminator.weight_decay", 0.05),
        Row("discriminator: 768 wide, 24 M", "discriminator.name", "vit_base_patch16_224.dino", HEADS),
        Row("discriminator: 768 wide, 24 M", "discriminator.kernel", 7, HEADS),
        Row("decoder: 1536 wide, 335 M", "decoder.width", 1536, SIZE),
        Row("decoder: 24 layers, 335 M", "decoder.depth", 24, SIZE),
        Row("decoder: MLP ratio 4, 335 M", "decoder.mlp_dim", 6144, SIZE),
        Row("lambda_p = 1", "objective.perceptual_weight", 1.0),
        Row("fusion: energy-normalised", "fusion.variant", "energy"),
        Row("fusion: incremental", "fusion.incremental", True),
        Row("fusion: beta = 0.2", "fusion.beta", 0.2),
        Row("fusion: h = 3072", "fusion.expert_hidden_dim", 3072),
        Row("fusion: all 12 layers", "fusion.num_layers", 0),
    ),
    {f"phase{number}.precision": "not said; RAE's commands name bf16 and fp32" for number in (1, 2, 3)},
)  # fmt: skip
RECIPES = (PAPER, RAE, RAEV2, HIRAE)


def value_of(config: TrialConfig, name: str) -> Any:
    """A field's value as JSON has it; None where there is no such field."""
    return flatten(config).get(name)


def in_words(value: Any) -> str:
    """A value as it stands in the page."""
    if isinstance(value, list):
        return ", ".join(map(in_words, value))
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "-"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def chosen(silent: dict[str, str], config: TrialConfig) -> list[str]:
    """A table of fields of which nothing is published."""
    rows = [f"| `{name}` | {in_words(value_of(config, name))} | {why} |" for name, why in silent.items()]
    return ["| not published: field | preset | why |", "|---|---|---|", *rows] if rows else []


def tables(recipe: Recipe) -> str:
    """What the page says of a recipe: where the preset deviates, and what was chosen where nothing is published."""
    config = PRESETS[recipe.preset]
    deviating = [
        f"| {row.words} | `{row.field}` | {in_words(row.value)} | {in_words(value_of(config, row.field))} | {row.why} |"
        for row in recipe.rows
        if row.why
    ]
    header = ["| published | field | value | preset | why |", "|---|---|---|---|---|"]
    lines = [f"## `{recipe.preset}`", "", f"{recipe.source}: {len(recipe.rows)} fields.", ""]
    lines += [*header, *deviating, ""] if deviating else ["The preset deviates in none.", ""]
    return "\n".join(lines + chosen(recipe.silent, config)).rstrip() + "\n"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.preset)
def test_a_preset_is_what_was_published_but_for_what_its_table_says(recipe: Recipe) -> None:
    found = {row.field: value_of(PRESETS[recipe.preset], row.field) for row in recipe.rows}
    assert len(found) == len(recipe.rows), "one row for each field"
    for row in recipe.rows:
        if row.why:
            assert found[row.field] != row.value, (
                f"{recipe.preset}: {row.field} deviates no longer; take its reason out"
            )
        else:
            assert found[row.field] == row.value, f"{recipe.preset}: {row.field} is published as {row.words}"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.preset)
def test_whatever_a_preset_sets_was_published_or_is_listed_as_chosen(recipe: Recipe) -> None:
    """A field that is not at its default, of a phase that is trained or of anything else, has its row."""
    config, known = PRESETS[recipe.preset], {row.field for row in recipe.rows} | set(recipe.silent | OURS)
    usual, idle = flatten(TrialConfig()), {phase.name for phase in config.phases if not phase.settings.epochs}
    for name, value in flatten(config).items():
        if value != usual[name] and name.split(".")[0] not in idle:
            assert name in known, f"{recipe.preset}: where does {name} = {value} come from?"
    assert not set(recipe.silent | OURS) & {row.field for row in recipe.rows}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.preset)
def test_phases_that_a_recipe_has_not_are_left_out(recipe: Recipe) -> None:
    named = {row.field.split(".")[0] for row in recipe.rows if row.field.startswith("phase") and row.value}
    assert {phase.name for phase in PRESETS[recipe.preset].phases if phase.settings.epochs} == named


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.preset)
def test_the_page_says_so(recipe: Recipe) -> None:
    assert tables(recipe) in PAGE.read_text(), f"{PAGE.name} lacks:\n\n{tables(recipe)}"


def test_the_page_says_what_all_presets_share() -> None:
    shared = [chosen(OURS, PRESETS[recipe.preset]) for recipe in RECIPES]
    assert all(table == shared[0] for table in shared)
    assert "\n".join(shared[0]) in PAGE.read_text(), "\n".join(shared[0])
