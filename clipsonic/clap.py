"""Texts in the space of CLAP (Elizalde et al., Wu et al.), for the baseline that the paper calls CLAP-TTA."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from clipsonic.clip import ClipEncoder
from clipsonic.config import ClipConfig
from clipsonic.errors import CheckpointError, ConfigError, MediaError, PromptError
from clipsonic.storage import CONFIG_NAME


class ClapEncoder:
    """A frozen CLAP's text side; it takes the place of CLIP in a model that was trained on CLAP's embeddings."""

    def __init__(self, model: Any, tokenizer: Any, config: ClipConfig) -> None:
        """Wrap transformers' `ClapModel` and its tokenizer."""
        self.model, self.tokenizer, self.config = model.eval().requires_grad_(False), tokenizer, config
        self.device = torch.device("cpu")

    @classmethod
    def load(cls, name: str, device: torch.device | str = "cpu") -> Self:
        """Read a CLAP of the hub's, or one that lies in a folder.

        Raises:
            CheckpointError: There is none, or it cannot be read.
        """
        from transformers import AutoTokenizer, ClapModel

        try:
            model = ClapModel.from_pretrained(name)
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"cannot read the CLAP {name}: {reason}; give a hub id or a folder") from error
        return cls(model, tokenizer, ClipConfig(embedding_dim=model.config.projection_dim, clap=name)).to(device)

    @property
    def embedding_dim(self) -> int:
        """The length of an embedding."""
        return self.config.embedding_dim

    def to(self, device: torch.device | str) -> Self:
        """Move the network to a device and return self."""
        self.model.to(device)
        self.device = torch.device(device)
        return self

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed texts.

        Args:
            texts: At least one text.

        Returns:
            L2-normalised embeddings, float32, shape (batch, embedding_dim), on `device`.

        Raises:
            PromptError: There is no text, or something that is not text.
        """
        if not texts or not all(isinstance(text, str) for text in texts):
            raise PromptError(f"got {texts!r:.60}, expected at least one text; pass a list of strings")
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=77, return_tensors="pt")
        tokens = tokens.to(self.device)
        seen = self.model.text_model(tokens["input_ids"], attention_mask=tokens["attention_mask"])
        return F.normalize(self.model.text_projection(seen.pooler_output).float(), dim=-1)

    def encode_images(self, pictures: Sequence[Any]) -> Tensor:
        """Refuse: CLAP sees no pictures.

        Raises:
            MediaError: Always.
        """
        raise MediaError("this model was trained on texts through CLAP and sees no pictures; ask it with a prompt")


def load_encoder(folder: Path, device: torch.device | str = "cpu") -> ClipEncoder | ClapEncoder:
    """Load the model's `clip` part: a CLIP, or the CLAP that its `config.json` names.

    Raises:
        CheckpointError: It is missing or cannot be read.
    """
    try:
        config = ClipConfig.load(folder / CONFIG_NAME)
    except ConfigError as error:
        raise CheckpointError(f"{error}; fetch the model again") from error
    return ClapEncoder.load(config.clap, device) if config.clap else ClipEncoder.load(folder, device)
