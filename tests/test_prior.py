"""The diffusion prior."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipsonic.config import PriorConfig
from clipsonic.errors import CheckpointError, SettingsError
from clipsonic.prior import DiffusionPrior

DIM = 16


def build(**settings: object) -> DiffusionPrior:
    torch.manual_seed(0)
    values = {"embedding_dim": DIM, "num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "scale": 4.0}
    return DiffusionPrior(PriorConfig.from_dict({**values, **settings})).eval()


@pytest.fixture(scope="module")
def prior() -> DiffusionPrior:
    return build()


def texts(count: int = 3) -> Tensor:
    return F.normalize(torch.randn(count, DIM, generator=torch.Generator().manual_seed(5)), dim=-1)


def draw(prior: DiffusionPrior, text: Tensor, seeds: list[int], **settings: object) -> Tensor:
    values = {"num_inference_steps": 4, "guidance_scale": 2.0, **settings}
    return prior.sample(text, generators=[torch.Generator().manual_seed(s) for s in seeds], **values)  # type: ignore[arg-type]


def test_samples_are_unit_vectors(prior: DiffusionPrior) -> None:
    drawn = draw(prior, texts(), [0, 1, 2])
    assert drawn.shape == (3, DIM)
    assert drawn.dtype == torch.float32
    assert torch.allclose(drawn.norm(dim=-1), torch.ones(3), atol=1e-5)


def test_samples_that_are_not_normalised_keep_their_length() -> None:
    assert not torch.allclose(draw(build(normalized=False), texts(), [0, 1, 2]).norm(dim=-1), torch.ones(3), atol=0.01)


def test_a_sample_depends_on_its_own_seed_and_text_alone(prior: DiffusionPrior) -> None:
    together = draw(prior, texts(), [7, 8, 9])
    alone = draw(prior, texts()[1:2], [8])
    assert torch.allclose(together[1], alone[0], atol=1e-5)
    assert torch.equal(alone, draw(prior, texts()[1:2], [8]))
    assert not torch.allclose(alone, draw(prior, texts()[1:2], [9]), atol=1e-3)


@pytest.mark.parametrize(
    "changed",
    [{"num_inference_steps": 5}, {"guidance_scale": 1.0}, {"negative_embeddings": texts(4)[3:]}],
    ids=["steps", "guidance", "negative"],
)
def test_every_setting_changes_the_sample(prior: DiffusionPrior, changed: dict[str, object]) -> None:
    text = texts()[:1]
    assert not torch.allclose(draw(prior, text, [0]), draw(prior, text, [0], **changed), atol=1e-4)


def test_a_prior_that_is_sure_of_one_picture_draws_it() -> None:
    prior, answer = build(), texts(1)[0]
    prior.transformer.proj_to_clip_embeddings.weight.data.zero_()
    prior.transformer.proj_to_clip_embeddings.bias.data.copy_(prior.standardize(answer)[0])
    for steps in (1, 2, 30):
        drawn = draw(prior, texts(), [0, 1, 2], num_inference_steps=steps)
        assert torch.allclose(drawn, answer.expand(3, -1), atol=1e-4)


def test_the_standardisation_is_undone(prior: DiffusionPrior) -> None:
    shifted = build()
    shifted.transformer.clip_mean.data.fill_(0.3)
    shifted.transformer.clip_std.data.fill_(2.0)
    back = shifted.transformer.post_process_latents(shifted.standardize(texts())) / shifted.config.scale
    assert torch.allclose(back, texts(), atol=1e-6)


def test_each_text_needs_a_generator(prior: DiffusionPrior) -> None:
    with pytest.raises(SettingsError, match="1 generators for 3 texts"):
        draw(prior, texts(), [0])


def test_it_is_saved_and_read_back(prior: DiffusionPrior, tmp_path: Path) -> None:
    prior.save(tmp_path)
    back = DiffusionPrior.load(tmp_path)
    assert back.config == prior.config
    assert (draw(back, texts(), [0, 1, 2]) * draw(prior, texts(), [0, 1, 2])).sum(dim=1).min() > 0.999


def test_weights_of_another_size_are_refused(prior: DiffusionPrior, tmp_path: Path) -> None:
    prior.save(tmp_path)
    (tmp_path / "config.json").write_text(PriorConfig(embedding_dim=DIM, num_layers=2).to_json())
    with pytest.raises(CheckpointError, match="does not fit"):
        DiffusionPrior.load(tmp_path)


def looking_up(temperature: float = 0.07) -> DiffusionPrior:
    prior = build(names=[f"name {n}" for n in range(20)], temperature=temperature)
    prior.name_texts.copy_(texts(20))
    prior.name_pictures.copy_(texts(25)[5:].flip(1))
    return prior


def test_a_text_is_told_as_the_pictures_of_the_names_it_is_nearest_to() -> None:
    prior, asked = looking_up(temperature=0.1), F.normalize(texts(3) + 0.3, dim=-1)
    weights = (10 * asked @ prior.name_texts.T).exp()
    expected = F.normalize(weights / weights.sum(dim=1, keepdim=True) @ prior.name_pictures, dim=-1)
    torch.testing.assert_close(prior.look_up(asked), expected)
    assert torch.equal(build().look_up(asked), asked), "without names a text is told as it is"


def test_the_nearest_names_are_told_with_their_shares() -> None:
    prior = looking_up(temperature=0.1)
    found = prior.nearest_names(prior.name_texts[7], 3)
    weights = (10 * prior.name_texts @ prior.name_texts[7]).softmax(dim=0)
    assert [name for name, _ in found] == [f"name {n}" for n in weights.argsort(descending=True)[:3].tolist()]
    assert found[0] == ("name 7", pytest.approx(weights.max().item(), abs=1e-6))
    assert sum(share for _, share in prior.nearest_names(texts(1)[0], 99)) == pytest.approx(1, abs=1e-5)
    assert build().nearest_names(texts(1)[0], 3) == []


def test_what_is_looked_up_is_what_is_drawn_from() -> None:
    prior, plain = looking_up(), build()
    plain.load_state_dict({k: v for k, v in prior.state_dict().items() if not k.startswith("name_")})
    asked, away = texts(3), texts(6)[3:]
    for settings in ({}, {"negative_embeddings": away}):
        told = {name: prior.look_up(rows) for name, rows in settings.items()}
        torch.testing.assert_close(
            draw(prior, asked, [0, 1, 2], **settings), draw(plain, prior.look_up(asked), [0, 1, 2], **told)
        )
    assert not torch.allclose(draw(prior, asked, [0, 1, 2]), draw(plain, asked, [0, 1, 2]), atol=1e-2)


def test_names_are_saved_and_read_back_and_belong_to_the_config(tmp_path: Path) -> None:
    prior = looking_up()
    prior.save(tmp_path)
    back = DiffusionPrior.load(tmp_path)
    torch.testing.assert_close(back.look_up(texts()), prior.look_up(texts()), atol=2e-3, rtol=0)
    (tmp_path / "config.json").write_text(build(names=["one"] * 19).config.to_json())
    with pytest.raises(CheckpointError, match="does not fit"):
        DiffusionPrior.load(tmp_path)
