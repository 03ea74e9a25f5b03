"""Training CLIP and the prior on features that can be learnt in seconds."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_clip import CONFIG, build_folder
from torch import Tensor
from torch.nn import functional as F

from clipsonic.clip import ClipEncoder
from clipsonic.config import PriorConfig, TrainingConfig
from clipsonic.errors import CheckpointError, ConfigError, DataError
from clipsonic.training import clip as clip_training
from clipsonic.training import prior as prior_training
from clipsonic.training.alignment import modality_gap, retrieval
from clipsonic.training.captions import EVALUATED, captions_of
from clipsonic.training.clip import ClipTask, ClipTaskConfig, PairDataset
from clipsonic.training.convert import build_pretrained, class_features, fill_image_tower, split_trunk
from clipsonic.training.loop import Task, Trainer
from clipsonic.training.prior import PriorTask, PriorTaskConfig
from clipsonic.training.recipe import Recipe
from clipsonic.training.views import VIEW_SIZE, PictureName, features_of, read_pairs, view

THINGS = ("dog", "cat", "trumpet", "rain", "animal")


def name_of(thing: str, split: str = "train", gloss: str = "") -> PictureName:
    return PictureName(key=thing, names=(thing,), tags=(), gloss=gloss, split=split, class_index=None)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with the tiny CLIP."""
    folder = tmp_path_factory.mktemp("model")
    build_folder(folder / "clip")
    return folder


def clip_task(model_folder: Path, **settings: object) -> ClipTask:
    """A task of three things to train on and two held out, two views each."""
    torch.manual_seed(0)
    config = ClipTaskConfig.from_dict({"views": 2, "dropout": 0.0, **settings})
    folder = model_folder / "clip"
    task = ClipTask(ClipEncoder.load(folder).model, CONFIG, folder, config)
    pairs = [name_of(thing, "test" if thing in ("rain", "animal") else "train") for thing in THINGS]
    width = task.model.visual.head.proj.in_features
    task.prepare(pairs, (torch.rand(len(pairs), 1, width) + 0.1 * torch.rand(len(pairs), 2, width)).half())
    return task


def train(task: Task, folder: Path, steps: int, **settings: object) -> dict[str, float]:
    values = {"batch_size": 16, "max_steps": steps, "learning_rate": 0.01, "warmup_steps": 2, "mixed_precision": "no"}
    config = TrainingConfig.from_dict({**values, "log_every": steps // 2, "ema_decay": 0.5, **settings})
    Trainer(task, config, folder).run()
    return json.loads((folder / "log.jsonl").read_text().splitlines()[1])


def test_captions_open_with_the_evaluated_ones_and_fit_the_thing() -> None:
    captions = captions_of(name_of("trumpet", gloss="a brass musical instrument"))
    assert captions[: len(EVALUATED)] == ["trumpet", "a photo of trumpet"]
    assert {"playing trumpet", "the sound of a trumpet", "trumpet: a brass musical instrument"} <= set(captions)
    assert "playing dog" not in captions_of(name_of("dog", gloss="a domestic animal"))
    assert len(set(captions)) == len(captions)


def test_the_projections_learn_to_match_and_land_in_the_folder(model_folder: Path, tmp_path: Path) -> None:
    task = clip_task(model_folder)
    last = train(task, tmp_path, 150)
    assert last["loss"] < 2.0, "16 pairs of 3 things lose log 16 = 2.8 by chance, and log(16 / 3) = 1.7 at best"
    clip = ClipEncoder.load(tmp_path / "clip")
    texts = clip.encode_text(["dog", "cat", "trumpet"])
    pictures = F.normalize(clip.model.visual.head(task.dataset.features[:, 0].float()), dim=-1)
    assert (texts @ pictures.T).argmax(dim=1).tolist() == [0, 1, 2]


def test_folding_changes_nothing_but_the_place_of_the_numbers(model_folder: Path) -> None:
    task = clip_task(model_folder).eval()
    features, captions = task.heldout_features, torch.arange(3)
    pictures, texts = task._embed_pictures(features), task._embed_captions(captions)
    for _ in range(2):  # a second time must not shift twice
        task.fold()
    assert torch.allclose(task.model.visual.head(features), pictures, atol=1e-4)
    seen = task.model.encode_text(task.tokens[captions])
    assert F.cosine_similarity(seen, texts).min() > 0.99  # the cache of the locked tower is bfloat16


def test_teaching_the_text_tower_leaves_pictures_where_they_are(model_folder: Path, tmp_path: Path) -> None:
    task = clip_task(model_folder, text_tower=True)
    train(task, tmp_path, 4)
    before, after = ClipEncoder.load(model_folder / "clip"), ClipEncoder.load(tmp_path / "clip")
    picture = [Image.new("RGB", (40, 40), (250, 120, 0))]
    assert torch.equal(before.encode_images(picture), after.encode_images(picture))
    assert not torch.allclose(before.encode_text(["a dog"]), after.encode_text(["a dog"]), atol=1e-3)


def image_blocks_task(model_folder: Path) -> ClipTask:
    """The same on maps of what the locked stages of the image tower see."""
    torch.manual_seed(0)
    folder = model_folder / "clip"
    model = ClipEncoder.load(folder).model
    task = ClipTask(model, CONFIG, folder, ClipTaskConfig.from_dict({"views": 2, "dropout": 0.0, "image_blocks": 1}))
    lower, _ = split_trunk(model.visual.trunk, 1)
    colours = [torch.tensor([red, 1.0 - red, 0.5])[:, None, None] for red in (0.0, 0.25, 0.5, 0.75, 1.0)]
    pictures = torch.stack([colour.expand(3, 32, 32) for colour in colours])
    maps = lower(pictures.repeat_interleave(2, dim=0)).detach().half().unflatten(0, (5, 2))
    task.prepare([name_of(thing, "test" if n > 2 else "train") for n, thing in enumerate(THINGS)], maps)
    return task


def test_a_parted_image_tower_is_the_whole_one(model_folder: Path) -> None:
    trunk = ClipEncoder.load(model_folder / "clip").model.visual.trunk
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for blocks in (0, 1, 2):
        lower, upper = split_trunk(trunk, blocks)
        assert torch.equal(upper(lower(pixels)), trunk(pixels))
    for trunk_, blocks in ((trunk, 99), (trunk, -1), (torch.nn.Identity(), 1)):
        with pytest.raises(ConfigError, match=r"image_blocks is -?\d+; allowed: 0"):
            split_trunk(trunk_, blocks)


def test_the_last_stages_of_the_image_tower_learn_and_the_others_stay(model_folder: Path, tmp_path: Path) -> None:
    task = image_blocks_task(model_folder)
    last = train(task, tmp_path, 300, learning_rate=0.003)
    before, after = (ClipEncoder.load(folder / "clip").model.visual.trunk for folder in (model_folder, tmp_path))
    moved = {name for name, old in before.state_dict().items() if not torch.equal(old, after.state_dict()[name])}
    upper = {f"blocks.{len(before.blocks) - 1}", "conv_head", "bn2"}
    assert moved and all(any(name.startswith(part + ".") for part in upper) for name in moved)
    assert not any("running" in name or "conv_dw" in name for name in moved)
    assert {"conv_head.weight", "bn2.bias"} <= moved
    assert last["loss"] < 2.0, "as with both towers locked"


def test_maps_are_cut_and_mirrored_alike_in_a_batch(model_folder: Path) -> None:
    task = image_blocks_task(model_folder)
    maps = torch.arange(2 * 3 * 8 * 8).reshape(2, 3, 8, 8).float()
    seen = [task._vary(maps, torch.Generator().manual_seed(seed)) for seed in range(40)]
    assert {part.shape[2] for part in seen} == {6, 7, 8}
    assert all(torch.equal(part[1] - part[0], torch.full_like(part[0], 192.0)) for part in seen)
    assert {bool(part[0, 0, 0, 0] > part[0, 0, 0, -1]) for part in seen} == {False, True}
    assert torch.equal(task._vary(maps, torch.Generator().manual_seed(3)), seen[3])
    assert clip_task(model_folder)._vary(maps, torch.Generator()) is maps


def test_clip_is_measured_on_held_out_concepts(model_folder: Path) -> None:
    for task in (clip_task(model_folder), image_blocks_task(model_folder)):
        figures = task.metrics()
        assert figures["concepts"] == 2
        assert figures["photo_to_picture_r5"] == figures["picture_to_name_r5"] == 1.0, (
            "there are but two to choose from"
        )
        assert {"name_gap_distance", "photo_paired_cosine", "photo_gap_separable"} <= set(figures)


def test_a_name_of_many_pictures_is_drawn_more_often_but_not_in_proportion() -> None:
    pairs = [name_of("dog"), name_of("dog"), name_of("dog"), name_of("dog"), name_of("rain")]
    dataset = PairDataset(pairs, torch.zeros(5, 1, 3).half(), ClipTaskConfig())
    assert torch.allclose(dataset.weights, torch.tensor([0.5, 0.5, 0.5, 0.5, 1.0]))
    item = dataset[4]
    assert dataset.captions[int(item["caption"])] in captions_of(pairs[4])
    assert item["features"].shape == (3,)


def test_retrieval_counts_what_comes_before_the_right_one() -> None:
    pictures = torch.eye(6)
    texts = pictures.clone()
    texts[0] = F.normalize(torch.tensor([0.5, 0.6, 0, 0, 0, 0]), dim=0)
    assert retrieval(texts, pictures, "x") == {"x_r1": pytest.approx(5 / 6), "x_r5": 1.0, "x_r10": 1.0}


def test_the_gap_is_seen_and_its_absence_too() -> None:
    torch.manual_seed(0)
    points = F.normalize(torch.randn(400, 8), dim=-1)
    apart = modality_gap(
        F.normalize(points + torch.eye(8)[0] * 3, dim=-1), F.normalize(points - torch.eye(8)[0], dim=-1)
    )
    together = modality_gap(points[:200], points[200:])
    assert apart["gap_separable"] > 0.9 > 0.65 > together["gap_separable"]
    assert apart["gap_distance"] > 1.0 > 0.3 > together["gap_distance"]
    assert modality_gap(points, points)["paired_cosine"] == pytest.approx(1.0)


def test_features_made_up_for_a_class_are_of_that_class() -> None:
    torch.manual_seed(0)
    means = 5 + 2 * torch.randn(10, 32)
    features = (means.repeat(40, 1) + torch.randn(400, 32) * torch.linspace(0.2, 1.5, 32))[:, None].clamp(min=0)
    features = torch.cat([features, features + 0.01], dim=1)
    centred = features[:, 0] - features.mean(dim=(0, 1))
    within = (features[:, 0] - means.repeat(40, 1)).T.cov()
    classifier = (means - means.mean(dim=0)) @ torch.linalg.inv(within)
    made_up = class_features(classifier, range(10), features, 2, torch.Generator().manual_seed(0))
    logits = (made_up[:, 0] - features.mean(dim=(0, 1))) @ classifier.T - 0.5 * (
        (means - means.mean(dim=0)) * classifier
    ).sum(dim=1)
    assert made_up.shape == (10, 2, 32)
    assert (logits.argmax(dim=1) == torch.arange(10)).float().mean() > 0.7
    assert centred.shape == (400, 32)
    alone = class_features(classifier, [3], features, 1, torch.Generator().manual_seed(0))[0, 0]
    assert torch.cosine_similarity(alone - means.mean(dim=0), means - means.mean(dim=0)).argmax() == 3


def test_a_view_is_a_square_and_the_first_is_always_the_same() -> None:
    picture = Image.new("RGBA", (60, 20), (255, 0, 0, 255))
    first = [view(picture, 0, random.Random(seed)) for seed in (1, 2)]
    others = [view(picture, 1, random.Random(seed)) for seed in (1, 2)]
    assert {image.size for image in (*first, *others)} == {(VIEW_SIZE, VIEW_SIZE)}
    assert first[0].tobytes() == first[1].tobytes()
    assert others[0].tobytes() != others[1].tobytes()
    assert first[0].getpixel((0, 0)) == (255, 255, 255)
    assert first[0].getpixel((VIEW_SIZE // 2, VIEW_SIZE // 2)) == (255, 0, 0)


@pytest.fixture
def pairs_folder(tmp_path: Path) -> Path:
    """What `prepare pairs` would write for five flat pictures."""
    folder = tmp_path / "pairs"
    (folder / "pictures").mkdir(parents=True)
    lines = []
    for number, thing in enumerate(THINGS):
        Image.new("RGBA", (30, 30), (50 * number, 255 - 50 * number, 90, 255)).save(folder / f"pictures/{thing}.png")
        split = "test" if thing in ("rain", "animal") else "train"
        record = {"key": thing, "names": [thing], "tags": [], "gloss": "", "split": split, "class_index": None}
        lines.append(json.dumps(record))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return folder


def test_features_are_computed_once_per_data(pairs_folder: Path, model_folder: Path) -> None:
    clip = ClipEncoder.load(model_folder / "clip")
    pairs = read_pairs(pairs_folder)
    features = features_of(pairs_folder, pairs, clip.model.visual.trunk, clip.preprocess, 2)
    assert features.shape == (5, 2, clip.model.visual.head.proj.in_features)
    expected = clip.model.visual.trunk(
        torch.stack([clip.preprocess(view(Image.open(pairs_folder / "pictures/cat.png"), 0, random.Random("cat")))])
    )
    assert F.cosine_similarity(features[1, 0].float(), expected[0], dim=0) > 0.99
    (pairs_folder / "pictures" / "cat.png").unlink()
    assert torch.equal(features_of(pairs_folder, pairs, clip.model.visual.trunk, clip.preprocess, 2), features)
    with pytest.raises(DataError, match=r"cat\.png is missing"):
        features_of(pairs_folder, pairs, clip.model.visual.trunk, clip.preprocess, 3)
    with torch.no_grad():
        clip.model.visual.trunk.conv_head.weight.mul_(2)
    with pytest.raises(DataError, match=r"cat\.png is missing"):  # what another tower saw is of no use
        features_of(pairs_folder, pairs, clip.model.visual.trunk, clip.preprocess, 2)


def test_damaged_pairs_are_a_data_error(pairs_folder: Path) -> None:
    (pairs_folder / "pairs.jsonl").write_text('{"key": 1}')
    with pytest.raises(DataError, match="prepare pairs"):
        read_pairs(pairs_folder)


def recipe(part: str, **sections: dict[str, object]) -> Recipe:
    return Recipe.from_dict({"training": {"batch_size": 4, "max_steps": 2, "learning_rate": 0.01}, **sections})


def test_the_shipped_recipes_are_whole() -> None:
    for name in ("tiny", "mini"):
        ClipTaskConfig.from_dict(Recipe.find("clip", name).task)
        PriorTaskConfig.from_dict(Recipe.find("prior", name).task)
        PriorConfig.from_dict({"embedding_dim": 8, **Recipe.find("prior", name).model})
    assert ClipTaskConfig.from_dict(Recipe.find("clip", "mini-text").task).text_tower


def test_what_needs_a_clip_says_so(pairs_folder: Path, model_folder: Path) -> None:
    with pytest.raises(ConfigError, match="--base"):
        clip_training.build(recipe("clip", task={"text_tower": True}), pairs_folder, None)
    with pytest.raises(ConfigError, match="--base"):
        prior_training.build(recipe("prior"), pairs_folder, None)
    with pytest.raises(ConfigError, match="locks the image side"):
        clip_task(model_folder, text_tower=True, image_blocks=1)


@pytest.mark.parametrize(("image_blocks", "learnt", "shape"), [(0, 5, (256,)), (1, 3, (48, 2, 2))])
def test_clip_is_built_from_pairs_and_pretrained_towers(
    image_blocks: int, learnt: int, shape: tuple[int, ...], pairs_folder: Path, model_folder: Path, tmp_path: Path
) -> None:
    towers, source = pairs_folder / "towers", model_folder / "clip"
    shutil.copytree(source, towers / "model", ignore=shutil.ignore_patterns("*.safetensors", "text"))
    shutil.copyfile(source / "text" / "config.json", towers / "model" / "config.json")
    model = ClipEncoder.load(source).model
    save_file(model.text.transformer.state_dict(), towers / "model" / "model.safetensors")
    width = model.visual.head.proj.in_features
    classifier = {"classifier.weight": torch.randn(1000, width), "classifier.bias": torch.zeros(1000)}
    torch.save({**model.visual.trunk.state_dict(), **classifier}, towers / "efficientnet-lite2-tiny.pth")
    with (pairs_folder / "pairs.jsonl").open("a") as pairs:
        for index, name in ((281, "tabby"), (513, "cornet")):
            record = {"key": name, "names": [name], "tags": [], "gloss": "", "split": "train", "class_index": index}
            pairs.write("\n" + json.dumps(record))
    settings: dict[str, object] = {"image_blocks": image_blocks, "views": 2}
    task = clip_training.build(recipe("clip", model=CONFIG, task=settings), pairs_folder, None)
    assert task.dataset.features.shape == (learnt, 2, *shape), (
        "classes have no pictures for the image tower to learn from"
    )
    train(task, tmp_path / "out", 2)
    texts = ClipEncoder.load(tmp_path / "out" / "clip").encode_text(["dog"])
    assert texts.shape == (1, 24) and texts.isfinite().all()


def test_towers_that_are_missing_or_other_are_refused(tmp_path: Path, model_folder: Path) -> None:
    with pytest.raises(DataError, match="prepare pairs"):
        build_pretrained(CONFIG["model_cfg"], tmp_path, tmp_path / "clip")
    trunk = ClipEncoder.load(model_folder / "clip").model.visual.trunk
    with pytest.raises(CheckpointError, match="tensors"):
        fill_image_tower(trunk, [])
    with pytest.raises(CheckpointError, match="do not fit"):
        fill_image_tower(trunk, [torch.zeros(1)] * len(trunk.state_dict()))


def prior_task(text: Tensor, pictures: Tensor) -> PriorTask:
    torch.manual_seed(0)
    dataset = PairDataset([name_of(str(n)) for n in range(4)], pictures[:, None].half(), ClipTaskConfig(captions=2))
    size = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16}
    model = PriorConfig(embedding_dim=8, scale=8**0.5, **size)
    task = PriorTask(model, PriorTaskConfig(text_noise=0.0), dataset, text.repeat_interleave(2, dim=0))
    task.heldout = ({"name": text}, pictures)
    return task


def test_the_prior_learns_which_picture_belongs_to_which_text(tmp_path: Path) -> None:
    torch.manual_seed(3)
    text, pictures = (F.normalize(torch.randn(4, 8), dim=-1) for _ in range(2))
    task = prior_task(text, pictures)
    before = task.metrics()
    train(task, tmp_path, 80, batch_size=64, learning_rate=0.02)
    after = task.metrics()
    assert after["name_prior_to_picture_r1"] == 1.0
    assert after["name_prior_paired_cosine"] > 0.9 > before["name_prior_paired_cosine"]
    assert after["name_text_paired_cosine"] == before["name_text_paired_cosine"]
    assert (tmp_path / "prior" / "model.safetensors").is_file()


def test_names_are_the_means_of_their_captions_and_pictures() -> None:
    pairs = [name_of("dog"), name_of("cat"), name_of("dog")]
    pictures = F.normalize(torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0)), dim=-1).half()
    dataset = PairDataset(pairs, pictures, ClipTaskConfig(captions=3))
    texts = F.normalize(torch.randn(len(dataset.captions), 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    called, seen = prior_training.names_of(dataset, texts)
    of_dog = [dataset.captions.index(caption) for caption in dict.fromkeys(dataset.captions) if "dog" in caption]
    assert len(of_dog) == 3 and called.shape == seen.shape == (2, 8)
    torch.testing.assert_close(called[0], F.normalize(texts[of_dog].mean(dim=0), dim=-1))
    torch.testing.assert_close(seen[0], F.normalize(pictures[[0, 2]].float().mean(dim=(0, 1)), dim=-1))
    torch.testing.assert_close(seen[1], F.normalize(pictures[1].float().mean(dim=0), dim=-1))


@pytest.mark.parametrize(("most", "kept"), [(0, 0), (2, 2), (99, 3)])
def test_a_prior_keeps_the_names_it_was_taught_with(
    most: int, kept: int, pairs_folder: Path, model_folder: Path
) -> None:
    size: dict[str, object] = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
    wanted = recipe("prior", model=size, task={"views": 2, "names": most})
    task = prior_training.build(wanted, pairs_folder, model_folder)
    names = [pair.names[0] for pair in read_pairs(pairs_folder) if pair.split == "train" and pair.class_index is None]
    assert task.prior.config.names == tuple([names[0], names[-1]] if kept == 2 else names[:kept])
    batch = {name: torch.stack([task.dataset[n][name] for n in range(3)]) for name in task.dataset[0]}
    task.loss(batch, "train", torch.Generator().manual_seed(0))[0].backward()
    assert all(p.grad is not None for p in task.prior.parameters() if p.requires_grad)
    if not kept:
        assert "name_looked_up_to_picture_r1" not in task.metrics()
        return
    called, seen = prior_training.names_of(task.dataset, task.texts)
    torch.testing.assert_close(task.prior.name_texts, called[[0, -1]] if kept == 2 else called)
    torch.testing.assert_close(task.prior.name_pictures, seen[[0, -1]] if kept == 2 else seen)
    assert task.metrics()["name_looked_up_to_picture_r1"] in (0, 0.5, 1)


def test_the_prior_is_built_from_a_model_folder_and_pairs(pairs_folder: Path, model_folder: Path) -> None:
    size: dict[str, object] = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8}
    task = prior_training.build(recipe("prior", model=size, task={"views": 2}), pairs_folder, model_folder)
    assert task.prior.config.embedding_dim == 24
    assert len(task.dataset) == 3, "held-out concepts are not trained on"
    inside = task.prior.standardize(task.dataset.features.flatten(0, 1).float())
    assert torch.allclose(inside.mean(dim=0), torch.zeros(24), atol=0.05)
    assert task.metrics()["concepts"] == 2
