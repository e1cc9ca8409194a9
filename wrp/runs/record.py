"""The record in the folder of a run: what its files were made with, which is never mixed with anything else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wrp.data.checking import Checked
from wrp.errors import WrpError
from wrp.io.locking import in_turn
from wrp.io.manifest import broken_clips, forget_broken, labelled_frames, note_broken
from wrp.io.opening import read_json
from wrp.io.writing import MARKER, checksum, make_folder, names_in, write_json
from wrp.options import flat
from wrp.runs.config import Settings
from wrp.runs.trainer import decisive


def claim_folder(
    settings: Settings, root: Path, labels: str, frames: Mapping[str, str], checked: Checked | None = None
) -> None:
    """Record the settings in the output folder, and refuse a folder with results of other settings or labels.

    Results of different settings, labels or frames are never mixed in one folder. Frames have changed if their files
    have other names or sizes than the record says, or if one that is labelled has another content. A clip that is noted
    as broken is meant to get other files.

    Args:
        settings: The settings.
        root: Resolved folder of the data set.
        labels: Hash of the labels that the run learns from.
        frames: Hashes of the files of each clip, see :func:`~wrp.data.checking.file_hashes`.
        checked: What was found in the clips that this job reads, those of :func:`decoded_clips` among them; None: it
            reads none.

    Raises:
        WrpError: If a run with other settings, labels or frames was written there, or a folder there is a symbolic
            link.
    """
    out = Path(settings.out)
    with in_turn(out):  # jobs that share the run start at once, and each adds to the record
        _claim_folder(settings, root, labels, frames, checked or Checked([]), out)


def _claim_folder(
    settings: Settings, root: Path, labels: str, frames: Mapping[str, str], checked: Checked, out: Path
) -> None:
    for folder in out.iterdir():
        if folder.is_dir():
            make_folder(folder)
    path = out / "settings.json"
    given = {"teacher": settings.teacher, "refiner": settings.refiner}
    networks = {
        name: checksum(Path(f).read_bytes()) for name, f in given.items() if f is not None and Path(f).is_file()
    }
    mine = settings.as_json() | {"root": str(root.resolve()), "labels": labels}
    mine["run"]["trainer"] = decisive(settings.run.trainer)
    theirs = recorded(path)
    if path.is_file():
        before = dict(flat(theirs))
        for key, value in flat(mine):
            if key in _FREE or before.get(key) == value:
                continue
            if key == "labels":
                raise _taken(out, "a run whose labels have changed since: they were added, removed or edited")
            raise _taken(out, f"a run with {key}={before.get(key)!r}, got {value!r}")
    known, broken = _hashes(theirs.get("frames")), broken_clips(out)
    sizes = {clip: _sizes(found) for clip, found in known.items() if clip not in broken}
    _, other = _join(sizes, {clip: _sizes(found) for clip, found in frames.items()})
    if other is not None or checked.changed:
        raise _taken(out, f"labels of clip {other or checked.changed[0]}, whose frames have changed since")
    used, network = _join(_hashes(theirs.get("networks")), networks)
    if network is not None:
        raise _taken(out, f"a run with a {network} that differs from {given[network]}")
    known = {**frames, **known, **{clip: frames[clip] for clip in checked.clips}}
    write_json(path, mine | {"frames": known, "networks": used})
    for clip in set(broken).intersection(checked.clips):
        forget_broken(out, clip)
    for clip, problem in checked.broken.items():
        note_broken(out, clip, problem)


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


def _taken(out: Path, what: str) -> WrpError:
    return WrpError(f"{out} holds {what}; choose another --out, or delete it to start again")


def _join(known: dict[str, str], hashes: dict[str, str]) -> tuple[dict[str, str], str | None]:
    """Merge recorded and new hashes by name, and return the first name at which they differ, if any."""
    differing = (name for name, found in hashes.items() if known.get(name, found) != found)
    return known | hashes, next(differing, None)


def _hashes(recorded: Any) -> dict[str, str]:
    """Return hashes by name as they were recorded; none if the record is of another kind."""
    return {name: str(found) for name, found in recorded.items()} if isinstance(recorded, dict) else {}


def _sizes(hashes: str) -> str:
    """Return the first of the hashes of a clip's files, that of their names and sizes."""
    return hashes.partition(" ")[0]


# Settings that may change between runs in one folder, because results do not depend on them.
_FREE = ("student", "run.on_error", "run.workers", "run.flow_cache", "run.shard", "run.limit")
