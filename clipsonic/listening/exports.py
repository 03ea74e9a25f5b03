"""A sample set as other laboratories' tools take it: webMUSHRA, BeaqleJS, the ITU-T P.808 toolkit.

Only configurations and sounds are written; the tools themselves are theirs to install. File names stay opaque, the
set's own answer key tells them apart, and `listen import` knows them again.
"""

from __future__ import annotations

import html
import json
import shutil
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from clipsonic.errors import DataError, OutputError
from clipsonic.listening.sets import Item, ListeningSet, Stimulus
from clipsonic.listening.tables import write_csv
from clipsonic.storage import slug, write_text, write_whole

PREFIX = "s_"
"""Leads every name given to webMUSHRA: pymushra turns names such as 12e4 into numbers."""
TRAINING_CLIPS = 5


def export_webmushra(listening_set: ListeningSet, out: Path) -> Path:
    """Write a webMUSHRA configuration with its sounds, to be copied into webMUSHRA's folder.

    An ACR set becomes `likert_single_stimulus` pages, one an item, with a row of five answers for each scale; a
    MUSHRA set becomes `mushra` pages.

    Returns:
        The YAML file.

    Raises:
        DataError: The set is for preferences, which webMUSHRA does not ask, or has no reference for an item.
        OutputError: The folder cannot be written to.
    """
    import yaml

    name = slug(listening_set.manifest.title)
    assets = f"configs/resources/{name}"
    make = {"acr": _likert_page, "mushra": _mushra_page}.get(listening_set.manifest.design)
    if make is None:
        raise DataError("webMUSHRA's paired_comparison asks which one is the reference; export a preference to beaqle")
    # Likert pages alone: write.php sizes lss.csv by the session's first trial, whatever its type.
    trials = [make(listening_set, number, item, assets) for number, item in enumerate(_tested(listening_set), 1)]
    welcome = {"type": "generic", "id": "welcome", "name": html.escape(listening_set.manifest.title)}
    finish = {"type": "finish", "name": "Thank you", "content": "Your answers are being saved.", "showResults": False}
    fields = [{"type": "text", "label": "Participant code", "name": "participant", "optional": False}]
    config = {
        "testname": html.escape(listening_set.manifest.title),
        "testId": name,
        "bufferSize": 2048,
        "stopOnErrors": True,
        "showButtonPreviousPage": False,
        "remoteService": "service/write.php",
        "pages": [
            welcome | {"content": "Please wear headphones and enter your participant code at the end."},
            ["random", *trials],
            finish | {"writeResults": True, "questionnaire": fields},
        ],
    }
    _copy(listening_set, out / assets)
    path = out / "configs" / f"{name}.yaml"
    write_text(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    return path


def _likert_page(listening_set: ListeningSet, number: int, item: Item, assets: str) -> dict[str, Any]:
    scales = listening_set.manifest.scales
    rows = "".join(
        f"<li>row {n}, {html.escape(s.name)}: {html.escape(s.question)}</li>" for n, s in enumerate(scales, 1)
    )
    responses = [
        [{"value": str(value), "label": label} for value, label in enumerate(scale.labels, 1)] for scale in scales
    ]
    return {
        "type": "likert_single_stimulus",
        "id": f"page_{number:03}",
        "name": "Listen and rate",
        "content": f"{_shown(item, assets)}<ol>{rows}</ol>",
        "mustRate": True,
        "mustPlayback": "ended",
        "stimuli": {_name(listening_set, s): _url(listening_set, s, assets) for s in listening_set.of_item(item.id)},
        "response": responses,
    }


def _mushra_page(listening_set: ListeningSet, number: int, item: Item, assets: str) -> dict[str, Any]:
    reference, others = _reference(listening_set, item)
    return {
        "type": "mushra",
        "id": f"page_{number:03}",
        "name": "Compare and rate",
        "content": _shown(item, assets),
        "showWaveform": False,
        "enableLooping": True,
        "strict": False,
        "reference": _url(listening_set, reference, assets),
        "createAnchor35": False,
        "createAnchor70": False,
        "randomize": True,
        "showConditionNames": False,
        "stimuli": {_name(listening_set, s): _url(listening_set, s, assets) for s in others},
    }


def _reference(listening_set: ListeningSet, item: Item) -> tuple[Stimulus, list[Stimulus]]:
    stimuli = listening_set.of_item(item.id)
    references = [s for s in stimuli if s.role == "reference"]
    if not references:
        raise DataError(f"{item.id} has no reference, which MUSHRA needs; curate with --system and --reference")
    return references[0], [s for s in stimuli if s is not references[0]]


def export_beaqle(listening_set: ListeningSet, out: Path) -> Path:
    """Write a BeaqleJS configuration with its sounds: MUSHRA, or preference with every pair of systems.

    Returns:
        The JavaScript file.

    Raises:
        DataError: The set is for ACR, which BeaqleJS does not ask, or has no reference for an item.
        OutputError: The folder cannot be written to.
    """
    design = listening_set.manifest.design
    if design == "acr":
        raise DataError("BeaqleJS has no single-sound rating; export to webmushra, or curate with --design preference")
    make = _beaqle_mushra if design == "mushra" else _beaqle_pairs
    config: dict[str, Any] = {
        "TestName": listening_set.manifest.title,
        "LoopByDefault": False,
        "ShowFileIDs": False,
        "ShowResults": False,
        "EnableABLoop": True,
        "EnableOnlineSubmission": False,
        "BeaqleServiceURL": "",
        "SupervisorContact": "",
        "RandomizeTestOrder": True,
        "MaxTestsPerRun": -1,
        "AudioRoot": "",
    }
    if design == "mushra":
        config |= {"RateMinValue": 0, "RateMaxValue": 100, "RateDefaultValue": 0, "RequireMaxRating": False}
    config["Testsets"] = [s for n, item in enumerate(_tested(listening_set), 1) for s in make(listening_set, n, item)]
    _copy(listening_set, out / "audio")
    # BeaqleJS puts names into its page as HTML, and the file is a script: no tag may survive in it.
    text = json.dumps(config, indent=2, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
    path = out / f"config_{design}.js"
    write_text(path, f"var TestConfig = {text}\n")
    return path


def _beaqle_mushra(listening_set: ListeningSet, number: int, item: Item) -> list[dict[str, Any]]:
    reference, others = _reference(listening_set, item)
    files = {"Reference": _url(listening_set, reference, "audio")}
    files |= {str(n): _url(listening_set, s, "audio") for n, s in enumerate([reference, *others], 1)}
    return [{"Name": html.escape(_text(item)), "TestID": f"page_{number:03}", "Files": files}]


def _beaqle_pairs(listening_set: ListeningSet, number: int, item: Item) -> list[dict[str, Any]]:
    pairs = [(a, b) for a, b in combinations(listening_set.of_item(item.id), 2) if a.system != b.system]
    return [
        {
            "Name": html.escape(_text(item)),
            "TestID": f"page_{number:03}_{place:02}",
            "Files": {"A": _url(listening_set, a, "audio"), "B": _url(listening_set, b, "audio")},
        }
        for place, (a, b) in enumerate(pairs, 1)
    ]


def export_p808(listening_set: ListeningSet, out: Path, url: str) -> Path:
    """Write the P.808 toolkit's input lists for its ACR template, and the clips to be put at a URL.

    The toolkit asks one scale and shows no prompt, so it measures fidelity. File names end in `_c01`, `_c02` …, an
    opaque code for each system, which its `condition_pattern` finds.

    Args:
        listening_set: The set.
        out: The folder to write.
        url: Where the clips will be found.

    Returns:
        The list of clips to rate.

    Raises:
        DataError: The set has no gold or trapping items, or the URL is none.
        OutputError: The folder cannot be written to.
    """
    if not url.startswith(("https://", "http://")):
        raise DataError(f"the clips' URL is {url!r}; give one such as --url https://host/folder")
    items = listening_set.items
    groups: dict[str, list[Stimulus]] = {kind: [] for kind in ("test", "training", "gold", "trap")}
    for stimulus in listening_set.manifest.stimuli:
        groups[items[stimulus.item].kind].append(stimulus)
    if not (groups["gold"] and groups["trap"]):
        raise DataError("the P.808 toolkit needs gold and trapping clips; curate with --gold 1 --traps 1 or more")
    names = {s.id: _p808_name(listening_set, s) for s in listening_set.manifest.stimuli}
    for known, name in names.items():
        _copy_file(listening_set.path(known), out / "clips" / name)
    where = {known: f"{url.rstrip('/')}/{quote(name)}" for known, name in names.items()}
    scored = sorted(groups["test"], key=lambda s: (s.score is not None, s.score or 0.0, s.id))
    step = max(1, (len(scored) - 1) // max(1, TRAINING_CLIPS - 1))
    training = groups["training"] or scored[::step][:TRAINING_CLIPS]
    lists: dict[str, list[dict[str, Any]]] = {
        "rating_clips": [{"rating_clips": where[s.id]} for s in groups["test"]],
        "training_clips": [{"training_clips": where[s.id]} for s in training],
        "gold_clips": [{"gold_clips": where[s.id], "gold_clips_ans": _answer(s)} for s in groups["gold"]],
        "trapping_clips": [{"trapping_clips": where[s.id], "trapping_ans": _answer(s)} for s in groups["trap"]],
    }
    for name, rows in lists.items():
        write_csv(out / f"{name}.csv", list(rows[0]), rows)
    pattern = "condition_pattern: .*_c(?P<condition>\\d+)\\.wav\ncondition_keys: condition\n"
    write_text(out / "condition_pattern.txt", pattern)
    return out / "rating_clips.csv"


def _p808_name(listening_set: ListeningSet, stimulus: Stimulus) -> str:
    systems = sorted({s.system for s in listening_set.manifest.stimuli}, key=lambda name: slug(name)[::-1])
    return f"{PurePosixPath(listening_set.file_of[stimulus.id]).stem}_c{systems.index(stimulus.system) + 1:02}.wav"


def _answer(stimulus: Stimulus) -> int:
    """Return the answer to expect; the toolkit itself allows one more and one less of gold clips."""
    return round(stimulus.expected.get("fidelity", [3, 3])[0])


def _tested(listening_set: ListeningSet) -> list[Item]:
    """Return the items that listeners rate; training is left to the tools."""
    manifest = listening_set.manifest
    kinds = ("test",) if manifest.design != "acr" else ("test", "gold", "trap")
    return [item for item in manifest.items if item.kind in kinds]


def _text(item: Item) -> str:
    return item.prompt or "the picture"


def _shown(item: Item, assets: str) -> str:
    """Return what is asked as HTML in which the prompt is only text."""
    text = f"<p><strong>{html.escape(item.prompt)}</strong></p>" if item.prompt else ""
    return text + (f'<p><img src="{assets}/{item.picture}" alt="" height="200"></p>' if item.picture else "")


def _name(listening_set: ListeningSet, stimulus: Stimulus) -> str:
    return PREFIX + PurePosixPath(listening_set.file_of[stimulus.id]).stem


def _url(listening_set: ListeningSet, stimulus: Stimulus, assets: str) -> str:
    return f"{assets}/{listening_set.file_of[stimulus.id]}"


def _copy(listening_set: ListeningSet, folder: Path) -> None:
    pictures = [item.picture for item in listening_set.manifest.items if item.picture]
    for name in [*listening_set.key, *pictures]:
        _copy_file(listening_set.folder / name, folder / name)


def _copy_file(source: Path, target: Path) -> None:
    try:
        with write_whole(target) as temporary:
            shutil.copyfile(source, temporary)
    except FileNotFoundError as error:
        raise OutputError(f"{source} is missing; see `listen verify`") from error
