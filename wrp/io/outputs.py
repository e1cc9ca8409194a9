"""Rules for output: a folder is empty or of this package, and it neither contains nor lies in a folder that is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

from wrp.errors import WrpError
from wrp.io.writing import MARKER, follow_links, names_in, require_writable, write_json

RUN, LABELS, SELFTRAIN, SEARCH = "run", "labels", "selftrain", "search"
FLOW, EXAMPLES, SCENE, PREDICTIONS, MODEL = "flow", "examples", "scene", "predictions", "model"
"""Kinds of folders: of autolabel, LabelWriter, selftrain, search, cached flow and examples, generated clips,
predict-images, and of a model to publish."""

WRITTEN = ("labels", "methods", "confidence", "provenance", "manifest.parts", "report", "accepted", "audit")
"""Folders of a run, each with files of one kind."""

CONTINUED = "continued.json"
"""File of a run that records what it has taken over from another one; until then, nothing else is made."""

SUGGESTED = "suggest.txt"
"""File of a run that lists the frames to label next, best first, in lines ``<clip>/<frame>``."""

TEMPORARY = "wrp-temporary"
"""Kind of a folder inside an output folder that is deleted once it is not needed any more."""


def check_output(folder: Path, kind: str, reads: Iterable[Path] = (), option: str = "--out") -> Path:
    """Refuse an output folder if writing to it could harm other files; nothing is changed.

    Args:
        folder: The folder, existing or not; links that lead to it are followed, once, and the destination is logged.
        kind: Kind of the output; a folder belongs to one kind.
        reads: Folders that files are read from, with links resolved.
        option: The option by which the user named the folder, for the message.

    Returns:
        The folder, without links on the way to it.

    Raises:
        WrpError: If it is a file, is not writable, holds what this kind has not written, or is at, in or above a folder
            that is read from.
    """
    given, folder = folder, follow_links(folder)
    if folder.exists() and not folder.is_dir():
        raise WrpError(f"{option} {given} is a file, expected a folder")
    _refuse_reads(folder.resolve(), reads, f"{option} {given}")
    if kind not in (FLOW, EXAMPLES, LABELS) and any(
        owner_of(parent) == TEMPORARY for parent in folder.absolute().parents
    ):
        raise WrpError(f"{option} {given} is in a folder of temporary data, which is deleted; choose another folder")
    require_writable(folder)
    if folder.is_dir() and owner_of(folder) != kind:
        others = names_in(folder)
        owner = owner_of(folder)  # once more: another job may have claimed it meanwhile
        if owner not in (None, kind):
            raise WrpError(f"{option} {given} was made by `wrp` for something else ({owner}); choose another folder")
        if others and owner is None:
            raise WrpError(
                f"{option} {given} holds files that this version of wrp has not written there ({others[0]}); choose an "
                "empty folder, or a new one"
            )
    return folder


def claim(folder: Path, kind: str, reads: Iterable[Path] = (), option: str = "--out") -> Path:
    """Check a folder as :func:`check_output` does, create it, and mark it as one of this kind."""
    folder = check_output(folder, kind, reads, option)
    if owner_of(folder) is None:
        write_json(folder / MARKER, {"wrp": kind, "version": version("wrp")})
    return folder


def check_place(folder: Path, reads: Iterable[Path], option: str) -> None:
    """Raise WrpError if a folder that another program writes to is, or is in, one that is read from."""
    place = folder.resolve()
    _refuse_reads(place, [read for read in reads if place not in read.parents], f"{option} {folder}")


def check_file(path: Path, is_ours: Callable[[Path], bool], reads: Iterable[Path] = (), option: str = "--out") -> Path:
    """Refuse an output file where another file exists that this command has not written.

    Args:
        path: The file; links on the way to its folder are followed.
        is_ours: Tells whether an existing file was written by the same command.
        reads: Folders and files that are read.
        option: The option by which the user named the file, for the message.

    Returns:
        The file, without links on the way to it.

    Raises:
        WrpError: If it is a folder, is read, lies in a folder that is read from, or exists and ``is_ours`` is false for
            it.
    """
    if path.is_dir():
        raise WrpError(f"{option} {path} is a folder, expected the name of a file")
    _refuse_reads(path.resolve(), reads, f"{option} {path}")
    if (path.is_symlink() or path.exists()) and not is_ours(path):
        raise WrpError(f"{option} {path} is there already, and was not written by this command; choose another name")
    return follow_links(path.parent) / path.name


def owner_of(folder: Path) -> str | None:
    """Return the kind that has claimed a folder, or None."""
    try:
        content = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kind = content.get("wrp") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else None


def require_run(folder: Path) -> Path:
    """Return the folder of a run to add to, without links on the way to it; raise WrpError if it is not one."""
    folder = follow_links(folder)
    if owner_of(folder) != RUN:
        raise WrpError(
            f"there is no {folder / MARKER} of a run: expected the output of `wrp autolabel` of this version"
        )
    return folder


def method_folder(out: Path, method: str) -> Path:
    """Return the folder for the labels of a method that is not the last one; ``:`` is replaced in its name."""
    return out / "methods" / method.replace(":", "-")


def remove_temporary(folder: Path) -> None:
    """Delete a folder if it was claimed as temporary."""
    if owner_of(folder) == TEMPORARY and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_reads(path: Path, reads: Iterable[Path], named: str) -> None:
    for read in reads:
        if read in (path, *path.parents) or path in read.parents:
            where = "is" if path == read else "is in" if read in path.parents else "holds"
            what = "a frame or a label that is read" if where == "holds" and read.is_file() else "which is read from"
            raise WrpError(f"{named} {where} {read}, {what}; choose another")
