"""A whole model put on the hub, with its card; `ModelFolder.open` takes it back from there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from clipsonic.checkpoint import CARD_NAME, INDEX_NAME, ModelFolder
from clipsonic.errors import CheckpointError, OutputError
from clipsonic.storage import sha256, write_text

LIBRARY = "clipsonic"
TASK = "text-to-audio"
TAGS = ("text-to-audio", "image-to-audio", "video-to-audio", "arxiv:2306.09635")
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def push_to_hub(
    folder: ModelFolder,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload a CLIPSonic model",
    api: HfApi | None = None,
) -> str:
    """Upload a model: index, card and the parts that lie in it. Parts with a repository of their own stay there.

    Args:
        folder: The model.
        repo_id: "org/name"; made if there is none.
        private: Whether a new repository is hidden; the account's default if left out.
        token: An access token that may write; the one `hf auth login` saved if left out.
        message: Of the commit.
        api: What talks to the hub; made from `token` if left out.

    Returns:
        The repository's address.

    Raises:
        CheckpointError: A part is missing or damaged; nothing is uploaded.
        OutputError: The name is no repository's, or the hub refuses or does not answer.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise OutputError(f"{repo_id!r} cannot be a repository: {error}; give one as org/name") from error
    api = api or HfApi(token=token, library_name=LIBRARY)
    with TemporaryDirectory() as temporary:
        stage(folder, Path(temporary))
        try:
            address = str(api.create_repo(repo_id, private=private, exist_ok=True))
            api.upload_folder(
                repo_id=repo_id,
                folder_path=temporary,
                commit_message=message,
                delete_patterns=[f"{name}/*" for name in folder.index.parts],
            )
        except (HfHubHTTPError, OfflineModeIsEnabled, LocalTokenNotFoundError, OSError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise OutputError(
                f"cannot push to {repo_id}: {reason}; check the name, the token and the network"
            ) from error
    return address


def stage(folder: ModelFolder, into: Path) -> None:
    """Lay out in a folder what is to be uploaded, every file compared with its hash.

    Raises:
        CheckpointError: A part is missing or damaged.
        OutputError: The folder cannot be written to.
    """
    for name in folder.index.parts:
        entry = folder.index.entry(name)
        if entry.repo:
            continue
        source, target = folder.part_folder(name), into / entry.path
        try:
            shutil.copytree(source, target, dirs_exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot copy the model's {name}: {error}; make room") from error
        for file, expected in entry.sha256.items():
            if not (target / file).is_file() or sha256(target / file) != expected:
                raise CheckpointError(
                    f"{source / file} is missing or damaged: {INDEX_NAME} names another; mend it first"
                )
    write_text(into / INDEX_NAME, folder.index.to_json())
    write_text(into / CARD_NAME, card(folder))


def card(folder: ModelFolder) -> str:
    """Return the model's card with the metadata by which the hub finds and shows it; what it says itself stands."""
    text = folder.card or _plain_card(folder)
    if not _FRONT_MATTER.match(text):
        text = f"---\nlibrary_name: {LIBRARY}\n---\n\n{text}"
    written = ModelCard(text, ignore_metadata_errors=True)
    data: Any = written.data
    data.library_name = data.library_name or LIBRARY
    data.pipeline_tag = data.pipeline_tag or TASK
    data.tags = list(dict.fromkeys([*(data.tags or []), *TAGS]))
    return str(written)


def _plain_card(folder: ModelFolder) -> str:
    index = folder.index
    parts = "\n".join(f"* `{name}`" for name in index.parts)
    return (
        f"# {index.name}\n\nA CLIPSonic model (arXiv 2306.09635): text, pictures, videos or sounds in, "
        f"{index.duration_s:.2f} s of sound at {index.mel.sample_rate:,} Hz out.\n\nIts parts:\n\n{parts}\n"
    )
