"""The metrics.json of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wrp.data.index import ClipIndex
from wrp.errors import WrpError
from wrp.io.opening import read_json

METRICS_SCHEMA = 3


def read_metrics(index: ClipIndex, out: Path) -> dict[str, Any]:
    """Read the ``metrics.json`` of a finished run.

    Raises:
        WrpError: If labels of the run or ``metrics.json`` are missing, or ``metrics.json`` is damaged or of another
            version.
    """
    names = [Path(clip.name, f"{frame.stem}.png") for clip in index.clips for frame in clip.frames]
    missing = [out / "labels" / name for name in names if not (out / "labels" / name).is_file()]
    if missing:
        raise WrpError(
            f"{out} is not finished: {len(missing)} of {len(names)} labels are missing, the first is {missing[0]}; run "
            "the command that started it again"
        )
    path = out / "metrics.json"
    if not path.is_file():
        raise WrpError(
            f"there is no {path}: the labels are there, but have not been scored; run the command that made them again"
        )
    remedy = "delete it and run the command that made it again"
    metrics = read_json(path, remedy)
    if metrics.get("schema") != METRICS_SCHEMA:
        raise WrpError(
            f"{path} cannot be used (its schema is {metrics.get('schema')!r}, expected {METRICS_SCHEMA}); {remedy}"
        )
    if lacking := [
        key for key in ("settings", "overall", "clips", "seconds") if not isinstance(metrics.get(key), dict)
    ]:
        raise WrpError(f"{path} cannot be used (it lacks {lacking[0]}); {remedy}")
    return metrics
