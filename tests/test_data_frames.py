import numpy as np
from PIL import Image, ImageDraw

from clipsonic.data.frames import SIZE, BackgroundBook, make_frames


def cutout(colour: tuple[int, int, int], size: tuple[int, int] = (300, 120)) -> Image.Image:
    picture = Image.new("RGBA", size, (0, 0, 0, 0))
    ImageDraw.Draw(picture).ellipse((20, 20, size[0] - 20, size[1] - 20), fill=(*colour, 255))
    return picture


def test_frames_are_square_and_move():
    frames = make_frames(cutout((200, 30, 30)), 4, np.random.default_rng(0), BackgroundBook([]))
    assert len(frames) == 4
    assert all(frame.size == (SIZE, SIZE) and frame.mode == "RGB" for frame in frames)
    assert np.abs(np.asarray(frames[0], int) - np.asarray(frames[3], int)).mean() > 0.5


def test_same_seed_same_frames():
    first, second = (make_frames(cutout((9, 9, 9)), 2, np.random.default_rng(3), BackgroundBook([])) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_dark_and_light_things_stand_out():
    for colour in ((5, 5, 5), (250, 250, 250)):
        for seed in range(12):
            frame = make_frames(cutout(colour), 1, np.random.default_rng(seed), BackgroundBook([]))[0]
            levels = np.asarray(frame.convert("L"), int)
            assert np.percentile(levels, 98) - np.percentile(levels, 2) > 35


def test_photographs_fill_the_frame(tmp_path):
    gradient = Image.linear_gradient("L").resize((400, 300)).convert("RGBA")
    frame = make_frames(gradient, 1, np.random.default_rng(1), BackgroundBook([]))[0]
    assert len(np.unique(np.asarray(frame.convert("L"))[:, 128])) > 60


def test_places_serve_as_backgrounds(tmp_path):
    path = tmp_path / "place.jpg"
    Image.effect_noise((64, 64), 90).convert("RGB").save(path)
    book = BackgroundBook([path])
    assert book.open(np.random.default_rng(0)).size == (SIZE, SIZE)
    assert BackgroundBook([]).open(np.random.default_rng(0)) is None
    for seed in range(6):
        assert len(make_frames(cutout((120, 60, 200)), 2, np.random.default_rng(seed), book)) == 2


def test_an_empty_picture_still_gives_frames():
    frames = make_frames(Image.new("RGBA", (3, 2), (0, 0, 0, 0)), 2, np.random.default_rng(0), BackgroundBook([]))
    assert len(frames) == 2
