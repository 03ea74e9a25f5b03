"""A CLIP folder with a timm image tower and a Hugging Face text tower, like the default model's but tiny."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from clipsonic.clip import build_model, save_clip

WORDS = ("a", "an", "the", "of", "photo", "sound", "picture", "dog", "cat", "trumpet", "rain", "barking", "animal")
CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 24,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 32,
            "timm_model_name": "test_efficientnet",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "timm_proj_bias": True,
        },
        "text_cfg": {
            "context_length": 40,
            "hf_model_name": "text",
            "hf_tokenizer_name": "text",
            "hf_model_pretrained": False,
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "linear",
        },
    },
    "preprocess_cfg": {"size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


def build_folder(folder: Path) -> Path:
    """Write such a folder with random weights."""
    from transformers import BertConfig, BertTokenizerFast

    folder.mkdir(parents=True)
    letters = [mark + letter for letter in "abcdefghijklmnopqrstuvwxyz" for mark in ("", "##")]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *(x for x in letters if x not in WORDS)]
    BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)}).save_pretrained(folder)
    tower = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    (folder / "text").mkdir()
    (folder / "text" / "config.json").write_text(json.dumps(tower.to_dict()))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_clip(build_model(CONFIG["model_cfg"], folder), CONFIG, folder)
    return folder
