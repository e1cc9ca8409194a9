"""The record in the folder of a run: what its files were made with, which is never mixed with anything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wrp.errors import WrpError
from wrp.io.opening import read_json
from wrp.io.writing import MARKER, checksum, make_folder, names_in, write_json
from wrp.options import flat
from wrp.runs.config import Settings


def claim_folder(settings: Settings, root: Path, labels: str, frames: dict[str, str]) -> None:
    """Record the settings in the output folder, and refuse a folder with results of other settings or labels.

    Results of different settings, labels or frames are never mixed in one folder.

    Args:
        settings: The settings.
        root: Resolved folder of the data set.
        labels: Hash of the labels that the run learns from.
        frames: Hash of the frames of each clip.

    Raises:
        WrpError: If a run with other settings, labels or frames was written there, or a folder there is a symbolic
            link.
    """
    out = Path(settings.out)
    for folder in out.iterdir():
        if folder.is_dir():
            make_folder(folder)
    path = out / "settings.json"
    given = {"teacher": settings.teacher, "refiner": settings.refiner}
    networks = {
        name: checksum(Path(f).read_bytes()) for name, f in given.items() if f is not None and Path(f).is_file()
    }
    mine = settings.as_json() | {"root": str(root.resolve()), "labels": labels}
    theirs = recorded(path)
    if path.is_file():
        before = dict(flat(theirs))
        for key, value in flat(mine):
            if key in _FREE or before.get(key) == value:
                continue
            if key == "labels":
                raise _taken(out, "a run whose labels have changed since: they were added, removed or edited")
            raise _taken(out, f"a run with {key}={before.get(key)!r}, got {value!r}")
    known, clip = _join(theirs.get("frames"), frames)
    if clip is not None:
        raise _taken(out, f"labels of clip {clip}, whose frames have changed since")
    used, network = _join(theirs.get("networks"), networks)
    if network is not None:
        raise _taken(out, f"a run with a {network} that differs from {given[network]}")
    write_json(path, mine | {"frames": known, "networks": used})


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


def _join(recorded: Any, hashes: dict[str, str]) -> tuple[dict[str, str], str | None]:
    """Merge recorded and new hashes by name, and return the first name at which they differ, if any."""
    known = recorded if isinstance(recorded, dict) else {}
    differing = (name for name, found in hashes.items() if known.get(name, found) != found)
    return known | hashes, next(differing, None)


# Settings that may change between runs in one folder, because results do not depend on them.
_FREE = ("student", "run.on_error", "run.workers", "run.flow_cache", "run.shard", "run.limit")
