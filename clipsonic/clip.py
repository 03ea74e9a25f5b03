"""Texts and pictures in one space: CLIP through open_clip.

A CLIP folder holds `config.json` (ours), and either names a model that open_clip knows or holds one:
`open_clip_config.json`, `model.safetensors`, and for a Hugging Face text tower the tokenizer's files in the
root and the tower's own config in `text/`.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipsonic.config import ClipConfig
from clipsonic.device import fast_dtype
from clipsonic.errors import CheckpointError, ConfigError, MediaError, PromptError
from clipsonic.storage import CONFIG_NAME, WEIGHTS_NAME, load_weights, save_part, write_text

if TYPE_CHECKING:
    from PIL.Image import Image

OPEN_CLIP_CONFIG_NAME = "open_clip_config.json"
OPEN_CLIP_WEIGHTS_NAME = "open_clip_model.safetensors"
TEXT_TOWER_FOLDER = "text"
TEXT_TOWER_CONFIG = f"{TEXT_TOWER_FOLDER}/config.json"
BULK = 32
"""On a CPU at least so many pictures at once are worth a faster form of the image tower."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


@dataclass(frozen=True, kw_only=True, eq=False)
class TextTokens:
    """What the text tower of an OpenAI-style CLIP makes of texts, for priors that read more than the embedding.

    Attributes:
        embedding: *Not* normalised, float32, shape (batch, embedding_dim).
        hidden: The last layer's states after its norm, float32, shape (batch, 77, width).
        mask: True up to the end of the text, bool, shape (batch, 77).
    """

    embedding: Tensor
    hidden: Tensor
    mask: Tensor

    def row(self, number: int) -> TextTokens:
        """Return one text's, as a batch of one."""
        chosen = slice(number, number + 1)
        return TextTokens(embedding=self.embedding[chosen], hidden=self.hidden[chosen], mask=self.mask[chosen])


class ClipEncoder:
    """A frozen CLIP: texts and pictures to L2-normalised embeddings."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        preprocess: Callable[[Image], Tensor],
        config: ClipConfig,
    ) -> None:
        """Wrap an open_clip model.

        Args:
            model: Has `encode_text` and `encode_image`.
            tokenizer: Texts to token ids, int64, shape (batch, context_length).
            preprocess: Picture to a normalised tensor, float32, shape (3, height, width).
            config: What `config.json` says.
        """
        self.model: Any = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preprocess = preprocess
        self.config = config
        self.device = next(model.parameters()).device

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> Self:
        """Read a CLIP folder.

        Raises:
            CheckpointError: A file is missing or damaged, or open_clip does not know the model named.
        """
        try:
            config = ClipConfig.load(folder / CONFIG_NAME)
        except ConfigError as error:
            raise CheckpointError(f"{error}; fetch the model again") from error
        if config.clap:
            raise CheckpointError(f"{folder} is no CLIP but names the CLAP {config.clap}; load it with load_encoder")
        model, tokenizer, preprocess = _named(config) if config.open_clip else _local(folder)
        return cls(model.to(device), tokenizer, preprocess, config)

    @property
    def embedding_dim(self) -> int:
        """The length of an embedding."""
        return self.config.embedding_dim

    def to(self, device: torch.device | str) -> Self:
        """Move the towers to a device and return self."""
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
        tokens = self.tokenizer(list(texts)).to(self.device)
        return F.normalize(self.model.encode_text(tokens).float(), dim=-1)

    @torch.inference_mode()
    def encode_tokens(self, texts: Sequence[str]) -> TextTokens:
        """Run the text tower and keep its hidden states.

        Raises:
            CheckpointError: The model has no text tower of OpenAI's kind.
        """
        model = self.model
        if not all(hasattr(model, name) for name in ("token_embedding", "positional_embedding", "ln_final")):
            raise CheckpointError(
                "this prior reads the hidden states of OpenAI's CLIP; the model has another; use ViT-L/14"
            )
        tokens = self.tokenizer(list(texts)).to(self.device)
        states = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]
        states = model.ln_final(model.transformer(states, attn_mask=model.attn_mask))
        ends = tokens.argmax(dim=1)  # the end of a text has the largest number
        pooled = states[torch.arange(len(tokens), device=self.device), ends] @ model.text_projection
        mask = torch.arange(tokens.shape[1], device=self.device) <= ends[:, None]
        return TextTokens(embedding=pooled.float(), hidden=states.float(), mask=mask)

    @torch.inference_mode()
    def encode_images(self, pictures: Sequence[Image]) -> Tensor:
        """Embed pictures.

        Args:
            pictures: At least one PIL picture.

        Returns:
            L2-normalised embeddings, float32, shape (batch, embedding_dim), on `device`.

        Raises:
            MediaError: There is no picture.
        """
        if not pictures:
            raise MediaError("got no picture, expected at least one; pass a list of PIL pictures")
        pixels = torch.stack([self.preprocess(picture.convert("RGB")) for picture in pictures]).to(self.device)
        if self.device.type == "cpu" and len(pictures) >= BULK:
            seen = torch.cat([self._bulk_tower(share) for share in pixels.to(fast_dtype("cpu")).split(BULK)])
        else:
            seen = self.model.encode_image(pixels)
        return F.normalize(seen.float(), dim=-1)

    @cached_property
    def _bulk_tower(self) -> Callable[[Tensor], Tensor]:
        """The image tower in the CPU's fastest precision with its layers fused: slow to make, then much faster."""
        dtype = fast_dtype("cpu")
        tower = copy.deepcopy(self.model.visual).to(dtype=dtype, memory_format=torch.channels_last)
        pixels = torch.zeros(BULK, 3, *tower.image_size, dtype=dtype)
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # torch.jit is deprecated; torch.compile would need a C++ compiler
            traced = torch.jit.trace(tower, pixels.contiguous(memory_format=torch.channels_last))
            fused = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
        return lambda share: fused(share.contiguous(memory_format=torch.channels_last))


def build_model(model_config: dict[str, Any], folder: Path) -> nn.Module:
    """Build an open_clip model with random weights.

    Args:
        model_config: open_clip's `model_cfg`; a Hugging Face text tower's config is looked for in `folder`.
        folder: The CLIP folder.

    Raises:
        CheckpointError: open_clip cannot build such a model.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    values = {key: value for key, value in model_config.items() if key != "custom_text"}
    text = dict(values.get("text_cfg", {}))
    if "hf_model_name" in text:
        # The one path inside open_clip's config; it must follow the folder wherever that is copied to.
        text |= {"hf_model_name": str(folder / TEXT_TOWER_FOLDER), "hf_model_pretrained": False}
    vision = {**values.get("vision_cfg", {}), "timm_model_pretrained": False}
    kind = CustomTextCLIP if model_config.get("custom_text") or "hf_model_name" in text else CLIP
    try:
        return kind(**{**values, "text_cfg": text, "vision_cfg": vision})
    except (TypeError, ValueError, KeyError, OSError, RuntimeError, AssertionError) as error:
        raise CheckpointError(f"open_clip cannot build the model in {folder}: {error}; fetch it again") from error


def read_open_clip_config(folder: Path) -> dict[str, Any]:
    """Read `model_cfg` and `preprocess_cfg` of the model that lies in a CLIP folder.

    Raises:
        CheckpointError: The file is missing, damaged or lacks one of the two.
    """
    path = folder / OPEN_CLIP_CONFIG_NAME
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {"model_cfg": dict(config["model_cfg"]), "preprocess_cfg": dict(config["preprocess_cfg"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; fetch the model again") from error


def save_clip(model: nn.Module, open_clip_config: dict[str, Any], folder: Path) -> None:
    """Write an open_clip model into a CLIP folder; tokenizer files are not touched.

    Args:
        model: The model.
        open_clip_config: `model_cfg` and `preprocess_cfg`, as open_clip writes them.
        folder: Where to.

    Raises:
        OutputError: The folder cannot be written to.
    """
    write_text(folder / OPEN_CLIP_CONFIG_NAME, json.dumps(open_clip_config, indent=2) + "\n")
    save_part(model, ClipConfig(embedding_dim=open_clip_config["model_cfg"]["embed_dim"]), folder)


def build_tokenizer(text_config: dict[str, Any], folder: Path) -> Callable[..., Tensor]:
    """Build the tokenizer that goes with open_clip's `text_cfg`; its files lie in `folder`.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    length = text_config.get("context_length", 77)
    if "hf_model_name" not in text_config:
        return SimpleTokenizer(context_length=length)
    try:
        tokenizer = HFTokenizer(str(folder), context_length=length)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"cannot read the tokenizer in {folder}: {error}; fetch the model again") from error

    def without_padding(texts: list[str]) -> Tensor:
        # These text towers mask padding, so columns that are padding in every row only cost time.
        tokens = tokenizer(texts)
        used = (tokens != tokenizer.tokenizer.pad_token_id).sum(dim=1).max()
        return tokens[:, : int(used)]

    return without_padding


def build_preprocess(preprocess_config: dict[str, Any]) -> Callable[[Image], Tensor]:
    """Build the transform from a picture to the image tower's input out of open_clip's `preprocess_cfg`."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(PreprocessCfg(**preprocess_config), is_train=False)


def _local(folder: Path) -> tuple[nn.Module, Callable[..., Tensor], Callable[[Image], Tensor]]:
    """Load the model that lies in the folder."""
    config = read_open_clip_config(folder)
    model_config, preprocess_config = config["model_cfg"], config["preprocess_cfg"]
    model = build_model(model_config, folder)
    foreign = folder / OPEN_CLIP_WEIGHTS_NAME
    load_weights(model, foreign if foreign.is_file() else folder / WEIGHTS_NAME)
    return model, build_tokenizer(model_config["text_cfg"], folder), build_preprocess(preprocess_config)


def _named(config: ClipConfig) -> tuple[nn.Module, Callable[..., Tensor], Callable[[Image], Tensor]]:
    """Load a model by the names open_clip knows it under, downloading it if need be."""
    import open_clip

    try:
        model, _, preprocess = open_clip.create_model_and_transforms(config.open_clip, pretrained=config.pretrained)
        return model, open_clip.get_tokenizer(config.open_clip), preprocess
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        known = "open_clip.list_pretrained() lists what there is"
        raise CheckpointError(f"open_clip has no {config.open_clip} ({config.pretrained}): {error}; {known}") from error
