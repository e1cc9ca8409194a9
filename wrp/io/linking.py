"""Taking files of an earlier run into the folder of another one, as hard links or, where there are none, copies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from wrp.io.manifest import BEGUN, Entry, part_of, write_part
from wrp.io.writing import make_folder, replacing, sync_folder, write_content


def link_file(source: Path, path: Path) -> None:
    """Make ``path`` a hard link to a file, or a copy where the file system has no such links; replace what is there.

    Our own writers replace files, so that the other name of a linked file keeps the old content.

    Args:
        source: The file; if it is a symbolic link, its destination.
        path: The new name.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "0.bin").write_bytes(b"content")
        ...     link_file(Path(folder, "0.bin"), Path(folder, "new", "0.bin"))
        ...     Path(folder, "new", "0.bin").read_bytes()
        b'content'
    """
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.tmp")
    try:
        os.link(source.resolve(), temporary)
    except OSError:  # another disk, or too many links; what else is wrong, the copy reports
        with replacing(path, many=True) as copied:  # unlike what is linked to, a copy has still to reach the disk
            shutil.copyfile(source, copied)
        return
    try:
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # which replacing leaves if both are links to one file


def link_interval(source: Path, run: Path, entries: Sequence[Entry]) -> None:
    """Take the files of an interval from another run, and record it as written.

    Until then it counts as begun, so that what a stopped job leaves is not taken for corrections.

    Args:
        source: Folder of the other run.
        run: Folder of this run.
        entries: The frames of the interval, as they are recorded there.
    """
    part = part_of(run, entries[0].clip, entries[0].index)
    write_content(part.with_suffix(BEGUN), b"")
    folders = set()
    for entry in entries:
        for path in entry.files(source):
            place = run / path.relative_to(source)
            link_file(path, place)
            folders.add(place.parent)
    for folder in sorted(folders):
        sync_folder(folder)
    write_part(part, entries)
