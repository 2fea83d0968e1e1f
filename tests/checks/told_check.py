"""A generator that is told classes beside one that is told captions of the same classes: whose images are of the class?

    python tests/checks/told_check.py cifar10-subset.npz --out runs/told --epochs 9

Takes an npz of CIFAR-10 (`train`, `val` and their labels), writes its images in class folders with a templated caption
beside each, and a small text encoder with random weights, which tell templates and classes apart and know nothing of
what words mean. Then two trials, a core each, train the quickstart's tokenizer and a generator of its latents, and a
table says which share of their images a linear classifier of real images sees as of the class that was asked for.
Called again, it goes on. Not part of `make test`: it takes as long as the epochs do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TEMPLATES = ("a photo of a {}", "a small picture of a {}", "one {} in the middle", "this is a {}")
GUIDANCES = {"": "none", "cfg_2.": "cfg 2"}
CONTROLS = ("_real", "_reconstructions", "_gaussian")


def write_images(path: Path, folder: Path) -> None:
    """Writes the images of an npz as PNGs in class folders, with captions beside them."""
    with np.load(path, allow_pickle=False) as arrays:
        for side in ("train", "val"):
            for number, (pixels, label) in enumerate(zip(arrays[side], arrays[f"{side}_label"], strict=True)):
                place = folder / side / CLASSES[label] / f"{number:05d}.png"
                if place.with_suffix(".txt").is_file():
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(place)
                caption = TEMPLATES[number % len(TEMPLATES)].format(CLASSES[label])
                place.with_suffix(".txt").write_text(caption)


def write_text_encoder(folder: Path) -> None:
    """Saves a CLIP's text tower of random weights, and a tokenizer of the captions' words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

    found = {word for text in TEMPLATES for word in text.replace("{}", "").split()}
    words = ["[pad]", "[unk]", *sorted(found), *CLASSES]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[pad]", unk_token="[unk]").save_pretrained(folder)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    numbers = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "max_position_embeddings": 16}
    torch.manual_seed(0)
    CLIPTextModel(CLIPTextConfig(vocab_size=len(words), **sizes, **numbers)).save_pretrained(folder)


def start(out: Path, condition: str, settings: list[str]) -> subprocess.Popen[bytes]:
    """Starts a trial, or goes on with it."""
    told = [f"generator.condition={condition}"]
    if condition == "text":
        told += [f"generator.text_encoder={out / 'text-encoder'}", "generator.text_tokens=6"]
    command = [sys.executable, "-m", "drorae", "train", "--preset", "quickstart", "--out", str(out / condition)]
    command += ["--threads", "1", "--no-track", "--set", *settings, *told]
    with (out / f"{condition}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def rows(out: Path, condition: str) -> list[str]:
    """The lines of a trial's table."""
    metrics = json.loads((out / condition / "result.json").read_text())["metrics"]
    lines = []
    for prefix, guidance in GUIDANCES.items():
        name = f"{prefix}accuracy_effnet2"
        cells = [f"{metrics[name]:.3f} ± {metrics[f'{name}_se']:.3f}"]
        cells += [f"{metrics[f'accuracy_effnet2{control}']:.3f}" for control in CONTROLS]
        distance = f"{prefix}gfd_effnet2"
        cells.append(f"{metrics[distance]:.1f} ± {metrics[f'{distance}_se']:.1f}")
        cells.append(f"{metrics['gfd_effnet2_gaussian']:.1f}")
        lines.append(f"| {condition} | {guidance} | {' | '.join(cells)} |")
    return lines


def main() -> int:
    """Runs the check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("npz", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/told"))
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--samples", type=int, default=1000)
    options = parser.parse_args()
    out = options.out.absolute()
    write_images(options.npz, out / "images")
    if not (out / "text-encoder" / "config.json").is_file():
        write_text_encoder(out / "text-encoder")
    settings = [
        "images.source=folder", f"images.path={out / 'images'}", f"images.train_images={options.images}",
        f"images.val_images={options.samples}", f"generator.samples={options.samples}",
        f"generator.epochs={options.epochs}", "generator.batch_size=64", "generator.guidance=none,cfg=2",
    ]  # fmt: skip
    trials = {condition: start(out, condition, settings) for condition in ("class", "text")}
    for condition, trial in trials.items():
        if trial.wait():
            print((out / f"{condition}.log").read_text(), file=sys.stderr)
            return 1
    head = ("told", "guidance", "of its class", "real", "reconstructions", "Gaussian", "gfd_effnet2", "Gaussian's")
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    print("\n".join(line for condition in trials for line in rows(out, condition)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
