"""The record of what a run has written, frame by frame: its schema, its reader and its writer.

While a run is at work, the frames of each interval are recorded in a part,
``manifest.parts/<clip>/<first frame>.jsonl``; ``manifest.jsonl`` joins the parts. Both hold a line for each frame, see
:class:`Entry`. ``manifest.seen.json`` holds the hashes of the labels that the run has used, see :func:`label_hash`, and
``broken/`` names the clips with damaged files, see :func:`note_broken`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from wrp.errors import DataError, WrpError
from wrp.io.opening import opened_image, parse_json, read_content, read_json
from wrp.io.writing import checksum, replacing, write_json, write_text
from wrp.structures import Frame, VideoFrame

logger = logging.getLogger("wrp")

MANIFEST = "manifest.jsonl"
SCHEMA = 2
"""Version of the keys of a line, increased when they change. Lines of wrp 0.1 have none."""

PARTS = "manifest.parts"
SEEN = "manifest.seen.json"
BROKEN = "broken"
"""Folder with a note ``<clip>.json`` of each clip of which the run has met a damaged file."""

BEGUN = ".begun"
"""Suffix of a file next to a part, while its interval is being written."""

NETWORKS = ("teacher", "refiner")
"""The networks whose checkpoint hashes are in a line."""

# The folders of a frame's files, below that of the run.
_KIND = re.compile(r"labels|confidence|provenance|methods/[^/\\]+(?<!\.\.)")


@dataclass(frozen=True)
class Entry:
    """One frame of a run.

    Attributes:
        clip: Name of the clip.
        frame: Name of the frame.
        index: Its index in the clip.
        method: The method that made its label; ``keyframe`` if the label was given.
        keyframes: Indices of the keyframes that were used, without those of other scenes.
        distance: Number of frames to the nearest of them; None if there is none.
        mean_confidence: Mean over its pixels, without those that are never labelled, in [0, 1].
        label: Path of its label below the run's folder.
        checksums: Checksum of each of its files, by the folder that holds the file.
        networks: Checkpoint hash of each network of the run, by the names in :data:`NETWORKS`.
        image: Content hash of the frame itself, in hexadecimal digits; empty if it is not recorded.
        cut: Whether a cut follows: the next frame shows another scene.

    Raises:
        ValueError: If a value cannot be that of a frame; the message names the value.

    Example:
        >>> entry = Entry("a", "00003", 3, "motion", (0, 8), 3, 0.9, "labels/a/00003.png")
        >>> entry.offset, entry.is_given, Entry.parse(entry.line()) == entry
        (3, False, True)
    """

    clip: str
    frame: str
    index: int
    method: str
    keyframes: tuple[int, ...]
    distance: int | None
    mean_confidence: float
    label: str
    checksums: dict[str, str] = field(default_factory=dict)
    networks: dict[str, str] = field(default_factory=dict)
    image: str = ""
    cut: bool = False

    def __post_init__(self) -> None:
        """Refuse impossible values, as paths are followed and numbers are computed with."""
        kinds: dict[str, type | tuple[type, ...]] = {
            **dict.fromkeys(("clip", "frame", "method", "label", "image"), str),
            "index": int,
            "distance": (int, type(None)),
            "mean_confidence": (int, float),
        }
        for name, kind in kinds.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise ValueError(f"the {name} {value!r}")
        if self.index < 0 or any(type(keyframe) is not int or keyframe < 0 for keyframe in self.keyframes):
            raise ValueError(f"the index {self.index} and the keyframes {list(self.keyframes)}")
        if self.distance is not None and self.distance < 0:
            raise ValueError(f"the distance {self.distance}")
        if not 0 <= self.mean_confidence <= 1:
            raise ValueError(f"the mean_confidence {self.mean_confidence}")
        label = PurePosixPath(self.label)
        if ".." in label.parts or label.parts[:1] != ("labels",) or len(label.parts) < 2 or "\0" in self.label:
            raise ValueError(f"the label {self.label!r}, expected one below labels/")
        if not isinstance(self.checksums, dict) or not all(map(_KIND.fullmatch, self.checksums)):
            raise ValueError(f"the checksums {self.checksums!r}")
        for name, found in (self.checksums | self.networks).items():
            if not isinstance(found, str):
                raise ValueError(f"the checksum {found!r} of {name}")

    @property
    def is_given(self) -> bool:
        """Whether its label was given to the run."""
        return self.index in self.keyframes

    @property
    def offset(self) -> int:
        """Number of frames from the nearest keyframe to this frame, negative before it; ValueError if there is none."""
        return min((self.index - keyframe for keyframe in self.keyframes), key=abs)

    def files(self, run: Path) -> dict[Path, str]:
        """Return its files with their checksums."""
        name = PurePosixPath(self.label).relative_to("labels")
        return {run / kind / name: noted for kind, noted in self.checksums.items()}

    def line(self) -> str:
        """Return its line in the manifest."""
        content = {"schema": SCHEMA}
        content |= {one.name: getattr(self, one.name) for one in fields(self) if one.name != "networks"}
        return json.dumps(content | {"keyframes": list(self.keyframes)} | self.networks) + "\n"

    @classmethod
    def parse(cls, line: str) -> Entry:
        """Parse a line; raise ValueError if it is malformed."""
        content = parse_json(line)
        if not isinstance(content, dict):
            raise ValueError(f"a {type(content).__name__}")
        if content.get("schema") != SCHEMA:
            raise ValueError(f"the schema {content.get('schema', 1)!r} of another version of wrp, expected {SCHEMA}")
        names = [one.name for one in fields(cls) if one.name not in ("checksums", "networks", "image", "cut")]
        if missing := [name for name in names if name not in content]:
            raise ValueError(f"no {missing[0]}")
        known: dict[str, Any] = {name: content[name] for name in names}
        if not isinstance(known["keyframes"], list):
            raise ValueError(f"the keyframes {known['keyframes']!r}")
        known["keyframes"] = tuple(known["keyframes"])
        networks = {name: content[name] for name in NETWORKS if name in content}
        image, cut = content.get("image", ""), content.get("cut") is True
        return cls(**known, checksums=content.get("checksums", {}), networks=networks, image=image, cut=cut)


def read_manifest(run: Path) -> list[Entry]:
    """Read the frames that a run wrote; raise DataError if there is no manifest, or it is damaged."""
    path = run / MANIFEST
    if not path.is_file():
        raise DataError(f"there is no {path}: expected the output of `wrp autolabel`, or of `wrp predict`")
    entries = []
    try:
        for number, line in enumerate(read_content(path).decode("utf-8").splitlines(), 1):
            try:
                entries.append(Entry.parse(line))
            except ValueError as error:
                raise ValueError(f"line {number} has {error}") from error
    except (DataError, ValueError) as error:
        raise DataError(f"{path} is damaged ({error}); make the labels again") from error
    return entries


def part_of(run: Path, clip: str, first: int) -> Path:
    """Return the path of the part that records an interval."""
    return run / PARTS / clip / f"{first:06d}.jsonl"


def count_parts(run: Path, clip: str) -> int:
    """Return how many intervals of a clip are recorded."""
    return len(list((run / PARTS / clip).glob("*.jsonl")))


def has_parts(run: Path) -> bool:
    """Tell whether any interval is recorded."""
    return next((run / PARTS).glob("*/*.jsonl"), None) is not None


def write_part(part: Path, entries: Iterable[Entry]) -> None:
    """Record the frames of an interval, all of whose files are on the disk."""
    write_text(part, "".join(entry.line() for entry in entries))
    part.with_suffix(BEGUN).unlink(missing_ok=True)


def join_manifest(run: Path) -> None:
    """Write ``manifest.jsonl`` from the parts that are there."""
    with replacing(run / MANIFEST) as temporary, temporary.open("w", encoding="utf-8") as manifest:
        manifest.writelines(read_content(part).decode("utf-8") for part, entries in _parts(run) if entries)


def remove_temporaries(run: Path) -> None:
    """Delete half-written files of killed processes; call this only while no process writes there."""
    for folder in ("labels", "methods", "confidence", "provenance", PARTS):
        for path in (run / folder).rglob(".*.tmp"):
            path.unlink(missing_ok=True)


def check_networks(run: Path, networks: dict[str, str]) -> None:
    """Raise WrpError if the parts record other checkpoint hashes; the label files are not read."""
    parts = _parts(run)
    for network, made in networks.items():
        for part, entries in parts:
            if any(entry.networks.get(network, made) != made for entry in entries):
                raise WrpError(
                    f"{run} holds labels from another {network} checkpoint than the current one ({part}); choose "
                    "another --out, or delete it to start anew"
                )


def written_parts(run: Path) -> frozenset[tuple[str, int, int]]:
    """Return clip, first frame and number of frames of each interval that is completely written and still there."""
    return frozenset(
        (part.parent.name, int(part.stem), len(entries))
        for part, entries in _parts(run)
        if entries and is_there(run, entries)
    )


def recorded_intervals(run: Path) -> dict[str, list[list[Entry]]]:
    """Return the recorded intervals of each clip in temporal order, each as its frames; damaged parts are left out."""
    found: dict[str, list[list[Entry]]] = {}
    for part, entries in _parts(run):
        if entries:
            found.setdefault(part.parent.name, []).append(entries)
    return found


def is_there(run: Path, entries: Iterable[Entry]) -> bool:
    """Tell whether all files of an interval are there; one that was replaced by the user counts, with a warning."""
    return all(_is_written(run, entry) for entry in entries)


def _parts(run: Path) -> list[tuple[Path, list[Entry]]]:
    """Return the parts and their frames."""
    return [(part, _entries(part)) for part in sorted((run / PARTS).glob("*/*.jsonl"))]


def _entries(part: Path) -> list[Entry]:
    """Return the frames of a part; none if it is damaged, as it will then be written again."""
    try:
        entries = [Entry.parse(line) for line in read_content(part).decode("utf-8").splitlines()]
        whole = all(_belongs(entry, part.parent.name, int(part.stem) + i) for i, entry in enumerate(entries))
    except (DataError, ValueError):
        return []
    return entries if whole else []


def _belongs(entry: Entry, clip: str, index: int) -> bool:
    """Tell whether a line is that of this frame, with its files."""
    label = f"labels/{clip}/{entry.frame}.png"
    files = {"labels", "confidence"} <= set(entry.checksums)
    return "/" not in entry.frame and (entry.clip, entry.index, entry.label) == (clip, index, label) and files


def _is_written(run: Path, entry: Entry) -> bool:
    """Tell whether the files of a frame are there; a file that was replaced by the user counts and is kept."""
    states = dict(_states(run, entry))
    if "missing" in states.values():
        return False
    for path, state in states.items():
        if state == "corrected":
            logger.warning("%s is not what was written there; it is kept", path)
    return True


def _states(run: Path, entry: Entry) -> Iterator[tuple[Path, str]]:
    """Yield each file of a frame with its state: ``whole``, ``missing`` or ``corrected``."""
    for path, noted in entry.files(run).items():
        if path.is_file() and checksum(path.read_bytes()) == noted:
            yield path, "whole"
        else:  # what cannot be read counts as missing
            yield path, "corrected" if is_image(path) else "missing"


def labelled_frames(run: Path) -> dict[str, dict[int, str]]:
    """Return the content hashes that labelled frames had, in hexadecimal digits, by clip and by index in the clip."""
    found: dict[str, dict[int, str]] = {}
    for _, entries in _parts(run):
        for entry in entries:
            found.setdefault(entry.clip, {})[entry.index] = entry.image
    return found


def noted_checksums(run: Path, done: frozenset[tuple[str, int, int]]) -> dict[Path, str]:
    """Return the recorded checksums of intervals to write again; where a part is lost, from the manifest."""
    parts = _parts(run)
    left = [entries for part, entries in parts if (part.parent.name, int(part.stem), len(entries)) not in done]
    known = {(entry.clip, entry.index) for _, entries in parts for entry in entries}
    lost = [entry for entry in _readable(run / MANIFEST) if (entry.clip, entry.index) not in known]
    noted: dict[Path, str] = {}
    for entry in (*lost, *(entry for entries in left for entry in entries)):
        noted |= entry.files(run)
    return noted


def _readable(manifest: Path) -> list[Entry]:
    """Return the lines of a manifest that can be read."""
    found = []
    with contextlib.suppress(DataError, UnicodeDecodeError):
        for line in read_content(manifest).decode("utf-8").splitlines():
            with contextlib.suppress(ValueError):
                entry = Entry.parse(line)
                if entry.clip and _belongs(entry, entry.clip, entry.index):
                    found.append(entry)
    return found


def is_image(path: Path) -> bool:
    """Tell whether a file can be read as a picture."""
    try:
        with opened_image(path) as image:
            image.load()
    except DataError:
        return False
    return True


def label_hash(frame: Frame) -> str:
    """Return the content hash of a label together with its frame's name: 16 hexadecimal digits of the SHA-256.

    The name consists of the name of the image file, the number of the frame if it is a video, and the size of the file
    in bytes. So the image need not be read, empty labels of two frames differ, and the name of the clip does not
    matter.
    """
    assert frame.label is not None
    image = frame.image.path if isinstance(frame.image, VideoFrame) else frame.image
    number = frame.image.number if isinstance(frame.image, VideoFrame) else 0
    name = f"{image.name} {number} {image.stat().st_size}\n"
    return hashlib.sha256(name.encode() + read_content(frame.label)).hexdigest()[:16]


def note_broken(run: Path, clip: str, problem: str) -> None:
    """Note that a file of a clip was found to be damaged while the run was at work; any process may do so."""
    write_json(run / BROKEN / f"{clip}.json", {"problem": problem})


def broken_clips(run: Path) -> dict[str, str]:
    """Return what is wrong with each clip that :func:`note_broken` has noted, by clip name."""
    notes = sorted((run / BROKEN).glob("*.json"))
    return {note.stem: str(read_json(note, "delete it").get("problem")) for note in notes}


def forget_broken(run: Path, clip: str) -> None:
    """Delete the note of a clip that can be read again, if there is one."""
    (run / BROKEN / f"{clip}.json").unlink(missing_ok=True)


def note_seen(run: Path, labels: Iterable[str]) -> None:
    """Add hashes of labels that a run, or a network that it uses, was given."""
    write_json(run / SEEN, {"labels": sorted({*seen_labels(run), *labels})})


def seen_labels(run: Path) -> frozenset[str]:
    """Return the hashes of the labels that a run was given; raise DataError if the file is damaged."""
    if not (run / SEEN).is_file():
        return frozenset()
    found = read_json(run / SEEN, "make the labels again").get("labels")
    if not isinstance(found, list) or not all(isinstance(label, str) for label in found):
        raise DataError(f"{run / SEEN} is damaged: it names no labels; make the labels again")
    return frozenset(found)
