"""The modality gap, seen: where pictures, texts and what a prior makes of a text lie in CLIP's space.

Texts and pictures fill two separate cones of the space (Liang et al., 2022, arXiv 2203.02053). The denoiser has only
ever met pictures, so a text that is taken for one (zs) asks from outside what it knows; a prior (pd, sd) leaps over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from clipsonic.config import GenerationSettings
from clipsonic.errors import DataError, PromptError
from clipsonic.media import Picture, open_picture
from clipsonic.methods import PRIORS

if TYPE_CHECKING:
    from clipsonic.pipeline import ClipSonicPipeline

DRAWS = 8
"""How often the prior draws, to show how wide it spreads."""
NAMES_SHOWN = 5
WIDTH, HEIGHT, MARGIN = 860, 460, 36
COLOURS = {
    "pictures": "#1c7ed6",
    "texts": "#868e96",
    "zs": "#e8590c",
    "pd": "#8f5bf0",
    "sd": "#2b8a3e",
    "mp": "#c2255c",
}
NAMES = {
    "pictures": "pictures",
    "texts": "texts",
    "zs": "ZS: your words, taken for a picture",
    "pd": "PD: pictures imagined from your words",
    "sd": "SD: the same, by a prior that was told names",
    "mp": "MP: the mean of pictures that your words stand for",
}


@dataclass(frozen=True, eq=False)
class Landscape:
    """Pictures and texts to compare with, and the plane in which they are seen.

    Attributes:
        pictures: L2-normalised embeddings, float32, shape (pictures, embedding_dim).
        texts: The same of texts, shape (texts, embedding_dim).
        picture_names: A name for each.
        text_names: A name for each.
        centre: Their mean, shape (embedding_dim,).
        axes: The two orthonormal directions in which they vary most, shape (2, embedding_dim).
    """

    pictures: np.ndarray
    texts: np.ndarray
    picture_names: tuple[str, ...]
    text_names: tuple[str, ...]
    centre: np.ndarray
    axes: np.ndarray

    @classmethod
    def fit(
        cls, pictures: np.ndarray, texts: np.ndarray, picture_names: Sequence[str], text_names: Sequence[str]
    ) -> Self:
        """Find the plane: principal components of all embeddings together.

        Args:
            pictures: L2-normalised embeddings, float32, shape (pictures, embedding_dim).
            texts: The same of texts, shape (texts, embedding_dim).
            picture_names: A name for each.
            text_names: A name for each.

        Raises:
            DataError: There are too few to span a plane.
        """
        together = np.concatenate([pictures, texts])
        if len(together) < 3 or not len(pictures) or not len(texts):
            raise DataError(f"{len(pictures)} pictures and {len(texts)} texts span no plane; give a few of each")
        centre = together.mean(axis=0)
        _, _, directions = np.linalg.svd(together - centre, full_matrices=False)
        return cls(pictures, texts, tuple(picture_names), tuple(text_names), centre, directions[:2])

    def project(self, embeddings: np.ndarray) -> np.ndarray:
        """Return where embeddings, shape (rows, embedding_dim), lie in the plane, shape (rows, 2)."""
        return (embeddings - self.centre) @ self.axes.T

    def nearest_picture(self, embedding: np.ndarray) -> tuple[str, float]:
        """Return the picture nearest to an embedding, shape (embedding_dim,), and the cosine between them."""
        cosines = self.pictures @ embedding
        best = int(cosines.argmax())
        return self.picture_names[best], float(cosines[best])

    def cosine_to_pictures(self, embeddings: np.ndarray) -> float:
        """Return the mean cosine of embeddings, shape (rows, embedding_dim), to the mean direction of the pictures."""
        return float((embeddings @ _direction(self.pictures)).mean())


@dataclass(frozen=True, eq=False)
class Located:
    """A prompt in its landscape.

    Attributes:
        landscape: What it is compared with.
        prompt: The prompt.
        points: By way ("zs", "pd", "sd", "mp"), what the denoiser would be conditioned on, L2-normalised, float32,
            shape (draws, embedding_dim); a single row for zs and mp, where nothing is drawn.
        looked_up: The names that pd and mp look the prompt up as, each with its share; none if the prior has no names.
    """

    landscape: Landscape
    prompt: str
    points: Mapping[str, np.ndarray]
    looked_up: Sequence[tuple[str, float]] = ()

    def cosines(self) -> dict[str, dict[str, float | str]]:
        """Return, for each way and for the landscape's own pictures, how near it comes to pictures.

        Returns:
            By row, "to_pictures" (the cosine to the pictures' mean direction), "nearest" (a picture's name) and
            "to_nearest" (the cosine to it). A picture's nearest is another picture.
        """
        rows: dict[str, dict[str, float | str]] = {}
        for way, embeddings in self.points.items():
            name, cosine = self.landscape.nearest_picture(_direction(embeddings))
            to_pictures = self.landscape.cosine_to_pictures(embeddings)
            rows[way] = {"to_pictures": to_pictures, "nearest": name, "to_nearest": cosine}
        pictures = self.landscape.pictures
        among = pictures @ pictures.T - 2 * np.eye(len(pictures))
        rows["pictures"] = {
            "to_pictures": self.landscape.cosine_to_pictures(pictures),
            "nearest": "another picture",
            "to_nearest": float(among.max(axis=1).mean()),
        }
        return rows


def embed_landscape(
    pipeline: ClipSonicPipeline, pictures: Mapping[str, Picture], texts: Sequence[str], template: str
) -> Landscape:
    """Embed pictures by name, and texts put into a template, and find their plane.

    Raises:
        MediaError: A picture cannot be used.
        DataError: There are too few.
        CheckpointError: The model's CLIP is missing or broken.
    """
    clip = pipeline.folder.part("clip")
    seen = [clip.encode_images([open_picture(picture)])[0].cpu().numpy() for picture in pictures.values()]
    read = [clip.encode_text([template.replace("{}", text)])[0].cpu().numpy() for text in texts]
    return Landscape.fit(np.array(seen), np.array(read), list(pictures), list(texts))


@torch.inference_mode()
def locate(
    pipeline: ClipSonicPipeline, landscape: Landscape, prompt: str, settings: GenerationSettings, draws: int = DRAWS
) -> Located:
    """Find where a prompt lands by each way that the model has.

    Args:
        pipeline: The model.
        landscape: What to compare with.
        prompt: The prompt.
        settings: The template, the prior's steps and guidance, and the seed of its first draw.
        draws: How often a prior draws.

    Raises:
        PromptError: The prompt is empty.
        CheckpointError: A part of the model is missing or broken.
    """
    if not prompt.strip():
        raise PromptError("the prompt is empty; say what should sound, such as 'a dog barking'")
    folder = pipeline.folder
    text = folder.part("clip").encode_text([settings.template.replace("{}", prompt)]).cpu()
    points = {"zs": text.numpy()}
    for way, part in PRIORS.items():
        if way in pipeline.methods:
            with folder.accelerator.autocast():
                drawn = folder.part(part).sample(
                    text.repeat(draws, 1),
                    num_inference_steps=settings.prior_num_inference_steps,
                    guidance_scale=settings.prior_guidance_scale,
                    generators=[torch.Generator().manual_seed(settings.seed + draw) for draw in range(draws)],
                )
            points[way] = torch.nn.functional.normalize(drawn.float().cpu(), dim=-1).numpy()
    if "mp" in pipeline.methods:
        points["mp"] = folder.part("memory")(folder.part("prior").look_up(text)).cpu().numpy()
    looked_up = folder.part("prior").nearest_names(text[0], NAMES_SHOWN) if "pd" in points else []
    return Located(landscape, prompt, points, looked_up)


def draw_svg(located: Located) -> str:
    """Draw pictures, texts and the prompt in their plane as an SVG element; every name in it is escaped."""
    landscape = located.landscape
    groups = {"pictures": landscape.pictures, "texts": landscape.texts, **located.points}
    flat = {name: landscape.project(embeddings) for name, embeddings in groups.items()}
    everything = np.concatenate(list(flat.values()))
    place = _fit_into(everything.min(axis=0), everything.max(axis=0))
    names = {"pictures": landscape.picture_names, "texts": landscape.text_names}
    marks = []
    for group, positions in flat.items():
        labels = names.get(group, (located.prompt,) * len(positions))
        large = group in located.points
        for label, position in zip(labels, positions, strict=True):
            x, y = place(position)
            title = f"{NAMES[group].split(':')[0]}: {label}"
            marks.append(_mark(group, x, y, title, large=large))
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_in_words(located))}">'
        f"{''.join(marks)}{_legend(list(flat))}</svg>"
    )


def _in_words(located: Located) -> str:
    rows = located.cosines()
    told = ", ".join(f"{way.upper()} {row['to_pictures']:.2f}" for way, row in rows.items() if way != "pictures")
    return f"Map of pictures and texts in CLIP's space; mean cosine to the pictures: {told}"


def _fit_into(low: np.ndarray, high: np.ndarray) -> Callable[[np.ndarray], tuple[float, float]]:
    """Return what takes a point of the plane to the drawing, the same scale both ways, clear of the legend."""
    size = np.array([WIDTH - 2 * MARGIN, HEIGHT - 3 * MARGIN])
    scale = float((size / np.maximum(high - low, 1e-6)).min())
    middle = (low + high) / 2

    def place(position: np.ndarray) -> tuple[float, float]:
        x, y = (position - middle) * scale
        return WIDTH / 2 + float(x), (HEIGHT - MARGIN) / 2 - float(y)

    return place


def _mark(group: str, x: float, y: float, title: str, *, large: bool) -> str:
    colour, tip = COLOURS[group], f"<title>{escape(title)}</title>"
    if group == "zs":
        path = f"M{x:.1f} {y - 10:.1f}l10 10-10 10-10-10z"
        return f'<path d="{path}" fill="{colour}" stroke="currentColor">{tip}</path>'
    if group == "texts":
        return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="{colour}">{tip}</rect>'
    if large:
        path = f"M{x:.1f} {y - 8:.1f}l8 14h-16z"
        return f'<path d="{path}" fill="{colour}" stroke="currentColor">{tip}</path>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}">{tip}</circle>'


def _legend(groups: Sequence[str]) -> str:
    """Name the marks along the lower edge, on as many lines as it takes."""
    lines: list[list[str]] = [[]]
    for group in groups:
        if lines[-1] and sum(map(_legend_width, [*lines[-1], group])) > WIDTH - MARGIN:
            lines.append([])
        lines[-1].append(group)
    parts = []
    for y, line in enumerate(lines, 1 - len(lines)):
        x, base = MARGIN, HEIGHT - 13 + 22 * y
        for group in line:
            parts.append(_mark(group, x, base - 5, NAMES[group], large=group not in ("pictures", "texts")))
            parts.append(f'<text x="{x + 16}" y="{base}" font-size="14" fill="currentColor">{NAMES[group]}</text>')
            x += _legend_width(group)
    return "".join(parts)


def _legend_width(group: str) -> int:
    return 34 + round(7.1 * len(NAMES[group]))


def _direction(rows: np.ndarray) -> np.ndarray:
    mean = rows.mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-9)
