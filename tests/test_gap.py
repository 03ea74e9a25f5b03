"""Where pictures, texts and priors lie, on embeddings whose answer is known and on the tiny model."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from clipsonic.config import GenerationSettings
from clipsonic.errors import DataError, PromptError
from clipsonic.gap import DRAWS, Landscape, Located, draw_svg, embed_landscape, locate
from clipsonic.pipeline import ClipSonicPipeline
from clipsonic.ui.why import looked_up

PICTURES = Path(__file__).parents[1] / "examples" / "pictures"


def cone(direction: int, count: int, seed: int, dim: int = 16) -> np.ndarray:
    """Directions spread a little around an axis."""
    rows = 0.1 * np.random.default_rng(seed).normal(size=(count, dim))
    rows[:, direction] += 1
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def landscape() -> Landscape:
    names = [f"picture {i}" for i in range(9)], [f"text {i}" for i in range(7)]
    return Landscape.fit(cone(0, 9, 0), cone(1, 7, 1), *names)


def test_the_plane_shows_the_gap_and_keeps_distances_within_it(landscape: Landscape) -> None:
    np.testing.assert_allclose(landscape.axes @ landscape.axes.T, np.eye(2), atol=1e-5)
    pictures, texts = landscape.project(landscape.pictures), landscape.project(landscape.texts)
    between = np.linalg.norm(pictures.mean(0) - texts.mean(0))
    apart = np.linalg.norm(landscape.pictures.mean(0) - landscape.texts.mean(0))
    assert 0.95 * apart < between <= apart + 1e-5
    assert between > 4 * pictures.std() and between > 4 * texts.std(axis=0).max()


def test_cosines_tell_who_is_near_pictures(landscape: Landscape) -> None:
    located = Located(landscape, "a dog", {"zs": cone(1, 1, 2), "pd": landscape.pictures[3:4]})
    rows = located.cosines()
    assert rows["pd"]["nearest"] == "picture 3" and rows["pd"]["to_nearest"] == pytest.approx(1, abs=1e-5)
    assert rows["zs"]["to_pictures"] < 0.5 < rows["pd"]["to_pictures"]
    assert rows["pictures"]["to_nearest"] < 1 - 1e-4, "a picture is not its own neighbour"
    by_hand = max(float(landscape.pictures[0] @ other) for other in landscape.pictures[1:])
    first = Located(landscape, "", {"zs": landscape.pictures[:1]})
    assert first.cosines()["zs"]["to_nearest"] == pytest.approx(1, abs=1e-5)
    assert rows["pictures"]["to_nearest"] >= by_hand - 0.2


def test_the_drawing_is_whole_escaped_and_inside_its_frame(landscape: Landscape) -> None:
    evil = "<script>alert(1)</script>&"
    located = Located(landscape, evil, {"zs": cone(1, 1, 2), "pd": cone(0, DRAWS, 3)})
    tree = ElementTree.fromstring(draw_svg(located))
    assert tree.find("script") is None and "script" not in {element.tag for element in tree.iter()}
    titles = [element.text for element in tree.iter("title")]
    assert titles.count(f"ZS: {evil}") == 1 and titles.count(f"PD: {evil}") == DRAWS
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in tree.iter("circle")]
    width, height = map(float, tree.get("viewBox").split()[2:])
    assert len(circles) == 9 + 1 and all(0 < x < width and 0 < y < height for x, y in circles)


def test_what_words_were_looked_up_as_is_told_escaped_or_not_at_all(landscape: Landscape) -> None:
    points = {"zs": cone(1, 1, 2)}
    assert looked_up(Located(landscape, "a dog", points)) == ""
    told = looked_up(Located(landscape, "a dog", points, [("dog & <cat>", 0.625), ("bell", 0.1)]))
    assert told.endswith("dog &amp; &lt;cat&gt; 62%, bell 10%.</p>")


def test_too_few_span_no_plane() -> None:
    with pytest.raises(DataError, match="0 pictures and 3 texts"):
        Landscape.fit(np.zeros((0, 16), np.float32), cone(1, 3, 0), [], ["a", "b", "c"])


def test_the_tiny_model_is_located(tiny_pipeline: ClipSonicPipeline) -> None:
    pictures = {name: PICTURES / f"{name}.jpg" for name in ("dog", "cat", "owl")}
    landscape = embed_landscape(tiny_pipeline, pictures, ["a dog", "a cat"], "a photo of {}")
    assert landscape.pictures.shape == (3, 32) and landscape.texts.shape == (2, 32)
    located = locate(tiny_pipeline, landscape, "an owl", GenerationSettings(prior_num_inference_steps=2))
    assert {way: rows.shape for way, rows in located.points.items()} == {"zs": (1, 32), "pd": (DRAWS, 32)}
    for rows in located.points.values():
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    asked = tiny_pipeline(prompt="an owl", methods=("zs",), num_inference_steps=1).embeddings[0]
    np.testing.assert_allclose(located.points["zs"][0], asked, atol=1e-5)
    more = locate(tiny_pipeline, landscape, "an owl", GenerationSettings(prior_guidance_scale=1.0), draws=2)
    assert np.abs(more.points["pd"] - located.points["pd"][:2]).max() > 1e-3
    with pytest.raises(PromptError):
        locate(tiny_pipeline, landscape, " ", GenerationSettings())
