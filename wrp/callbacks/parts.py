"""The notes of what a run has written: a part for each interval, and the manifest that joins them."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wrp.errors import DataError, WrpError
from wrp.opening import opened_image, parse_json
from wrp.writing import checksum, replacing

logger = logging.getLogger("wrp")

PARTS = "manifest.parts"
BEGUN = ".begun"
"""Suffix beside a part while its interval is written."""

# The folders of a frame's files, below that of the run.
_KIND = re.compile(r"labels|confidence|source|methods/[^/\\]+(?<!\.\.)")


def join_manifest(out: Path) -> None:
    """Make ``manifest.jsonl`` of the parts that are there."""
    parts = sorted((out / PARTS).glob("*/*.jsonl"))
    with replacing(out / "manifest.jsonl") as temporary, temporary.open("w", encoding="utf-8") as manifest:
        manifest.writelines(part.read_text(encoding="utf-8") for part in parts if _entries(part))


def remove_temporaries(out: Path) -> None:
    """Delete what killed processes have left half written; once nobody writes there any more."""
    for folder in ("labels", "methods", "confidence", "source", PARTS):
        for path in (out / folder).rglob(".*.tmp"):
            path.unlink(missing_ok=True)


def written_parts(out: Path, made_with: dict[str, str] | None = None) -> frozenset[tuple[str, int, int]]:
    """Clip, first frame and number of frames of each interval that was written completely and is still there.

    Args:
        out: Where it was written.
        made_with: Hashes of the networks that the others will be made with; None: any.

    Raises:
        WrpError: If what is there was made with other networks.
    """
    parts = [(part, _entries(part)) for part in sorted((out / PARTS).glob("*/*.jsonl"))]
    for network, made in (made_with or {}).items():
        for part, entries in parts:
            if any(entry.get(network, made) != made for entry in entries):
                raise WrpError(
                    f"{out} holds labels that were made with another {network} than there is now ({part}); choose "
                    "another --out, or delete it to start anew"
                )
    return frozenset(
        (part.parent.name, int(part.stem), len(entries))
        for part, entries in parts
        if entries and all(_is_written(out, entry) for entry in entries)
    )


def _entries(part: Path) -> list[dict[str, Any]]:
    """The frames of a part; none where it is damaged: it will be written anew."""
    try:
        entries = [parse_json(line) for line in part.read_text(encoding="utf-8").splitlines()]
        whole = all(_belongs(entry, part, int(part.stem) + i) for i, entry in enumerate(entries))
    except (OSError, ValueError):
        return []
    return entries if whole else []


def _belongs(entry: Any, part: Path, index: Any) -> bool:
    """Whether a line of a part is that of a frame."""
    if not isinstance(entry, dict) or "/" in str(entry.get("frame")):
        return False
    clip = part.parent.name
    label = f"labels/{clip}/{entry.get('frame')}.png"
    if [entry.get(key) for key in ("clip", "index", "label")] != [clip, index, label]:
        return False
    sums = entry.get("checksums")
    return isinstance(sums, dict) and {"labels", "confidence"} <= set(sums) and all(map(_KIND.fullmatch, sums))


def _is_written(out: Path, entry: dict[str, Any]) -> bool:
    """Whether the files of a frame are there; what somebody else has written in their place is kept."""
    states = dict(_states(out, entry))
    if "missing" in states.values():
        return False
    for path, state in states.items():
        if state == "corrected":
            logger.warning("%s is not what was written there; it is kept", path)
    return True


def _states(out: Path, entry: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Each file of a frame, and whether it is ``whole``, ``missing`` or ``corrected``."""
    name = Path(entry["label"]).relative_to("labels")
    for kind, noted in entry["checksums"].items():
        path = out / kind / name
        if path.is_file() and checksum(path.read_bytes()) == noted:
            yield path, "whole"
        else:  # what cannot be read is as good as missing
            yield path, "corrected" if is_image(path) else "missing"


def noted_checksums(out: Path, done: frozenset[tuple[str, int, int]]) -> dict[Path, str]:
    """What is noted of the files of intervals to be written again; of those whose part is lost, in the manifest."""
    parts = [(part, _entries(part)) for part in sorted((out / PARTS).glob("*/*.jsonl"))]
    left = [entries for part, entries in parts if (part.parent.name, int(part.stem), len(entries)) not in done]
    known = {(entry["clip"], entry["index"]) for _, entries in parts for entry in entries}
    lost = [entry for entry in _joined(out / "manifest.jsonl") if (entry["clip"], entry["index"]) not in known]
    noted: dict[Path, str] = {}
    for entry in (*lost, *(entry for entries in left for entry in entries)):
        name = Path(entry["label"]).relative_to("labels")
        noted |= {out / kind / name: found for kind, found in entry["checksums"].items()}
    return noted


def _joined(manifest: Path) -> list[dict[str, Any]]:
    """The lines of a manifest that can be read."""
    found = []
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in manifest.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError):
                entry = parse_json(line)
                clip = str(entry.get("clip")) if isinstance(entry, dict) else ""
                if clip and _belongs(entry, manifest.parent / clip / manifest.name, entry["index"]):
                    found.append(entry)
    return found


def is_image(path: Path) -> bool:
    """Whether a file can be read as a picture."""
    try:
        with opened_image(path) as image:
            image.load()
    except DataError:
        return False
    return True
