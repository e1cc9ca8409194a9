"""Continue an earlier run: take over what the two have in common, so that only the rest is made.

The files of an interval depend on its frames, what is never labelled in them, the labels of its keyframes, the
networks and the calibration, and on nothing else: the frames that vote on one another lie within the interval. So an
interval is taken over, as hard links, if all of these are the same. With networks as they are, so is the calibration,
which has learned from keyframes as they have: fitted anew, it would change the confidence of every frame. What is
counted at held-out keyframes for the estimated scores is counted again only where one of the three keyframes has
changed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wrp.data.checking import file_hashes
from wrp.data.classes import has_class
from wrp.data.index import ClipIndex, intervals
from wrp.data.items import HeldOutItems
from wrp.data.run import CLASSES, read_run_file
from wrp.errors import DataError, WrpError
from wrp.flow.hashing import content_hash
from wrp.io.checkpoints import labels_seen_by, network_hash
from wrp.io.images import read_frame_label, read_image, read_label
from wrp.io.label_map import read_label_map, require_same_classes
from wrp.io.linking import link_file, link_interval
from wrp.io.manifest import Entry, is_there, label_hash, note_seen, read_manifest, recorded_intervals
from wrp.io.outputs import CONTINUED, RUN, owner_of
from wrp.io.progress import progress
from wrp.io.writing import checksum, encode_label, write_json
from wrp.options import flat
from wrp.propagation.confidence import read_calibration
from wrp.propagation.session import GIVEN
from wrp.runs.calibrating import CALIBRATION, count_file, read_counts
from wrp.runs.config import Settings, in_flags
from wrp.runs.networks import fold_paths, network_paths
from wrp.runs.record import FREE, decoded_clips, recorded
from wrp.runs.trainer import decisive
from wrp.structures import Clip, LabelMap

logger = logging.getLogger("wrp")

# Frames whose labels have changed most, which the report names.
NAMED = 10

# Settings that say which keyframes there are, which are compared themselves, and those of continuing.
_MAY_DIFFER = ("root", "run.continue_from", "run.continue_steps", "run.trainer", "teacher", "refiner")


@dataclass
class Common:
    """What a run has in common with the one that it continues.

    Attributes:
        kept: The intervals that are taken over, each as its frames.
        total: Number of all intervals of the run.
        counted: Clip and index of the keyframes whose counts for estimate and calibration stay.
        keyframes: Names of the keyframes that are ``changed``, ``added`` and ``removed``.
        clips: Names of the clips that are ``new`` or whose frames are ``other`` than before.
        calibrated: Whether the calibration is taken over.

    Example:
        >>> Common(kept=[], total=3).describe()
        'no keyframe has changed; 0 of 3 intervals are taken over'
    """

    kept: list[list[Entry]] = field(default_factory=list)
    total: int = 0
    counted: set[tuple[str, int]] = field(default_factory=set)
    keyframes: dict[str, list[str]] = field(default_factory=lambda: {"changed": [], "added": [], "removed": []})
    clips: dict[str, list[str]] = field(default_factory=lambda: {"new": [], "other": []})
    calibrated: bool = False

    def describe(self) -> str:
        """Say in a line what has changed and what is taken over."""
        numbers = [f"{len(names)} {what}" for what, names in self.keyframes.items() if names]
        keyframes = "no keyframe has changed" if not numbers else f"keyframes: {', '.join(numbers)}"
        clips = "".join(f"; {len(names)} clips are {what}" for what, names in self.clips.items() if names)
        return f"{keyframes}{clips}; {len(self.kept)} of {self.total} intervals are taken over"

    @property
    def done(self) -> frozenset[tuple[str, int, int]]:
        """Clip, first frame and number of frames of each interval that is taken over."""
        return frozenset((entries[0].clip, entries[0].index, len(entries)) for entries in self.kept)


def check_continued(settings: Settings, index: ClipIndex) -> None:
    """Refuse to continue a run that does not fit; do nothing where none is continued.

    Args:
        settings: The settings of the run that continues another one.
        index: Its clips.

    Raises:
        WrpError: If there is no finished run, it was made with other settings, classes or networks, or a network of it
            is missing.
    """
    if settings.run.continue_from is None:
        if settings.run.continue_steps is not None:
            raise WrpError(f"--continue-steps {settings.run.continue_steps} needs --continue DIR")
        return
    if (Path(settings.out) / CONTINUED).is_file():
        return
    old, named = Path(settings.run.continue_from), f"--continue {settings.run.continue_from}"
    if owner_of(old) != RUN or not (old / "metrics.json").is_file():
        raise WrpError(f"{named} is no finished run: expected a folder that `wrp autolabel` has written and scored")
    mine, theirs = _compared(settings.as_json()), _compared(recorded(old / "settings.json"))
    mine["run.trainer"] = decisive(settings.run.trainer)
    for key in sorted({*mine, *theirs}):
        if mine.get(key) != theirs.get(key):
            raise WrpError(
                f"{named} was made {in_flags(key, theirs.get(key), mine.get(key))}: give the same, or leave out "
                "--continue"
            )
    _check_classes(old, index.label_map, named)
    _check_given(settings, old, named)
    for path in _needed(settings):
        if not path.is_file():
            raise WrpError(f"{named} lacks {path.name}, which this run needs: restore it, or leave out --continue")


def _compared(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that must be the same, by dotted names."""
    settings = {**settings, "run": {**settings.get("run", {})}}
    trainer = settings["run"].pop("trainer", {})
    for added in ("labels", "frames", "networks", "computed_by", "threads"):
        settings.pop(added, None)
    kept = {name: value for name, value in flat(settings) if name not in (*_MAY_DIFFER, *FREE)}
    kept = {name: value for name, value in kept.items() if not name.startswith("select.")}
    return kept | {"run.trainer": trainer}


def _check_given(settings: Settings, old: Path, named: str) -> None:
    """Refuse networks that are given to one of the two runs alone, or are not the same file."""
    theirs = recorded(old / "settings.json")
    known = theirs.get("networks")
    for name in ("teacher", "refiner"):
        given = getattr(settings, name)
        before = known.get(name) if isinstance(known, dict) else None
        if before != (None if given is None else network_hash(given)):
            raise WrpError(
                f"{named} was made {in_flags(name, theirs.get(name), given)}"
                + (", another file" if before is not None and given is not None else "")
                + ": give the same, or leave out --continue"
            )


def _check_classes(old: Path, label_map: LabelMap, named: str) -> None:
    if not (old / CLASSES).is_file():
        raise WrpError(f"{named} lacks {CLASSES}, its classes: restore it, or leave out --continue")
    require_same_classes(label_map, read_label_map(old / CLASSES), named, ": leave out --continue")


def _needed(settings: Settings) -> Iterator[Path]:
    """Yield the checkpoints of the other run that are used as they are, or trained on."""
    assert settings.run.continue_from is not None
    theirs = network_paths(replace(settings, out=settings.run.continue_from))
    trained = [name for name in theirs if getattr(settings, name) is None]
    yield from (theirs[name] for name in trained)
    if "refiner" in trained and not settings.run.continue_steps:
        yield from fold_paths(settings, Path(settings.run.continue_from))


def trains_on(settings: Settings) -> bool:
    """Tell whether networks of the run that is continued are trained on.

    Example:
        >>> trains_on(Settings("clips", "out"))
        False
    """
    return bool(settings.run.continue_steps) and next(_needed(settings), None) is not None


def continue_run(settings: Settings, index: ClipIndex) -> None:
    """Take over what a run has in common with the one that it continues, once, and record it.

    A call that was stopped is repeated; nothing is changed in the folder of the other run.

    Args:
        settings: The settings.
        index: The clips that can be read.
    """
    out = Path(settings.out)
    if settings.run.continue_from is None or (out / CONTINUED).is_file():
        return
    old, common = Path(settings.run.continue_from), find_common(settings, index)
    logger.info("Continuing %s: %s", old, common.describe())
    if not trains_on(settings):
        for path in _needed(settings):
            link_file(path, out / path.name)
    for name in ("weights.json", *([CALIBRATION] if common.calibrated else [])):
        if (old / name).is_file():
            link_file(old / name, out / name)
    counts = read_counts(old) if common.counted else {}
    for keyframe in sorted(common.counted.intersection(counts)):
        write_json(count_file(out, *keyframe), counts[keyframe])
    for entries in progress(common.kept, desc="Taking over", unit="interval", total=len(common.kept)):
        link_interval(old, out, entries)
    if len(common.kept) == common.total:  # nothing will be labelled
        networks = (labels_seen_by(path) for path in network_paths(settings).values())
        keyframes = {label_hash(clip.frames[i]) for clip in index.clips for i in clip.keyframes}
        note_seen(out, keyframes.union(*networks))
    write_json(
        out / CONTINUED,
        {
            "from": str(old.resolve()),
            "steps": settings.run.continue_steps or 0,
            "keyframes": common.keyframes,
            "clips": common.clips,
            "intervals": {"all": common.total, "kept": len(common.kept)},
            "calibrated": not common.calibrated,
            "networks": bool(network_paths(settings)),
        },
    )


def find_common(settings: Settings, index: ClipIndex) -> Common:
    """Find out what a run has in common with the one that it continues.

    Args:
        settings: The settings, which :func:`check_continued` accepts.
        index: The clips.
    """
    assert settings.run.continue_from is not None
    old, common = Path(settings.run.continue_from), Common()
    theirs = network_paths(replace(settings, out=settings.run.continue_from))
    hashes = {name: network_hash(str(path)) for name, path in theirs.items()}
    parts, same = recorded_intervals(old), _same_frames(index, old)
    bar = progress(index.clips, desc="Comparing", unit="clip", total=len(index.clips))
    for clip in bar:
        common.total += len(intervals(clip))
        if clip.name not in parts:
            common.clips["new"].append(clip.name)
        elif clip.name not in same:
            common.clips["other"].append(clip.name)
        else:
            _compare_clip(clip, index.label_map, parts[clip.name], common)
    if trains_on(settings):
        common.kept, common.counted = [], set()
        return common
    common.kept = [e for e in common.kept if all(one.networks == hashes for one in e) and is_there(old, e)]
    lines = _calibration(old / CALIBRATION)
    common.calibrated = bool(common.kept) and lines is not None
    if common.calibrated and not lines and len(HeldOutItems(index.clips, index.label_map)):
        logger.info("There was no calibration, and now there are keyframes for one: all intervals are labelled again")
        common.calibrated = False
    if not common.calibrated:
        common.kept = []
    return common


def _compare_clip(clip: Clip, label_map: LabelMap, parts: list[list[Entry]], common: Common) -> None:
    """Add to what is common that of a clip whose frames are the same, without regard to networks."""
    before = {entry.index: entry for entries in parts for entry in entries if entry.method == GIVEN}
    stays, shown = set[int](), set[int]()
    for keyframe in clip.keyframes:
        label = read_frame_label(clip.frames[keyframe], label_map)
        shown |= {keyframe} if has_class(label) else set()
        name, entry = f"{clip.name}/{clip.frames[keyframe].stem}", before.get(keyframe)
        if entry is None:
            common.keyframes["added"].append(name)
        elif entry.checksums["labels"] != checksum(encode_label(label.numpy(), label_map)):
            common.keyframes["changed"].append(name)
        else:
            stays.add(keyframe)
    removed = sorted(set(before).difference(clip.keyframes))
    common.keyframes["removed"] += [f"{clip.name}/{before[keyframe].frame}" for keyframe in removed]
    if not removed and len(stays) == len(clip.keyframes):
        shown = set(clip.keyframes)  # what has no class is as it was

    def is_same(*keyframes: int) -> bool:
        # Whether keyframes without a class leave frames unlabelled depends on the clip's other keyframes.
        return stays.issuperset(keyframes) and (not keyframes or not shown.isdisjoint(keyframes))

    was = {_ends(interval) for interval in intervals(replace(clip, keyframes=tuple(sorted(before))))}
    recorded_at = {entries[0].index: entries for entries in parts}
    for interval in intervals(clip):
        entries = recorded_at.get(interval.start, [])
        if _ends(interval) in was and is_same(*interval.keyframes) and len(entries) == interval.stop - interval.start:
            common.kept.append(entries)
    triples = set(zip(sorted(before), sorted(before)[1:], sorted(before)[2:], strict=False))
    for triple in zip(clip.keyframes, clip.keyframes[1:], clip.keyframes[2:], strict=False):
        if triple in triples and stays.issuperset(triple) and is_same(triple[0], triple[2]):
            common.counted.add((clip.name, triple[1]))


def _ends(interval: Any) -> tuple[int, int, int | None, int | None]:
    return interval.start, interval.stop, interval.previous, interval.next


def _same_frames(index: ClipIndex, old: Path) -> set[str]:
    """Return the clips whose frames are those of the other run: files of the same names, sizes, and times or content.

    Nor may what is never labelled in them differ. Where the times do, the frames that were labelled are compared by
    their content hashes.
    """
    frames = file_hashes(index.clips)
    known = recorded(old / "settings.json").get("frames")
    sizes = {clip: str(found).partition(" ")[0] for clip, found in known.items()} if isinstance(known, dict) else {}
    same = {clip for clip, found in frames.items() if sizes.get(clip) == found.partition(" ")[0]}
    touched = decoded_clips(old, frames)
    return {clip.name for clip in index.clips if clip.name in same and _is_same(clip, touched.get(clip.name, {}))}


def _is_same(clip: Clip, known: Mapping[int, str]) -> bool:
    return all(
        number < len(clip.frames) and content_hash(read_image(clip.frames[number].image)).hex() == found
        for number, found in known.items()
        if found
    )


def _calibration(path: Path) -> dict[str, Any] | None:
    try:
        return dict(read_calibration(str(path)))
    except WrpError as error:
        logger.warning("%s; all intervals are labelled again", error)
        return None


def label_changes(index: ClipIndex, out: Path) -> dict[str, Any]:
    """Compare the labels of a run with those of the one that it continues.

    Args:
        index: The clips.
        out: Folder of the run.

    Returns:
        The record of what was taken over and, by ``labels``, the number of ``frames`` with another label, the
        percentage of their ``pixels`` that have changed, and the frames with the ``most`` changes; empty if no run is
        continued.
    """
    if not (out / CONTINUED).is_file():
        return {}
    record = read_run_file(out / CONTINUED)
    old = Path(str(record.get("from")))
    try:
        before = {(entry.clip, entry.frame): entry for entry in read_manifest(old)}
        changed = dict(_changed(index, out, old, before))
    except DataError as error:
        logger.warning("What has changed since %s cannot be shown: %s", old, error)
        return record
    most = sorted(changed, key=lambda name: -changed[name])[:NAMED]
    mean = sum(changed.values()) / len(changed) if changed else 0.0
    labels = {"frames": len(changed), "pixels": round(mean, 2), "most": [[name, changed[name]] for name in most]}
    return record | {"labels": labels}


def _changed(
    index: ClipIndex, out: Path, old: Path, before: Mapping[tuple[str, str], Entry]
) -> Iterator[tuple[str, float]]:
    """Yield the frames whose labels differ from before, with the percentage of the pixels that do."""
    entries = [entry for entry in read_manifest(out) if (entry.clip, entry.frame) in before]
    entries = [e for e in entries if e.checksums["labels"] != before[e.clip, e.frame].checksums.get("labels")]
    for entry in progress(entries, desc="Comparing labels", unit="frame", total=len(entries)):
        mine, theirs = (read_label(run / entry.label, index.label_map.written) for run in (out, old))
        if mine.shape == theirs.shape and (mine != theirs).any():
            yield f"{entry.clip}/{entry.frame}", round(100 * float((mine != theirs).float().mean()), 2)
