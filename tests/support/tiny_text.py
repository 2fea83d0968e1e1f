"""The smallest text encoders, as `save_pretrained` writes them: random weights, and a tokenizer of a few words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

WORDS = ("[pad]", "[unk]", "a", "red", "blue", "cat", "dog", "bench", "of", "two")
WIDTH = 16


def config(**fields: Any) -> dict[str, Any]:
    """Of a CLIP's text tower."""
    return {
        "vocab_size": len(WORDS), "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 0,
        "pad_token_id": 0, **fields,
    }  # fmt: skip


def tiny_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[unk]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[pad]", unk_token="[unk]").save_pretrained(folder)


def tiny_text_encoder(folder: Path, seed: int = 0, kind: str = "clip tower") -> Path:
    """A CLIP's text tower, a whole CLIP or a T5's encoder; the towers of one seed have the same weights."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = CLIPTextModel(CLIPTextConfig(**config()))
        for weight in tower.parameters():
            torch.nn.init.normal_(weight, std=0.4)
        if kind == "clip tower":
            tower.save_pretrained(folder)
        elif kind == "clip":
            vision = {
                "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                "image_size": 8, "patch_size": 4,
            }  # fmt: skip
            whole = CLIPModel(CLIPConfig(text_config=config(), vision_config=vision, projection_dim=8))
            whole.text_model.load_state_dict(tower.state_dict())
            whole.save_pretrained(folder)
        else:
            t5 = T5Config(vocab_size=len(WORDS), d_model=WIDTH, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
            T5EncoderModel(t5).save_pretrained(folder)
    tiny_tokenizer(folder)
    return folder
