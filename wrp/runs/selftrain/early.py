"""What a semi-supervised system looks at before torch is imported, which takes seconds."""

from __future__ import annotations

import os
from pathlib import Path

from wrp.data.index import files_of, folders_of
from wrp.data.layouts.registry import find_folder
from wrp.data.lists import find_images, label_map_of, read_lines
from wrp.errors import DataError, WrpError
from wrp.io.networks import require_network
from wrp.io.outputs import SELFTRAIN, check_output
from wrp.runs.early import STARTED
from wrp.runs.selftrain.config import SelfTraining
from wrp.structures import Frame

# Lines of each list whose images are looked for: a mistake in the layout or in the kind of lines is in all of them.
FIRST = 4


def check_early(settings: SelfTraining) -> None:
    """Look for the data set, its classes, and the first images of the lists, in the first process of a run alone.

    Raises:
        WrpError: If one of them is not there; all other images are looked for by the run itself.
    """
    if any(name in os.environ for name in STARTED):
        return
    root = find_folder(settings.root)
    label_map_of(root, settings.layout)
    if settings.supervised is not None:
        require_network(Path(settings.supervised))
    lists, found = settings.lists, list[Frame]()
    for path, labelled in ((lists.labelled, True), (lists.unlabelled, False), (lists.val, True)):
        lines = read_lines(Path(path))
        if not lines:
            raise WrpError(f"{path} lists no images; list at least one")
        try:
            found += find_images(root, settings.layout, lines[:FIRST], labelled)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    check_output(Path(settings.out), SELFTRAIN, folders_of(files_of(found), root))
