"""`wrp suggest`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wrp.data.index import ClipIndex


def add(verbs: Any) -> None:
    """Add the command to the parser."""
    verb = verbs.add_parser(
        "suggest",
        help="say which frames of a run to label next",
        description="Rank the unlabelled frames of a run by what a label there would gain, and write DIR/suggest.txt, "
        "lines CLIP/FRAME, and DIR/suggest.png: frame, labels and confidence of each.",
    )
    verb.add_argument("out", metavar="DIR", help="folder of a finished run of autolabel")
    verb.add_argument("-n", type=int, default=5, help="how many frames can be labelled (default: %(default)s)")
    verb.add_argument("--clips", help="names of clips, comma-separated (default: all of the run)")
    verb.add_argument(
        "--simulate",
        action="store_true",
        help="where labels were hidden: add 1 … n of them as suggested, evenly spaced and at random, propagate again "
        "by motion, and compare mIoU; writes DIR/suggest-simulated.json",
    )
    verb.add_argument(
        "--flow-cache", metavar="DIR", help="of --simulate: optical flow of an earlier run, as of autolabel"
    )
    verb.set_defaults(run=_suggest)


def _suggest(options: argparse.Namespace) -> None:
    from wrp.data.index import select_clips
    from wrp.data.run import open_run
    from wrp.io.folders import require_run
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
    from wrp.suggest.ranking import suggest, suggestion_table

    suggestions = suggest(index, out, count)
    write_image(out / "suggest.png", draw_contact_sheet(suggestions, index.label_map, out))
    write_text(out / "suggest.txt", "".join(f"{s.clip.name}/{s.stem}\n" for s in suggestions))
    print(suggestion_table(suggestions))
    print(f"frames: {out / 'suggest.txt'}\npictures: {out / 'suggest.png'}")
    print(
        f"next: label these frames in {index.root}, then run `wrp autolabel` with another --out; a list for "
        "--keyframes needs these lines besides the old ones"
    )


def _simulate(index: ClipIndex, out: Path, count: int, flow_cache: str | None) -> None:
    from wrp.flow.cache import FlowCache
    from wrp.flow.dis import DIS
    from wrp.io.folders import FLOW, check_output
    from wrp.io.writing import write_json
    from wrp.propagation.module import PropagationModule
    from wrp.runs.simulate import Replay, curve_table, curves

    if flow_cache is not None:
        reads = {*index.reads, (out / "labels").resolve()}
        flow_cache = str(check_output(Path(flow_cache), FLOW, reads, "--flow-cache"))
    # In a folder, flow outlives its clip: the replay comes back to each.
    with tempfile.TemporaryDirectory(prefix="wrp-flow-") as folder:
        flow = FlowCache(DIS(), flow_cache or folder)
        result = curves(Replay(index, PropagationModule(index.label_map.num_classes, ["motion"], flow=flow)), count)
    write_json(out / "suggest-simulated.json", result)
    print(curve_table(result))
    print(f"curves: {out / 'suggest-simulate.json'}")
