"""Which frames of a run are exported: all, those that were corrected or changed, suggested ones, or keyframes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wrp.data.index import FrameNames, read_list
from wrp.data.run import read_run_file
from wrp.errors import DataError, WrpError, check_choice
from wrp.io.manifest import Entry, read_manifest
from wrp.io.opening import read_content
from wrp.io.outputs import CONTINUED, SUGGESTED
from wrp.io.writing import checksum

ONLY = ("changed", "suggested", "keyframes")


def choose(run: Path, entries: Sequence[Entry], only: str | None) -> list[Entry]:
    """Return the frames of a run to export.

    Args:
        run: Folder of the run.
        entries: Its frames.
        only: ``changed``: the frames whose label in the run's folder is not the one that the run wrote there, and, in a
            run that continues another one, those whose label differs from that one's; ``suggested``: those in the list
            of `wrp suggest`; ``keyframes``: those whose label was given; None: all.

    Raises:
        WrpError: If there is no such choice, no such frame, no list of suggestions, or the run that is continued is
            gone.

    Example:
        >>> choose(Path("out"), [], None)
        []
    """
    if only is None:
        return list(entries)
    check_choice("value of --only", only, ONLY)
    chosen = {"changed": _changed, "suggested": _suggested, "keyframes": _keyframes}[only](run, entries)
    if not chosen:
        none = {
            "changed": "no label has changed since the run wrote it, or since the run that it continues",
            "suggested": f"{run / SUGGESTED} names no frame of it",
            "keyframes": "no frame of it was given a label",
        }
        raise WrpError(f"--only {only} leaves no frame of {run}: {none[only]}")
    return chosen


def _keyframes(run: Path, entries: Sequence[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry.method == "keyframe"]


def _suggested(run: Path, entries: Sequence[Entry]) -> list[Entry]:
    if not (run / SUGGESTED).is_file():
        raise WrpError(f"--only suggested: there is no {run / SUGGESTED}; run `wrp suggest {run}` first")
    names = FrameNames(f"{entry.clip}/{entry.frame}" for entry in entries)
    listed = {names.find(line) for line in read_list(run / SUGGESTED)}
    return [entry for entry in entries if f"{entry.clip}/{entry.frame}" in listed]


def _changed(run: Path, entries: Sequence[Entry]) -> list[Entry]:
    earlier = read_run_file(run / CONTINUED).get("from")
    try:
        before = {(e.clip, e.frame): e.checksums.get("labels") for e in read_manifest(Path(earlier))} if earlier else {}
    except DataError as error:
        raise DataError(f"--only changed needs the run that {run} continues: {error}") from error

    def is_changed(entry: Entry) -> bool:
        written = entry.checksums.get("labels")
        if earlier and before.get((entry.clip, entry.frame)) != written:
            return True
        return written is not None and checksum(read_content(run / entry.label)) != written

    return [entry for entry in entries if is_changed(entry)]
