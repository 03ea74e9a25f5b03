"""A set as one zip file, and back, without trusting what the zip says about paths."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path, PurePosixPath

from clipsonic.errors import DataError, OutputError
from clipsonic.listening.sets import KEY, KEY_CSV, SUMS, ListeningSet
from clipsonic.storage import write_whole

MAX_UNPACKED = 4 * 2**30
MAX_MEMBERS = 100_000
_CHUNK = 2**20
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(listening_set: ListeningSet, path: Path, *, with_key: bool = True) -> None:
    """Write a set as a zip; candidates, decisions and answers stay behind.

    The same set gives the same bytes.

    Args:
        listening_set: The set.
        path: The zip to write.
        with_key: Whether the answer key and the checksums that cover it go in; without, it can be given to whoever
            runs the test and must not know.

    Raises:
        OutputError: The zip cannot be written.
    """
    hidden = set() if with_key else {KEY, KEY_CSV, SUMS}
    names = [name for name in [*listening_set.parts(), SUMS] if name not in hidden]
    with write_whole(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(names):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, (listening_set.folder / name).read_bytes())


def unpack(path: Path, folder: Path) -> None:
    """Unpack a zip into a folder that is empty or not there yet; nothing is ever written outside of it.

    Raises:
        DataError: It is no zip, is damaged or too large, or a name in it leads elsewhere.
        OutputError: The folder holds something already, or cannot be written to.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is not an empty folder; unpack {path.name} into a new one")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if not m.is_dir()]
            _check_members(path, members)
            budget = MAX_UNPACKED
            for member in members:
                budget -= _extract(archive, member, folder, budget)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise DataError(f"{path} is no usable zip: {error}; pack the set again") from error
    except FileNotFoundError as error:
        raise DataError(f"there is no {path}; give a set's folder or zip") from error


def _check_members(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Refuse names that could lead out of the folder, or onto each other, before anything is written."""
    if len(members) > MAX_MEMBERS:
        raise DataError(f"{path} holds {len(members):,} files; allowed are {MAX_MEMBERS:,}")
    names = set()
    for member in members:
        name = PurePosixPath(member.filename)
        unsafe = name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in member.filename
        if unsafe or not name.parts or stat.S_ISLNK(member.external_attr >> 16):
            raise DataError(f"{path} holds {member.filename[:100]!r}, which leads out of the set; do not trust it")
        if str(name).lower() in names:
            raise DataError(f"{path} holds {member.filename[:100]!r} twice; pack the set again")
        names.add(str(name).lower())


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, budget: int) -> int:
    """Write one file, counting what really comes out of it; return its size in bytes."""
    size, target = 0, folder / PurePosixPath(member.filename)
    with archive.open(member) as source, write_whole(target) as temporary, temporary.open("wb") as sink:
        while chunk := source.read(_CHUNK):
            size += len(chunk)
            if size > budget:
                raise DataError(f"{archive.filename} unpacks to more than {MAX_UNPACKED // 2**30} GB; refused")
            sink.write(chunk)
    return size
