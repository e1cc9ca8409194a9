"""Where networks lie: in files, in the folder of a run, or in that of a published model; loads no torch."""

from __future__ import annotations

from pathlib import Path

from wrp.errors import WrpError
from wrp.io.outputs import MODEL, RUN, owner_of

UNFINISHED = "-unfinished"
"""End of the name of a checkpoint of a training that has not ended, before its suffix."""

PUBLISHED = "model.safetensors"
"""Name of the weights in the folder of a published model."""


def require_checkpoint(path: Path) -> None:
    """Raise WrpError if there is no such file.

    Example:
        >>> require_checkpoint(Path("no-such-folder", "teacher.ckpt"))
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: there is no checkpoint no-such-folder/teacher.ckpt
    """
    if not path.is_file():
        raise WrpError(f"there is no checkpoint {path}")


def require_network(path: Path) -> None:
    """Raise WrpError if there is no such file, or it is of a training that has not ended.

    Example:
        >>> require_network(Path("teacher-unfinished.ckpt"))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        wrp.errors.WrpError: teacher-unfinished.ckpt is of a training that has not ended; run that command again ...
    """
    if path.stem.endswith(UNFINISHED):
        raise WrpError(f"{path} is of a training that has not ended; run that command again to finish it")
    require_checkpoint(path)


def network_in(path: Path) -> Path:
    """Return the checkpoint of a run's student if ``path`` is its folder, else of its teacher; a file as it is.

    Of the folder of a published model, it is its weights.

    Raises:
        WrpError: If there is no such file, the folder is not that of a run, or the run has no such network, or several
            students.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "student.ckpt").touch()
        ...     network_in(Path(folder, "student.ckpt")).name
        'student.ckpt'
    """
    if not path.is_dir():
        require_checkpoint(path)
        return path
    if (path / PUBLISHED).is_file() and owner_of(path) in (None, MODEL):  # None: a copy from a hub
        return path / PUBLISHED
    if owner_of(path) != RUN:
        raise WrpError(
            f"{path} is no folder of a run of `wrp autolabel`, nor of a published model; expected one, or a checkpoint "
            "file"
        )
    if (plain := path / "student.ckpt").is_file():
        return plain
    students = sorted(found for found in path.glob("student-*.ckpt") if not found.stem.endswith(UNFINISHED))
    if len(students) > 1:
        raise WrpError(f"{path} holds several students, {', '.join(found.name for found in students)}; name one")
    network = students[0] if students else path / "teacher.ckpt"
    if not network.is_file():
        raise WrpError(
            f"{path} holds no student and no teacher: its labels were made without a network of its own; run the same "
            "command with --student, or name a checkpoint"
        )
    return network
