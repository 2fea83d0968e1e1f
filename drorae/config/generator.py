"""What a latent generator is: its transformer, how it learns and guides itself, and how it is trained.

A `GeneratorRun` is trained beside a finished trial (`drorae.trial.generator`), which stays as it is; a trial whose
`GenerationConfig` has epochs trains one itself and has what it draws among its metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from drorae.config.checked import Checked, Count, Decay, Like, Positive, Weight, Within
from drorae.errors import UserError

ROTATED = 4
"""What a head's width is a multiple of: a row and a column are each turned in planes of two."""


def check_heads(group: str, part: str, width: int, heads: int) -> None:
    """Raises UserError where a width of a DiT^DH does not go into its heads.

    Args:
        group: of a config, such as generator.
        part: before the fields' names: head_ of the head's, nothing of the encoder's.
        width: of the part.
        heads: of its attention.
    """
    if width % (ROTATED * heads):
        raise UserError(
            f"{group}.{part}width: {width} must be a multiple of {ROTATED} x {group}.{part}heads={heads}, as positions "
            "turn its heads in fours"
        )


@dataclass(frozen=True)
class GeneratorConfig(Checked):
    """A DiT^DH (RAE, arXiv 2510.11690) and its flow matching (`drorae.generation`).

    Sizes of the latent and the number of classes are not here: they are the tokenizer's and the images'.
    """

    width: Positive = 128
    """Of the encoder, the deep and narrow part."""
    depth: Positive = 4
    heads: Positive = 4
    head_width: Positive = 384
    """Of the wide, shallow head, which reads x_t a second time. RAE (Sec. 4): below the latent's channels it cannot
    represent their velocity."""
    head_depth: Positive = 2
    head_heads: Positive = 6
    condition: Literal["none", "class", "text"] = "class"
    """What the generator is told: nothing, the image's class, or its caption."""
    class_dropout: Annotated[float, Within(0, 1)] = 0.1
    """Probability with which a training image's class or caption is hidden, for guidance without a classifier."""
    times: Literal["logit_normal", "uniform"] = "logit_normal"
    """Training times before the shift. logit_normal: the logistic function of a standard normal, RAE's
    `logit-normal_0_1`. The DRoRAE paper gives no distribution; whoever repeats it chooses."""
    shift: Weight = 0.0
    """The a of t -> a t / (1 + (a - 1) t), in training and on the sampler's grid; 0: RAE's sqrt(elements / 4096), at
    least 1; 1: none. The DRoRAE paper gives none."""
    prediction: Literal["v", "x"] = "v"
    """v: the velocity, as RAE's and the DRoRAE paper's; x: the clean latent, as RAEv2's (arXiv 2605.18324), of which
    the loss makes a velocity."""
    early_depth: Count = 0
    """Blocks of the encoder after which a second output is read, the bad model of internal guidance (RAEv2: 8 of 28);
    0: none."""
    early_weight: Weight = 1.0
    """Of the second output's loss (RAEv2: 1)."""
    text_encoder: str = ""
    """Of condition text: a folder with a CLIP or T5 that transformers loads, or its name on the hub."""
    text_tokens: Positive = 32
    """So many of a caption or a prompt are read."""

    def check(self) -> None:
        """Raises UserError where the fields do not go together."""
        if self.condition == "text" and not self.text_encoder:
            raise UserError("generator.condition=text needs a text encoder; give generator.text_encoder")
        if self.condition != "text" and self.text_encoder:
            raise UserError(f"generator.text_encoder: {self.text_encoder} needs generator.condition=text")
        check_heads("generator", "", self.width, self.heads)
        check_heads("generator", "head_", self.head_width, self.head_heads)
        if self.early_depth >= self.depth:
            raise UserError(
                f"generator.early_depth: {self.early_depth} leaves no worse model than generator.depth={self.depth}; "
                f"use 0 (no second output) or less than {self.depth}"
            )


GENERATORS = {
    # Those of RAE's published configurations (configs/stage2/training/ImageNet256); the DRoRAE paper names the same.
    "dit_dh_xl": GeneratorConfig(1152, 28, 16, 2048, 2, 16),
    "dit_dh_s": GeneratorConfig(384, 12, 6, 2048, 2, 16),
    # Own sizes for CPUs: latents of up to 384 channels, and those of tests.
    "small": GeneratorConfig(),
    "tiny": GeneratorConfig(32, 2, 2, 64, 1, 2),
}
"""Generators by name, with RAE's flow matching."""


@dataclass(frozen=True)
class GeneratorTraining(Checked):
    """How a generator is trained, by AdamW on latents that are each seen once an epoch, half of them flipped."""

    epochs: Positive = 20
    batch_size: Positive = 128
    lr: Weight = 1e-3
    schedule: Literal["constant", "linear"] = "constant"
    """linear: after `constant_epochs` at `lr`, in a straight line to `final_lr` at the last step."""
    final_lr: Weight = 0.0
    constant_epochs: Count = 0
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    weight_decay: Weight = 0.0
    clip_norm: Weight = 1.0
    """Largest gradient norm; 0: no clipping."""
    ema_decay: Decay = 0.99
    """Decay of the weight average that samples; 0: the weights themselves. The published 0.9995 still holds a fifth
    of the first weights after 3000 steps."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of matrix products; weights and sums are float32."""

    def check(self) -> None:
        """Raises UserError where the fields do not go together."""
        if self.schedule == "linear" and self.constant_epochs >= self.epochs:
            raise UserError(
                f"generator.constant_epochs: {self.constant_epochs} leaves none of generator.epochs={self.epochs} for "
                "the way to generator.final_lr; give less, or use generator.schedule=constant"
            )


TRAININGS = {
    "own": GeneratorTraining(),
    "rae": GeneratorTraining(800, 1024, 2e-4, "linear", 2e-5, 40, ema_decay=0.9995),
    "drorae": GeneratorTraining(80, 256, 1e-4, betas=(0.9, 0.999), ema_decay=0.9995),
}
"""Ways of training by name: own, for CPUs; RAE's of its published configurations; and what the DRoRAE paper says of
its own, the rest as RAE's."""


@dataclass(frozen=True)
class GeneratorRun(Checked):
    """A generator as it is trained: with the trial's hash, what it is known by."""

    model: GeneratorConfig = GeneratorConfig()
    training: GeneratorTraining = GeneratorTraining()
    seed: Count = 0

    def check(self) -> None:
        """Raises UserError where the fields do not go together."""
        self.model.check()
        self.training.check()


Guided = Annotated[
    str,
    Like(
        r"none|(cfg|autoguidance|internal)=\d+(\.\d+)?", "none, or cfg, autoguidance or internal with a scale (cfg=1.5)"
    ),
]


@dataclass(frozen=True)
class GenerationConfig(Checked):
    """The generator of a trial: trained once its tokenizer is, on that one's latents, and measured by what it draws."""

    size: Literal["small", "tiny", "dit_dh_s", "dit_dh_xl"] = "small"
    """A name of `GENERATORS`."""
    training: Literal["own", "rae", "drorae"] = "own"
    """A name of `TRAININGS`."""
    epochs: Count = 0
    """So often it sees every training image; 0: the trial has no generator."""
    batch_size: Count = 0
    """0: the training's."""
    lr: Weight = 0.0
    """0: the training's."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of the training's matrix products; auto: the training's, whatever the machine. Images are drawn in float32."""
    condition: Literal["auto", "none", "class", "text"] = "auto"
    """What it is told; auto: the class of images that have one. Told captions, it draws those of the validation images,
    one image of each by turns."""
    text_encoder: str = ""
    text_tokens: Positive = 32
    """Of condition text, as a `GeneratorConfig` has both."""
    prediction: Literal["v", "x"] = "v"
    early_depth: Count = 0
    """Blocks before the second output, which internal guidance needs; 0: none."""
    samples: Annotated[int, Within(10)] = 500
    """Images drawn for the metrics, of all classes by turns."""
    steps: Positive = 50
    """Of the sampler."""
    method: Literal["euler", "heun"] = "euler"
    guidance: tuple[Guided, ...] = ("none",)
    """Guidances that it draws with in turn, one generator for all: none,autoguidance=1.5. The first one's metrics have
    the plain names, any other's its own before them: autoguidance_1.5.gfd_effnet2."""

    @classmethod
    def named(cls, size: Any) -> GenerationConfig:
        """Returns what `generator=NAME` stands for: a size, trained as long as published, or as `own` says.

        Raises:
            UserError: no such size.
        """
        if size not in GENERATORS:
            raise UserError(f"generator: {size!r} is not known; choose one of {', '.join(GENERATORS)}")
        training: Literal["own", "drorae"] = "drorae" if size.startswith("dit_dh") else "own"
        return cls(size, training, TRAININGS[training].epochs)

    def run(self, seed: int, labelled: bool) -> GeneratorRun:
        """Returns the generator and its training.

        Args:
            seed: the trial's.
            labelled: whether the images have classes.
        """
        usual = TRAININGS[self.training]
        told: Literal["none", "class"] = "class" if labelled else "none"
        return GeneratorRun(
            replace(
                GENERATORS[self.size],
                condition=told if self.condition == "auto" else self.condition,
                text_encoder=self.text_encoder,
                text_tokens=self.text_tokens,
                prediction=self.prediction,
                early_depth=self.early_depth,
            ),
            replace(
                usual,
                epochs=self.epochs or usual.epochs,
                batch_size=self.batch_size or usual.batch_size,
                lr=self.lr or usual.lr,
                precision=usual.precision if self.precision == "auto" else self.precision,
            ),
            seed,
        )

    def check(self) -> None:
        """Raises UserError where the fields do not go together."""
        if not self.epochs:
            return
        self.run(0, labelled=True).check()
        if not self.guidance:
            raise UserError("generator.guidance: expected one or more; use none")
        if len(set(self.guidance)) < len(self.guidance):
            raise UserError(f"generator.guidance: {','.join(self.guidance)} names one twice; name each once")
        kinds = {guidance.partition("=")[0] for guidance in self.guidance}
        if "internal" in kinds and not self.early_depth:
            raise UserError("generator.guidance: internal needs a second output; set generator.early_depth")
        if "cfg" in kinds and self.condition == "none":
            raise UserError(
                "generator.guidance: cfg needs a generator that is told classes or texts; use generator.condition=class"
            )
