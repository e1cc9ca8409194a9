"""Measure whether what `wrp suggest --accept` accepts is right: finished runs against the labels held out from them.

For each ratio asked for: how much is accepted, and how much of that is right, in percent; first of whole frames, then
of single pixels, with a star where the run's own keyframes guarantee it. Frames without a held-out label do not count.

    python experiments/suggest/accept.py runs/camvid-10 runs/vocalfolds-6
    python experiments/suggest/accept.py --motion camvid:10 domains/vocalfolds:3 domains/em:3 domains/chair:10
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from wrp.data.index import ClipIndex, select_clips
from wrp.data.layouts.registry import open_index
from wrp.io.images import read_frame_label, read_label
from wrp.io.opening import read_json
from wrp.io.tables import markdown_table
from wrp.options import SelectArgs
from wrp.runs.autolabel import autolabel
from wrp.runs.config import RunArgs, Settings
from wrp.structures import IGNORE_INDEX
from wrp.suggest.accepting import accept_labels, accepted_pixels

ASKED = (0.95, 0.98, 0.99)


def accepted(index: ClipIndex, out: Path, asked: float) -> dict[str, Any]:
    """Compare what is accepted of a run with the labels held out from it.

    Args:
        index: The clips, as the run selected them.
        out: Folder of the run.
        asked: The ratio of right pixels that is asked for.

    Returns:
        In percent: ``frames`` and ``pixels`` that are accepted, and ``right_frames`` and ``right_pixels``, how much of
        those is right, None where nothing is accepted; ``held_out``, the number of keyframes that were held out in
        turn, and ``guaranteed``.
    """
    found = accept_labels(index, out, asked)
    names = {f"{clip.name}/{clip.frames[i].stem}": clip.frames[i] for clip in index.clips for i in clip.held_out}
    frames = every = of_frames = of_pixels = right_frames = right_pixels = 0
    for name, frame in names.items():
        truth = read_frame_label(frame, index.label_map).numpy()
        label = read_label(out / "labels" / f"{name}.png", index.label_map.written).numpy()
        known = (truth != IGNORE_INDEX) & (label != IGNORE_INDEX)
        right, mask = known & (label == truth), known & accepted_pixels(out, name, found.limits)
        every += known.sum()
        of_pixels, right_pixels = of_pixels + mask.sum(), right_pixels + (right & mask).sum()
        if name in found.frames:
            frames += 1
            of_frames, right_frames = of_frames + known.sum(), right_frames + right.sum()
    return {
        "frames": _percent(frames, len(names)),
        "right_frames": _percent(right_frames, of_frames),
        "pixels": _percent(of_pixels, every),
        "right_pixels": _percent(right_pixels, of_pixels),
        "held_out": found.limits.held_out,
        "guaranteed": found.limits.guaranteed,
    }


def _percent(part: int, whole: int) -> float | None:
    return round(100 * float(part) / float(whole), 2) if whole else None


def shown(found: dict[str, Any]) -> tuple[str, str]:
    """Format what :func:`accepted` returns: of frames, and of pixels."""
    right = [found["right_frames"], found["right_pixels"]]
    frames, pixels = ("–" if one is None else f"{one:.1f}" for one in right)
    star = " *" if found["guaranteed"] else ""
    return f"{found['frames']:.0f}, {frames}", f"{found['pixels']:.0f}, {pixels}{star}"


def row_of(name: str, out: Path) -> list[str]:
    """Return the row of a run."""
    settings = read_json(out / "settings.json", "")
    select = SelectArgs(
        **{key: settings["select"][key] for key in ("clips", "label_every", "label_offset", "keyframes")}
    )
    index = select_clips(open_index(settings["root"], settings["layout"], settings["split"]), select)
    found = [accepted(index, out, asked) for asked in ASKED]
    return [name, str(found[0]["held_out"]), *(cell for one in found for cell in shown(one))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="finished runs with held-out labels")
    parser.add_argument("--motion", nargs="*", default=[], help="data set and spacing, ROOT:K, to label by motion")
    parser.add_argument("--flow", default="dis-fast", help="a preset of wrp.flow, for --motion")
    options = parser.parse_args()
    rows = [row_of(run.name, run) for run in options.runs]
    for one in options.motion:
        root, every = one.rsplit(":", 1)
        with tempfile.TemporaryDirectory() as folder:
            out, select = Path(folder, "run"), SelectArgs(label_every=int(every))
            autolabel(Settings(root, str(out), select=select, methods="motion", run=RunArgs(flow=options.flow)))
            rows.append(row_of(f"{root}, K={every}", out))
        print(rows[-1], flush=True)
    header = [f"{kind}, {asked}" for asked in ASKED for kind in ("frames", "pixels")]
    print(markdown_table(["accepted %, right %", "held out", *header], rows))


if __name__ == "__main__":
    main()
