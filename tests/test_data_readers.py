import io
import json
import struct
import zipfile
import zlib

import numpy as np
import pytest
import soundfile
from PIL import Image

from clipsonic.data.readers import composite, list_qt_resource, read_bytes, read_picture, read_sound
from clipsonic.errors import DataError

RATE = 11025


def wav_bytes(channels: int = 1) -> bytes:
    tone = 0.5 * np.sin(np.arange(RATE) * 0.1).astype(np.float32)
    content = io.BytesIO()
    soundfile.write(content, np.stack([tone] * channels, axis=1), RATE, format="WAV", subtype="PCM_16")
    return content.getvalue()


def png_bytes() -> bytes:
    content = io.BytesIO()
    Image.new("RGBA", (20, 10), (255, 0, 0, 128)).save(content, "PNG")
    return content.getvalue()


def qt_resource(files: dict[str, tuple[bytes, bool]]) -> bytes:
    """Build a version-1 resource with one folder, `in`, that holds the files; the flag asks for compression."""
    names, offsets = b"", {}
    for name in ["in", *files]:
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    data, starts = b"", []
    for content, deflated in files.values():
        starts.append(len(data))
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if deflated else content
        data += struct.pack(">I", len(stored)) + stored
    tree = struct.pack(">IHII", 0, 2, 1, 1) + struct.pack(">IHII", offsets["in"], 2, len(files), 2)
    for (name, (_, deflated)), start in zip(files.items(), starts, strict=True):
        tree += struct.pack(">IHHHI", offsets[name], int(deflated), 0, 0, start)
    header = 20
    return (
        struct.pack(">4sIIII", b"qres", 1, header, header + len(tree), header + len(tree) + len(data))
        + tree
        + data
        + names
    )


@pytest.fixture
def root(tmp_path):
    (tmp_path / "tone.wav").write_bytes(wav_bytes(channels=2))
    (tmp_path / "red.png").write_bytes(png_bytes())
    (tmp_path / "disc.svg").write_text(
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 10 10"><circle cx="5" cy="5" r="5" fill="blue"/></svg>'
    )
    (tmp_path / "set.rcc").write_bytes(qt_resource({"tone.wav": (wav_bytes(), False), "red.png": (png_bytes(), True)}))
    with zipfile.ZipFile(tmp_path / "set.pk3", "w") as archive:
        archive.writestr("sound/tone.wav", wav_bytes())
    entry = bytes([5]) + b"a b c" + wav_bytes()
    directory = struct.pack("<II", 16 | 0x80000000, len(wav_bytes())) + struct.pack("<II", 0, 0)
    (tmp_path / "set.cat").write_bytes(directory + entry)
    lump = struct.pack("<HHI", 3, RATE, 132) + bytes([128] * 16 + [192] * 100 + [128] * 16)
    listing = struct.pack("<II8s", 12, len(lump), b"DSTONE\0\0")
    (tmp_path / "set.wad").write_bytes(struct.pack("<4sII", b"IWAD", 1, 12 + len(lump)) + lump + listing)
    icon = {"body": '<circle cx="5" cy="5" r="5" fill="blue"/>'}
    wide = {"body": '<path fill="blue" d="M-10 0h40v10h-40z"/>', "left": -10, "width": 40}
    (tmp_path / "set.json").write_text(json.dumps({"icons": {"disc": icon, "bar": wide}, "width": 10, "height": 10}))
    return tmp_path


@pytest.mark.parametrize("path", ["tone.wav", "set.rcc!in/tone.wav", "set.pk3!sound/tone.wav", "set.cat!0"])
def test_sounds_are_read_out_of_every_container(root, path):
    waveform, rate = read_sound(root, path)
    assert rate == RATE
    assert waveform.dtype == np.float32
    assert waveform.shape == (RATE,)
    assert np.abs(waveform).max() == pytest.approx(0.5, abs=1e-3)


def test_doom_sounds_lose_their_padding(root):
    waveform, rate = read_sound(root, "set.wad!DSTONE")
    assert rate == RATE
    assert np.array_equal(waveform, np.full(100, 0.5, dtype=np.float32))


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("red.png", (20, 10)),
        ("set.rcc!in/red.png", (20, 10)),
        ("disc.svg", (512, 512)),
        ("set.json!disc.svg", (512, 512)),
        ("set.json!bar.svg", (512, 128)),
    ],
)
def test_pictures_keep_their_transparency(root, path, size):
    picture = read_picture(root, path)
    assert picture.mode == "RGBA"
    assert picture.size == size
    assert picture.getpixel((size[0] // 2, size[1] // 2))[3] in (128, 255)


def test_resources_list_their_files(root):
    assert list_qt_resource(root / "set.rcc") == ["in/red.png", "in/tone.wav"]


def test_pictures_are_laid_over_colours_and_pictures(root):
    picture = read_picture(root, "red.png")
    assert composite(picture, (0, 0, 255)).getpixel((3, 3)) == (128, 0, 127)
    assert composite(picture, Image.new("RGB", (3, 3), (0, 0, 255))).getpixel((3, 3)) == (128, 0, 127)


@pytest.mark.parametrize(
    "path",
    [
        "absent.wav",
        "set.rcc!in/absent",
        "set.pk3!absent",
        "set.cat!7",
        "set.cat!x",
        "set.wad!ABSENT",
        "set.json!absent.svg",
        "tone.wav!x",
        "U+1F415",
    ],
)
def test_a_missing_file_is_named(root, path):
    with pytest.raises(DataError, match="cannot read .* check the manifest"):
        read_bytes(root, path)


def test_damaged_containers_are_named(root):
    for name in ("set.rcc", "set.wad", "set.pk3", "set.json"):
        (root / name).write_bytes(b"nonsense")
        with pytest.raises(DataError, match=name):
            read_bytes(root, f"{name}!x")


def test_files_of_the_wrong_kind_are_named(root):
    with pytest.raises(DataError, match="is not a sound"):
        read_sound(root, "red.png")
    with pytest.raises(DataError, match="is not a picture"):
        read_picture(root, "tone.wav")
    (root / "bad.svg").write_text("<svg")
    with pytest.raises(DataError, match="is not a picture"):
        read_picture(root, "bad.svg")
