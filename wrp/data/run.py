"""The data that a run was made from, as the record in its folder names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from wrp.data.index import ClipIndex, select_clips
from wrp.data.layouts.registry import open_index
from wrp.errors import WrpError, in_short
from wrp.io.opening import read_json
from wrp.options import SelectArgs


def open_run(out: Path) -> ClipIndex:
    """Index the clips of a run that was made before, without those that it has skipped.

    Args:
        out: Folder of the run.

    Raises:
        WrpError: If there is no run, its record is damaged, or its data are not there any more.
    """
    record = out / "settings.json"
    if not record.is_file():
        raise WrpError(f"there is no {record}: expected the output of `wrp autolabel`")
    kept, skipped = read_run_file(record), read_run_file(out / "metrics.json").get("skipped")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(_index)
    try:
        read = parser.parse_object({name: kept[name] for name in ("root", "layout", "split", "select") if name in kept})
    except Exception as error:  # jsonargparse's own, and what the values themselves refuse
        raise WrpError(f"{record} is damaged ({in_short(error)}); make the run again") from error
    index = _index(**vars(parser.instantiate(read)))
    return index.without(skipped if isinstance(skipped, dict) else ())


def _index(root: str, layout: str = "auto", split: str | None = None, select: SelectArgs | None = None) -> ClipIndex:
    return select_clips(open_index(root, layout, split), select or SelectArgs())


def read_run_file(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run, empty where it is not there; DataError if it is damaged."""
    return read_json(path, "make the run again") if path.is_file() else {}
