"""`wrp suggest`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wrp.data.index import ClipIndex


def add(verbs: Any) -> None:
    """Add the command to the parser of `wrp`."""
    verb = verbs.add_parser(
        "suggest",
        help="suggest which frames of a run to label next",
        description="Rank the unlabelled frames of a run by how much a label there would reduce the expected error. "
        "Write DIR/suggest.txt, one CLIP/FRAME per line, and DIR/suggest.png: frame, labels and confidence of each.",
    )
    verb.add_argument("out", metavar="DIR", help="folder of a finished run of autolabel")
    verb.add_argument("-n", type=int, default=5, help="number of frames to suggest (default: %(default)s)")
    verb.add_argument("--clips", help="names of clips, comma-separated (default: all of the run)")
    verb.add_argument(
        "--simulate",
        action="store_true",
        help="for runs with held-out labels: add 1 … n of these labels as suggested, evenly spaced and at random, "
        "propagate by motion each time, and compare mIoU; writes DIR/suggest-simulated.json",
    )
    verb.add_argument(
        "--flow-cache", metavar="DIR", help="with --simulate: folder of cached optical flow, as for autolabel"
    )
    verb.set_defaults(run=_suggest)


def _suggest(options: argparse.Namespace) -> None:
    from wrp.data.index import select_clips
    from wrp.data.run import open_run
    from wrp.io.outputs import require_run
    from wrp.options import SelectArgs

    out = require_run(Path(options.out))
    index = select_clips(open_run(out), SelectArgs(clips=options.clips))
    if options.simulate:
        _simulate(index, out, options.n, options.flow_cache)
    else:
        _rank(index, out, options.n)


def _rank(index: ClipIndex, out: Path, count: int) -> None:
    from wrp.io.writing import write_image, write_text
    from wrp.suggest.contact_sheet import draw_contact_sheet
    from wrp.suggest.suggestions import suggest, suggestion_table

    suggestions = suggest(index, out, count)
    write_image(out / "suggest.png", draw_contact_sheet(suggestions, index.label_map, out))
    write_text(out / "suggest.txt", "".join(f"{s.clip.name}/{s.stem}\n" for s in suggestions))
    print(suggestion_table(suggestions))
    print(f"frames: {out / 'suggest.txt'}\npictures: {out / 'suggest.png'}")
    print(
        f"next: label these frames in {index.root}, then run `wrp autolabel` with another --out; if you use "
        "--keyframes FILE, add the lines of suggest.txt to FILE"
    )


def _simulate(index: ClipIndex, out: Path, count: int, flow_cache: str | None) -> None:
    from wrp.flow.cache import FlowCache
    from wrp.flow.dis import DIS
    from wrp.io.outputs import FLOW, check_output
    from wrp.io.writing import write_json
    from wrp.propagation.module import PropagationModule
    from wrp.runs.simulate import Replay, curve_table, curves

    if flow_cache is not None:
        reads = {*index.reads, (out / "labels").resolve()}
        flow_cache = str(check_output(Path(flow_cache), FLOW, reads, "--flow-cache"))
    # In a folder, because flow in memory is dropped after each clip, and the simulation needs every clip repeatedly.
    with tempfile.TemporaryDirectory(prefix="wrp-flow-") as folder:
        flow = FlowCache(DIS(), flow_cache or folder)
        result = curves(Replay(index, PropagationModule(index.label_map.num_classes, ["motion"], flow=flow)), count)
    write_json(out / "suggest-simulated.json", result)
    print(curve_table(result))
    print(f"curves: {out / 'suggest-simulated.json'}")
