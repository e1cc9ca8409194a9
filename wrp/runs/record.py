"""The record in the folder of a run: what its files were made with, which is never mixed with anything else."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from wrp.data.checking import Checked, check_files, file_hashes
from wrp.data.index import ClipIndex, files_of
from wrp.data.run import CLASSES
from wrp.errors import DataError, WrpError, listed
from wrp.io.checkpoints import network_hash
from wrp.io.label_map import read_label_map, require_same_classes, write_label_map
from wrp.io.locking import in_turn
from wrp.io.manifest import BROKEN, broken_clips, count_parts, forget_broken, has_parts, labelled_frames, note_broken
from wrp.io.opening import read_content, read_json
from wrp.io.outputs import TEMPORARY, owner_of, remove_temporary
from wrp.io.versions import computing
from wrp.io.writing import MARKER, make_folder, names_in, write_json
from wrp.options import flat
from wrp.runs.config import Settings, in_flags
from wrp.runs.trainer import decisive
from wrp.structures import Frame, LabelMap

logger = logging.getLogger("wrp")


def claim_folder(
    settings: Settings,
    root: Path,
    labels: Mapping[str, Mapping[str, str]],
    frames: Mapping[str, str],
    checked: Checked | None = None,
    device: str = "cpu",
    classes: LabelMap | None = None,
) -> None:
    """Record the settings in the output folder, and refuse a folder with results of other settings or labels.

    Results of different settings, labels or frames are never mixed in one folder. Frames have changed if their files
    have other names or sizes than the record says, or if one that is labelled has another content. A clip that is noted
    as broken is meant to get other files, and other labels as long as nothing is labelled by them.

    Args:
        settings: The settings.
        root: Resolved folder of the data set.
        labels: The labels that the run learns from, see :func:`hash_labels`, by clip name.
        frames: Hashes of the files of each clip, see :func:`~wrp.data.checking.file_hashes`.
        checked: What was found in the clips that this job reads, those of :func:`decoded_clips` among them; None: it
            reads none.
        device: Type of the device that computes; with the versions of the packages, it is what the labels that are
            written from now on are computed by, see :func:`check_computing`.
        classes: The classes, which are recorded, too; None: they are not.

    Raises:
        WrpError: If a run with other settings, labels, classes or frames was written there, or a folder there is a
            symbolic link.
    """
    out = Path(settings.out)
    with in_turn(out):  # jobs that share the run start at once, and each adds to the record
        claimed = settings, root, labels, frames, checked or Checked([]), out, classes
        try:
            found = _claimed(*claimed)
        except WrpError as error:
            # Other jobs may be about to have results.
            if settings.run.shard is not None or not forget_fruitless(out, str(error.args[0])):
                raise
            found = _claimed(*claimed)
        # Labels that are there, or that another job is writing, stay those of what has computed them.
        theirs = found.get("computed_by") if settings.run.shard is not None or has_parts(out) else None
        found["computed_by"] = theirs if isinstance(theirs, dict) else computing(device)
        found.setdefault("threads", torch.get_num_threads())
        write_json(out / "settings.json", found)
        if classes is not None and not (out / CLASSES).is_file():
            write_label_map(classes, out / CLASSES)
        for clip in set(broken_clips(out)).intersection(checked.clips if checked is not None else ()):
            forget_broken(out, clip)
        for clip, problem in (checked.broken if checked is not None else {}).items():
            note_broken(out, clip, problem)


def check_computing(
    out: Path, device: str, remedy: str = "go on with that one, or choose another --out, or delete it to start again"
) -> None:
    """Refuse to go on with labels that another version of a package, or another kind of device, has computed.

    Args:
        out: Folder of the run.
        device: Type of the device that is to compute the labels that are left.
        remedy: What to do, for the message.

    Raises:
        WrpError: If some of the labels that are there were computed by something else.
    """
    theirs = recorded(out / "settings.json").get("computed_by")
    for name, mine in computing(device).items():
        if isinstance(theirs, dict) and theirs.get(name, mine) != mine:
            raise WrpError(
                f"{out} holds labels that were computed by {name} {theirs[name]}, this is {name} {mine}; {remedy}"
            )


def hash_labels(frames: Iterable[Frame]) -> dict[str, str]:
    """Hash the labels of frames together with the frames' names, and the pictures of what is never labelled in them.

    Returns:
        By path, the first 16 hexadecimal digits of the SHA-256; nothing of a file that cannot be read.

    Example:
        >>> hash_labels([Frame("0", Path("0.jpg")), Frame("1", Path("1.jpg"), label=Path("/no-such-folder/1.png"))])
        {'/no-such-folder/1.png': ''}
    """
    folders: dict[Path, Path] = {}
    found: dict[str, str] = {}
    for frame in frames:
        for path, name in ((frame.label, frame.stem), (frame.never, "")):
            if path is None:
                continue
            if path.parent not in folders:  # links on the way to a file may lead elsewhere from another folder
                folders[path.parent] = path.parent.resolve()
            place = folders[path.parent] / path.name
            if str(place) not in found:
                found[str(place)] = _hash_label(place, name)
    return found


def _hash_label(path: Path, name: str) -> str:
    try:
        content = read_content(path)
    except DataError:  # who uses it says what is wrong with it
        return ""
    return hashlib.sha256(f"{name}\n".encode() + content).hexdigest()[:16]


def known_labels(out: Path) -> dict[str, str]:
    """Return the labels that a run was begun with, as :func:`hash_labels` does."""
    return {
        path: found for labels in _labels(recorded(out / "settings.json")).values() for path, found in labels.items()
    }


def check_labels(known: Mapping[str, str], labels: Mapping[str, str]) -> None:
    """Refuse labels that have changed while the run was at work.

    Args:
        known: The labels that the run was begun with.
        labels: Some of them, as they are now.

    Raises:
        WrpError: If one is not what it was.

    Example:
        >>> check_labels({"a.png": "1"}, {"a.png": ""})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: a.png was removed or cannot be read while the run is at work: restore it, ...
    """
    for path, found in labels.items():
        if known.get(path, "") not in ("", found):
            what = "was changed" if found else "was removed or cannot be read"
            raise WrpError(
                f"{path} {what} while the run is at work: restore it, and the same command goes on with all "
                "that is done; or choose another --out for labels as they are now"
            )


def check_unchanged(out: Path, index: ClipIndex, networks: Mapping[str, Path]) -> None:
    """Refuse to finish a run whose frames or networks have changed while it was reading them.

    Args:
        out: Folder of the run.
        index: The clips that this job has read, as they are now.
        networks: The checkpoints that the run uses, by name.

    Raises:
        WrpError: If frames or a network that was given are not those that were checked at the start.
    """
    theirs = recorded(out / "settings.json")
    given = _hashes(theirs.get("networks"))
    for name, path in networks.items():
        if given.get(name, "") not in ("", network_hash(str(path))):
            raise WrpError(
                f"{path} changed while the run was at work: restore it, and the same command goes on; or choose "
                "another --out for the network as it is now"
            )
    index = index.without(broken_clips(out))
    frames = file_hashes(index.clips)
    if touched := decoded_clips(out, frames):
        known = _hashes(theirs.get("frames"))
        clips = tuple(clip for clip in index.clips if clip.name in touched)
        checked = check_files(replace(index, clips=clips), teacher=False, decoded=touched)
        other = (clip for clip, found in frames.items() if _sizes(known.get(clip, found)) != _sizes(found))
        for clip in (*other, *checked.changed):
            raise WrpError(
                f"frames of clip {clip} changed while the run was at work{_latest(index, clip)}: restore them, and the "
                "same command goes on, unless it has labelled some of the changed ones; or choose another --out for "
                "frames as they are now"
            )


def _latest(index: ClipIndex, clip: str) -> str:
    """Name the file of a clip that was changed last, for a message; empty if none is there."""
    [frames] = [one.frames for one in index.clips if one.name == clip]
    files = [file for file in files_of(replace(frame, label=None) for frame in frames) if file.is_file()]
    return f", the last one {max(files, key=lambda file: file.stat().st_mtime_ns)}" if files else ""


def _claimed(
    settings: Settings,
    root: Path,
    labels: Mapping[str, Mapping[str, str]],
    frames: Mapping[str, str],
    checked: Checked,
    out: Path,
    classes: LabelMap | None,
) -> dict[str, Any]:
    """Compare what a folder holds with what is to be done, and return the record to write."""
    for folder in out.iterdir():
        if folder.is_dir():
            make_folder(folder)
    path = out / "settings.json"
    given = {"teacher": settings.teacher, "refiner": settings.refiner}
    networks = {name: network_hash(f) for name, f in given.items() if f is not None and Path(f).is_file()}
    mine = settings.as_json() | {"root": str(root.resolve())}
    mine["run"]["trainer"] = decisive(settings.run.trainer)
    theirs = recorded(path)
    if path.is_file():
        before = dict(flat(theirs))
        for key, value in flat(mine):
            if key in FREE or before.get(key) == value:
                continue
            raise _Taken(f"{out} was begun {in_flags(key, before.get(key), value)}", OTHERWISE)
        _refuse_other_labels(_labels(theirs), labels, out)  # behind the settings, which choose them
        if classes is not None and (out / CLASSES).is_file():
            require_same_classes(classes, read_label_map(out / CLASSES), str(out), f"; {OTHERWISE}")
    known, broken = _hashes(theirs.get("frames")), broken_clips(out)
    sizes = {clip: _sizes(found) for clip, found in known.items() if clip not in broken}
    _, other = _join(sizes, {clip: _sizes(found) for clip, found in frames.items()})
    if other is not None:
        raise _Taken(f"{out} holds labels of clip {other}, whose frames have changed since", RESTORE)
    if checked.changed:
        raise _Taken(f"{out} holds labels of clip {checked.changed[0]} that were made of other frames", OTHERWISE)
    used, network = _join(_hashes(theirs.get("networks")), networks)
    if network is not None:
        raise _Taken(f"{out} holds a run with a {network} that differs from {given[network]}", RESTORE)
    known = {**frames, **known, **{clip: frames[clip] for clip in checked.clips}}
    made = {name: theirs[name] for name in ("computed_by", "threads") if name in theirs}
    return mine | {"labels": labels, "frames": known, "networks": used} | made


def _refuse_other_labels(
    known: Mapping[str, Mapping[str, str]], labels: Mapping[str, Mapping[str, str]], out: Path
) -> None:
    """Raise WrpError if labels have changed, other than in broken clips of which no frame is labelled yet.

    Args:
        known: The labels that the run was begun with, see :func:`hash_labels`, by clip name.
        labels: Those that it would learn from now.
        out: Folder of the run.
    """
    lost, added, broken = list[str](), list[str](), broken_clips(out)
    for clip in {**known, **labels}:
        before, now = known.get(clip, {}), labels.get(clip, {})
        if before != now and (clip not in broken or count_parts(out, clip) > 0):
            lost += [path for path, found in before.items() if found and now.get(path) != found]
            added += [path for path in now if path not in before]
    used = {path for of_clip in labels.values() for path in of_clip}
    if edited := [path for path in lost if path in used or not Path(path).is_file()]:
        raise _Taken(
            f"{out} holds a run of before {edited[0]} was changed or removed",
            RESTORE,
        )
    again = f"with another --out and --continue {out}"
    if lost:  # a label more or less may make another choice of --label-every, say
        raise _Taken(
            f"{out} holds a run with the keyframe {lost[0]}, which is none of those that are chosen now",
            "labels were added or removed, or the list of keyframes is another one: undo that to go on with that run, "
            f"or go on {again} once it is finished",
        )
    if added:
        there, them = (out / "metrics.json").is_file(), "them" if len(added) > 1 else "it"
        raise _Taken(
            f"{out} holds a run that was begun without {listed(added, 3)}",
            f"use {them} {again}" if there else f"take {them} out to finish that run, and use {them} then {again}",
        )


def decoded_clips(out: Path, frames: Mapping[str, str]) -> dict[str, dict[int, str]]:
    """Tell of which clips the frames are to be decoded before a run goes on, and which content labelled ones had.

    These are the clips that are noted as broken, and those with labels whose files were touched since.

    Args:
        out: Folder of the run, whether it exists or not.
        frames: Hashes of the files of each clip, see :func:`~wrp.data.checking.file_hashes`.

    Returns:
        By clip name, the content hashes of its labelled frames, by index in the clip.
    """
    known = _hashes(recorded(out / "settings.json").get("frames")) if (out / "settings.json").is_file() else {}
    broken = broken_clips(out)
    touched = {clip for clip, found in frames.items() if clip in broken or known.get(clip) != found}
    labelled = labelled_frames(out) if touched else {}
    return {clip: labelled.get(clip, {}) for clip in touched if clip in broken or clip in labelled}


OTHERWISE = "choose another --out, or delete it to start again"
RESTORE = "restore what was changed to go on with that run, or choose another --out"

# What a run writes before it has any result.
_BEFORE_RESULTS = ("settings.json", "stages.json", "weights.json", CLASSES, BROKEN, "logs", TEMPORARY)


def forget_fruitless(out: Path, what: str) -> bool:
    """Delete the record of a run that has ended before it had any result, so that it refuses no corrected command.

    Args:
        out: Folder of the run, which is locked.
        what: What it holds that does not fit, for the log.

    Returns:
        Whether there was such a record, and nothing else.
    """
    names = set(names_in(out)) - {MARKER}
    if not names <= set(_BEFORE_RESULTS) or any((out / name).is_symlink() for name in names):
        return False
    if owner_of(out / TEMPORARY) == TEMPORARY:
        remove_temporary(out / TEMPORARY)
    logger.warning("%s; nothing was labelled or trained there yet, so this command replaces it", what)
    for name in names - {"logs", TEMPORARY}:
        place = out / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()
    return True


def recorded(path: Path) -> dict[str, Any]:
    """Read the settings that the files of a folder were made with.

    Args:
        path: The file of settings in that folder.

    Returns:
        The settings; empty if the folder is new.

    Raises:
        WrpError: If the file is damaged, or is missing although the folder contains results.
    """
    remedy = "restore it from a copy, or choose another --out"
    if path.is_file():
        return read_json(path, f"it records the settings of the files beside it: {remedy}")
    made = [name for name in names_in(path.parent) if name != MARKER]
    if made:
        raise WrpError(f"there is no {path}, which records the settings of {made[0]} beside it: {remedy}")
    return {}


class _Taken(WrpError):
    """A folder holds a run of something else: what it holds, and what to do, which the message joins."""

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


def _join(known: dict[str, str], hashes: dict[str, str]) -> tuple[dict[str, str], str | None]:
    """Merge recorded and new hashes by name, and return the first name at which they differ, if any."""
    differing = (name for name, found in hashes.items() if known.get(name, found) != found)
    return known | hashes, next(differing, None)


def _labels(recorded: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the labels of each clip that a run was begun with."""
    clips = recorded.get("labels")
    return {clip: _hashes(labels) for clip, labels in clips.items()} if isinstance(clips, dict) else {}


def _hashes(recorded: Any) -> dict[str, str]:
    """Return hashes by name as they were recorded; none if the record is of another kind."""
    return {name: str(found) for name, found in recorded.items()} if isinstance(recorded, dict) else {}


def _sizes(hashes: str) -> str:
    """Return the first of the hashes of a clip's files, that of their names and sizes."""
    return hashes.partition(" ")[0]


FREE = ("student", "run.on_error", "run.workers", "run.flow_cache", "run.shard", "run.limit")
"""Settings that may change between runs in one folder, because results do not depend on them."""
