"""The example pictures of the app: held-out photographs of the free corpus, small and with their licences.

Run as `python -m clipsonic.data.examples` from the root of the repository.
"""

from __future__ import annotations

import csv
import io
from importlib.resources import files
from pathlib import Path

from PIL import Image, ImageOps

from clipsonic.data.readers import composite, read_picture
from clipsonic.packages import fetch_debian
from clipsonic.storage import write_text, write_whole

CHOSEN = {
    "dog barking": "dog",
    "cat meowing": "cat",
    "cow lowing": "cow",
    "horse neighing": "horse",
    "sheep bleating": "sheep",
    "pig oinking": "pig",
    "duck quacking": "duck",
    "chicken crowing": "rooster",
    "owl hooting": "owl",
    "seagull calling": "seagull",
    "elephant trumpeting": "elephant",
    "lions roaring": "lion",
    "fire truck siren": "fire-truck",
    "camera shutter clicking": "camera",
    "playing violin, fiddle": "violin",
    "playing drum kit": "drum-kit",
    "playing acoustic guitar": "guitar",
    "playing cello": "cello",
    "playing trumpet": "trumpet",
    "bird chirping, tweeting": "lark",
    "chicken clucking": "hen",
    "frog croaking": "frog",
    "fire crackling": "fire",
    "airplane": "airplane",
}
SIZE = 384
"""Pixels of a picture's longer side."""


def write_examples(folder: Path) -> None:
    """Write `pictures/NAME.jpg`, and `LICENSES.csv` that tells where each is from.

    Args:
        folder: Where to; made if need be.

    Raises:
        DataError: A package cannot be fetched or read.
        OutputError: The folder cannot be written to.
    """
    with files("clipsonic.data").joinpath("debian/heldout_pictures.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["label"] in CHOSEN]
    roots = fetch_debian(row["package"] for row in rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, ("file", *rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        name = f"{CHOSEN[row['label']]}.jpg"
        with write_whole(folder / "pictures" / name) as temporary:
            _presentable(read_picture(roots[row["package"]], row["path"])).save(temporary, quality=88, optimize=True)
        writer.writerow({"file": name} | row)
    write_text(folder / "LICENSES.csv", table.getvalue())


def _presentable(picture: Image.Image) -> Image.Image:
    """Shrink a photograph as it is, or lay a cut-out figure large on a white square; RGB."""
    if picture.getchannel("A").getextrema() == (255, 255):
        return ImageOps.contain(picture.convert("RGB"), (SIZE, SIZE))
    figure = picture.crop(picture.getbbox(alpha_only=True))
    inner = SIZE * 7 // 8
    padded = ImageOps.pad(figure, (inner, inner), color=(0, 0, 0, 0))
    return composite(ImageOps.expand(padded, SIZE // 16, fill=(0, 0, 0, 0)), (255, 255, 255))


if __name__ == "__main__":
    write_examples(Path("examples"))
