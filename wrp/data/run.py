"""Reopening the data of a run, from the record in its folder."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from wrp.data.index import ClipIndex, select_clips
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError, WrpError, in_short
from wrp.io.label_map import read_label_map
from wrp.io.opening import read_json
from wrp.options import SelectArgs
from wrp.structures import LabelMap

CLASSES = "classes.yaml"
"""File of a run that holds its classes, whatever the data say of theirs later."""


def open_run(out: Path, by_network: bool = False) -> ClipIndex:
    """Index the clips of an earlier run, without those that it skipped.

    Args:
        out: Folder of the run.
        by_network: Whether clips without any label are used, too, which a network alone has labelled.

    Returns:
        The clips, with labels held out as in the run.

    Raises:
        WrpError: If there is no run, its record is damaged, its data are no longer there, or a clip has no label.
    """
    record = out / "settings.json"
    if not record.is_file():
        raise WrpError(f"there is no {record}: expected the output of `wrp autolabel`")
    kept, skipped = read_run_file(record), read_run_file(out / "metrics.json").get("skipped")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(_index, skip={"classes", "by_network"})
    try:
        read = parser.parse_object({name: kept[name] for name in ("root", "layout", "split", "select") if name in kept})
    except Exception as error:  # jsonargparse's own, and what the values themselves refuse
        named = re.match(r'Parser key "(\w+)', str(error))
        what = f"its {named[1]} is {kept[named[1]]!r:.200}" if named else in_short(error)
        raise WrpError(f"{record} is damaged ({what}); make the run again") from error
    classes = read_label_map(out / CLASSES) if (out / CLASSES).is_file() else None
    index = keep_classes(_index(**vars(parser.instantiate(read)), classes=classes, by_network=by_network), out)
    index = index.without(skipped if isinstance(skipped, dict) else ())
    for clip, problem in index.broken.items():
        if not isinstance(skipped, dict) or clip not in skipped:
            raise DataError(problem)
    return index


def keep_classes(index: ClipIndex, out: Path) -> ClipIndex:
    """Return clips with the classes that a run has recorded, if it has; labels of theirs are still read as they were.

    Args:
        index: The clips, with the classes that the data have now.
        out: Folder of the run.

    Raises:
        DataError: If the record is damaged.
    """
    if not (out / CLASSES).is_file():
        return index
    own, data = read_label_map(out / CLASSES), index.label_map
    taken = {*own.ids}
    label_map = replace(
        data,
        ids=own.ids,
        names=own.names,
        colors=own.colors,
        ignore=tuple(value for value in data.ignore if value not in taken),
        aliases=tuple(pair for pair in data.aliases if pair[1] in taken and pair[0] not in taken),
        more_colors=tuple(pair for pair in data.more_colors if pair[1] in taken),
    )
    return replace(index, label_map=label_map)


def _index(
    root: str,
    layout: str = "auto",
    split: str | None = None,
    select: SelectArgs | None = None,
    classes: LabelMap | None = None,
    by_network: bool = False,
) -> ClipIndex:
    select = select or SelectArgs()
    index = open_index(root, layout, split, classes=classes, labels=select.labels, skip=True)
    return select_clips(index, select, by_network, skip=True)


def read_run_file(path: Path) -> dict[str, Any]:
    """Read a JSON file of a run; return {} if there is none, and raise DataError if it is damaged."""
    return read_json(path, "make the run again") if path.is_file() else {}
