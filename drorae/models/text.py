"""A frozen text encoder: captions and prompts as the hidden states of its last layer, token by token.

Whatever `transformers` loads: of a CLIP-like model its text tower, of a T5-like one its encoder. Weights are read from
safetensors alone, and no code of a folder or a repository is run.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from drorae.errors import UserError, brief
from drorae.models.weights import state_sha256
from drorae.storage.remote import expanded

FIELD = "generator.text_encoder"
BATCH = 64
"""Texts encoded at once."""


class TextEncoder:
    """A text encoder that stays as it is.

    Args:
        name: a folder, or a name on the hub, as messages have it.
        module: gives `last_hidden_state` of token numbers and their mask.
        tokenizer: of `transformers`.
        tokens: L, so many of a text are read, those of its beginning and end among them.
        device: where it runs.

    Raises:
        UserError: the tokenizer cannot fill up short texts, or the encoder takes fewer tokens.
    """

    def __init__(self, name: str, module: nn.Module, tokenizer: Any, tokens: int, device: torch.device) -> None:
        if tokenizer.pad_token is None:
            if tokenizer.eos_token is None:
                raise UserError(
                    f"{FIELD}: the tokenizer of {name} has no token that fills up short texts; save it with a pad_token"
                )
            tokenizer.pad_token = tokenizer.eos_token
        config: Any = module.config
        most = min(getattr(config, "max_position_embeddings", tokens), tokenizer.model_max_length)
        if tokens > most:
            raise UserError(f"generator.text_tokens: {tokens} are more than the {most} that {name} takes; use {most}")
        self.name, self.tokens, self.device = name, tokens, device
        self.width = int(config.hidden_size)
        """D of its hidden states."""
        self._module, self._tokenizer = module.to(device).requires_grad_(False).eval(), tokenizer
        digest = hashlib.sha256(state_sha256(module.state_dict()).encode())
        digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
        self.fingerprint = digest.hexdigest()
        """Of its weights and of the words that it knows."""

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Returns the hidden states of texts, float32 [B, L, D] on the CPU.

        Rows are zero where a text has no token any more; an empty text has none at all.
        """
        if not texts:
            return torch.zeros(0, self.tokens, self.width)
        starts = range(0, len(texts), BATCH)
        return torch.cat([self._encode_batch(list(texts[start : start + BATCH])) for start in starts])

    def _encode_batch(self, texts: list[str]) -> Tensor:
        words = self._tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.tokens, padding_side="right",
            return_tensors="pt",
        )  # fmt: skip
        numbers, mask = words["input_ids"].to(self.device), words["attention_mask"].to(self.device)
        states = self._module(input_ids=numbers, attention_mask=mask).last_hidden_state.float()
        said = torch.tensor([bool(text.strip()) for text in texts], device=self.device)
        # Not by a product: what stands at a place without a token need not be finite.
        return torch.where((mask.bool() & said[:, None])[..., None], states, 0.0).cpu()


def load_text_encoder(name: str, tokens: int, device: torch.device) -> TextEncoder:
    """Loads a text encoder in float32.

    Args:
        name: a folder that `save_pretrained` wrote, or a name on the hub.
        tokens: so many of a text are read.
        device: where it is to run.

    Raises:
        UserError: transformers is not installed, or there is no such encoder, no tokenizer, or no safetensors.
    """
    try:
        transformers: Any = importlib.import_module("transformers")
    except ImportError:
        raise UserError(f"{FIELD}: needs the package transformers; pip install 'drorae[text]'") from None
    place = expanded(name)
    if not place.is_dir() and (place.exists() or Path(name).is_absolute() or name.startswith((".", "~"))):
        raise UserError(f"{FIELD}: {place}: no such folder; expected one that save_pretrained wrote")
    where = str(place) if place.is_dir() else name
    options = {"trust_remote_code": False, "local_files_only": place.is_dir()}
    config = _loaded(name, "configuration", lambda: transformers.AutoConfig.from_pretrained(where, **options))
    tokenizer = _loaded(name, "tokenizer", lambda: transformers.AutoTokenizer.from_pretrained(where, **options))
    # Of a T5 this is the encoder alone, which may be all that is there.
    alone = type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
    kind = transformers.AutoModelForTextEncoding if alone else transformers.AutoModel
    model, found = _loaded(
        name, "weights in safetensors",
        lambda: kind.from_pretrained(
            where, **options, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        ),
    )  # fmt: skip
    tower = getattr(model, "text_model", model)
    prefix = "" if tower is model else "text_model."
    if missing := sorted(key for key in found["missing_keys"] if key.startswith(prefix)):
        raise UserError(f"{FIELD}: the weights of {name} lack {missing[0]}; save it again, or name another")
    if not hasattr(tower.config, "hidden_size"):
        raise UserError(f"{FIELD}: {name} is no encoder of texts (a {type(model).__name__}); name a CLIP or T5")
    return TextEncoder(name, tower, tokenizer, tokens, device)


def _loaded(name: str, what: str, load: Any) -> Any:
    """What transformers loads, in silence; in one line, that it does not."""
    logging: Any = importlib.import_module("transformers.utils.logging")
    bar = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return load()
    except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
        raise UserError(
            f"{FIELD}: {name} has no {what} that can be read ({brief(error, 120)}); expected a folder that "
            "save_pretrained wrote, tokenizer and all"
        ) from None
    finally:
        if bar:
            logging.enable_progress_bar()
