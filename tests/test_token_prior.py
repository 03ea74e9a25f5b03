"""Pretrained priors in their repositories' layout, and the scale of what they draw."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import PriorTransformer
from torch.nn import functional as F

from clipsonic.checkpoint import write_index
from clipsonic.clip import ClipEncoder, TextTokens
from clipsonic.errors import CheckpointError, SettingsError
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.token_prior import TokenPrior, load_prior
from tests.conftest import EMBEDDING_DIM


def save_like_karlo(folder: Path, *, mean: float = 0.2, std: float = 3.0) -> PriorTransformer:
    """Write random weights as `kakaobrain/karlo-v1-alpha` and `kandinsky-community/kandinsky-2-1-prior` lie."""
    torch.manual_seed(0)
    prior = PriorTransformer(
        num_attention_heads=2, attention_head_dim=16, num_layers=1, embedding_dim=EMBEDDING_DIM, num_embeddings=77
    )
    prior.clip_mean.data.fill_(mean)
    prior.clip_std.data.fill_(std)
    prior.save_pretrained(folder)
    return prior


@pytest.fixture
def clip(tiny_model: Path) -> ClipEncoder:
    return ClipEncoder.load(tiny_model / "clip")


def draw(prior: TokenPrior, clip: ClipEncoder, texts: list[str], seeds: list[int], **settings: object) -> torch.Tensor:
    values = {"num_inference_steps": 3, "guidance_scale": 4.0, **settings}
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    tokens = {"tokens": clip.encode_tokens(texts), "no_text": clip.encode_tokens([""])}
    return prior.sample(clip.encode_text(texts), generators=generators, **tokens, **values)  # type: ignore[arg-type]


def test_tokens_are_the_embedding_before_it_is_normalised(clip: ClipEncoder) -> None:
    texts = ["a dog barking", "rain"]
    tokens = clip.encode_tokens(texts)
    assert torch.allclose(tokens.embedding, clip.model.encode_text(clip.tokenizer(texts)), atol=1e-5)
    assert torch.allclose(F.normalize(tokens.embedding, dim=-1), clip.encode_text(texts), atol=1e-5)
    assert not torch.allclose(tokens.embedding.norm(dim=-1), torch.ones(2), atol=1e-2)
    assert tokens.hidden.shape == (2, 77, 32)
    assert tokens.mask.sum(dim=1).tolist() == [5, 3]  # start, words, end


@pytest.mark.parametrize(("mean", "std"), [(0.2, 3.0), (0.0, 0.05)])
def test_whatever_the_scale_of_its_space_the_samples_are_unit_vectors(
    mean: float, std: float, clip: ClipEncoder, tmp_path: Path
) -> None:
    save_like_karlo(tmp_path, mean=mean, std=std)
    prior = load_prior(tmp_path)
    assert isinstance(prior, TokenPrior)
    drawn = draw(prior, clip, ["a dog", "rain"], [0, 1])
    assert torch.allclose(drawn.norm(dim=-1), torch.ones(2), atol=1e-5)
    assert torch.allclose(drawn[1:], draw(prior, clip, ["rain"], [1]), atol=1e-5)
    for changed in ({"num_inference_steps": 4}, {"guidance_scale": 1.0}):
        assert not torch.allclose(drawn, draw(prior, clip, ["a dog", "rain"], [0, 1], **changed), atol=1e-3)


def test_the_network_is_given_what_diffusers_pipeline_gives_it(clip: ClipEncoder, tmp_path: Path) -> None:
    save_like_karlo(tmp_path)
    prior, seen = TokenPrior.load(tmp_path), []
    prior.transformer.register_forward_pre_hook(lambda _, a, k: seen.append((a, k)), with_kwargs=True)
    draw(prior, clip, ["rain"], [0], num_inference_steps=1, guidance_scale=1.0)
    (_, _, embedding), states = seen[0]
    tokens: TextTokens = clip.encode_tokens(["rain"])
    assert torch.equal(embedding, tokens.embedding)
    assert torch.equal(states["encoder_hidden_states"], tokens.hidden)
    assert torch.equal(states["attention_mask"], tokens.mask)


def test_a_prior_sure_of_one_picture_draws_its_direction(clip: ClipEncoder, tmp_path: Path) -> None:
    save_like_karlo(tmp_path)
    prior = TokenPrior.load(tmp_path)
    answer = 12 * F.normalize(torch.randn(1, EMBEDDING_DIM, generator=torch.Generator().manual_seed(1)), dim=-1)
    inside = (answer - prior.transformer.clip_mean) / prior.transformer.clip_std
    prior.transformer.proj_to_clip_embeddings.weight.data.zero_()
    prior.transformer.proj_to_clip_embeddings.bias.data.copy_(inside[0])
    drawn = draw(prior, clip, ["rain"], [0], num_inference_steps=5)
    assert torch.allclose(drawn, F.normalize(answer, dim=-1), atol=1e-3)


def test_the_pipeline_renders_through_it(tiny_copy: Path) -> None:
    for file in (tiny_copy / "prior").iterdir():
        file.unlink()
    save_like_karlo(tiny_copy / "prior")
    write_index(tiny_copy, "with-karlo")
    pipe = ClipSonicPipeline.from_pretrained(tiny_copy, device="cpu")
    settings = {"methods": ("zs", "pd"), "num_inference_steps": 2, "prior_num_inference_steps": 2}
    waveforms = pipe(prompt="a dog", **settings).waveforms
    assert abs(waveforms[0] - waveforms[1]).max() > 1e-4


def test_damaged_or_unset_weights_are_refused(clip: ClipEncoder, tmp_path: Path) -> None:
    save_like_karlo(tmp_path / "zero", std=0.0)
    with pytest.raises(CheckpointError, match="clip_std of zero"):
        load_prior(tmp_path / "zero")
    save_like_karlo(tmp_path / "cut")
    weights = tmp_path / "cut" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot read the prior"):
        load_prior(tmp_path / "cut")


def test_each_text_needs_a_generator(clip: ClipEncoder, tmp_path: Path) -> None:
    save_like_karlo(tmp_path)
    with pytest.raises(SettingsError, match="1 generators for 2 texts"):
        draw(TokenPrior.load(tmp_path), clip, ["a dog", "rain"], [0])
