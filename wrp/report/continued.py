"""What the report says about a run that continues an earlier one: what has changed since."""

from __future__ import annotations

from typing import Any

from wrp.errors import listed
from wrp.io.tables import Table

# Names of keyframes or clips in a list; all are counted.
NAMED = 12


def continued_lines(metrics: dict[str, Any]) -> list[str]:
    """Return sentences on what has changed since the run that is continued; none if there is none.

    Args:
        metrics: The content of ``metrics.json``.

    Example:
        >>> keyframes = {"changed": ["street/000012"], "added": [], "removed": []}
        >>> found = {"from": "runs/a", "steps": 0, "keyframes": keyframes, "intervals": {"all": 50, "kept": 48}}
        >>> for line in continued_lines({"continued": found}):
        ...     print(line)
        This run continues runs/a.
        Keyframes that are changed: street/000012.
        48 of 50 intervals were taken over, 2 were labelled again, with networks and calibration as they were.
        >>> continued_lines({"continued": found | {"networks": False}})[2]
        '48 of 50 intervals were taken over, 2 were labelled again, with the calibration as it was.'
    """
    found = metrics.get("continued")
    if not found:
        return []
    lines = [f"This run continues {found['from']}."]
    lines += [
        f"Keyframes that are {what}: {listed(names, NAMED)}." for what, names in found["keyframes"].items() if names
    ]
    if not any(found["keyframes"].values()):
        lines.append("No keyframe has changed.")
    for what, names in found.get("clips", {}).items():
        if names:
            lines.append(f"Clips that are {'new' if what == 'new' else 'changed'}: {listed(names, NAMED)}.")
    number, kept = found["intervals"]["all"], found["intervals"]["kept"]
    networks, calibrated = found.get("networks", True), found.get("calibrated")
    how = "with networks and calibration as they were" if networks else "with the calibration as it was"
    if calibrated:
        how = "with networks as they were and another calibration" if networks else "with another calibration"
    if found["steps"]:
        how = f"with networks that were trained on for {found['steps']} steps"
    lines.append(f"{kept} of {number} intervals were taken over, {number - kept} were labelled again, {how}.")
    if labels := found.get("labels"):
        mean = f", on average in {labels['pixels']} % of their pixels" if labels["frames"] else ""
        lines.append(f"The labels of {labels['frames']} frames differ from before{mean}.")
    return lines


def changed_rows(metrics: dict[str, Any]) -> Table | None:
    """Return a row for each of the frames whose labels have changed most; None if there are none.

    Example:
        >>> changed_rows({"continued": {"labels": {"frames": 1, "pixels": 2.5, "most": [["street/000012", 2.5]]}}})
        (['frame', 'changed pixels, %'], [['street/000012', '2.50']])
    """
    most = metrics.get("continued", {}).get("labels", {}).get("most", [])
    rows = [[name, f"{pixels:.2f}"] for name, pixels in most]
    return (["frame", "changed pixels, %"], rows) if rows else None
