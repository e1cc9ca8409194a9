"""`wrp suggest`."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wrp.errors import WrpError

if TYPE_CHECKING:
    from wrp.data.index import ClipIndex
    from wrp.suggest.accepting import Accepted


def add(verbs: Any) -> None:
    """Add the command to the parser of `wrp`."""
    verb = verbs.add_parser(
        "suggest",
        help="suggest which frames of a run to label next",
        description="Rank the unlabelled frames of a run by how much a label there would reduce the expected error. "
        "Write DIR/suggest.txt, one CLIP/FRAME per line, and DIR/suggest.png: frame, labels and confidence of each. "
        "With --accept, say instead which frames and pixels need no review.",
    )
    verb.add_argument("out", metavar="DIR", help="folder of a finished run of autolabel")
    verb.add_argument("-n", type=int, default=5, help="number of frames to suggest (default: %(default)s)")
    verb.add_argument("--clips", help="names of clips, comma-separated (default: all of the run)")
    verb.add_argument(
        "--accept",
        type=float,
        metavar="P",
        help="list the frames that may be used unseen, as at least P of their pixels should be right, such as 0.95: "
        "writes DIR/accepted.txt, DIR/look-at.txt (the others, worst first) and DIR/accepted/CLIP/FRAME.png, a mask of "
        "the accepted pixels of each frame (255)",
    )
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
    from wrp.io.locking import added_to
    from wrp.options import SelectArgs

    if options.simulate and options.accept is not None:
        raise WrpError("--accept and --simulate are two things: give one of them")
    with added_to(Path(options.out)) as out:
        index = select_clips(open_run(out), SelectArgs(clips=options.clips))
        if options.accept is not None:
            _accept(index, out, options.accept)
        elif options.simulate:
            _simulate(index, out, options.n, options.flow_cache)
        else:
            _rank(index, out, options.n)


def _rank(index: ClipIndex, out: Path, count: int) -> None:
    from wrp.data.index import CLIP
    from wrp.io.outputs import SUGGESTED
    from wrp.io.writing import write_image, write_text
    from wrp.suggest.contact_sheet import draw_contact_sheet
    from wrp.suggest.suggestions import suggest, suggestion_table

    suggestions = suggest(index, out, count)
    write_image(out / "suggest.png", draw_contact_sheet(suggestions, index.label_map, out))
    write_text(out / SUGGESTED, "".join(f"{s.clip.name}/{s.stem}\n" for s in suggestions))
    print(suggestion_table(suggestions))
    print(f"frames: {out / SUGGESTED}\npictures: {out / 'suggest.png'}")
    example, first = "", suggestions[0] if suggestions else None
    if first is not None and index.layout in (CLIP, "folder"):
        name = first.stem if index.layout == CLIP else f"{first.clip.name}/{first.stem}"
        example = f", as {name}.png and so on"
    print(
        f"next: label these frames in {index.labels_go_to}{example}, then run `wrp autolabel` with another --out and "
        f"--continue {out}; `wrp export {out} --only suggested` takes them to other programs; if you use --keyframes "
        "FILE, add the lines of suggest.txt to FILE"
    )


def _accept(index: ClipIndex, out: Path, accept: float) -> None:
    from PIL import Image

    from wrp.io.progress import progress
    from wrp.io.writing import write_image, write_text
    from wrp.suggest.accepting import accept_labels, accepted_pixels

    found = accept_labels(index, out, accept)
    limits, names = found.limits, [*found.frames, *found.others]
    for name in progress(names, desc="Writing masks", unit="frame"):
        write_image(out / "accepted" / f"{name}.png", Image.fromarray(accepted_pixels(out, name, limits)).convert("L"))
    write_text(out / "accepted.txt", "".join(f"{name}\n" for name in found.frames))
    write_text(out / "look-at.txt", "".join(f"{name}\n" for name in found.others))
    count = f"{len(found.frames)} of {len(names)} frames ({100 * len(found.frames) / len(names):.1f} %)"
    print(_in_words(f"{count} and {100 * found.pixels:.1f} % of all pixels need no review", found, accept))
    print(f"frames: {out / 'accepted.txt'}\nothers, worst first: {out / 'look-at.txt'}\npixels: {out / 'accepted'}")


def _in_words(accepted: str, found: Accepted, accept: float) -> str:
    """Say in a sentence what is accepted, and whether that is guaranteed."""
    from wrp.suggest.accepting import least_labels

    limits, right, least = found.limits, f"at least {100 * accept:g} % of them should be right", least_labels(accept)
    held_out = f"{limits.held_out or 'no'} keyframe{'' if limits.held_out == 1 else 's'}"
    if limits.guaranteed:
        return (
            f"{accepted}: {right}, which is guaranteed for the pixels in the mean over frames like the {held_out} held "
            "out in turn"
        )
    if found.seen:
        every = found.seen + limits.held_out
        reason = (
            f"the networks have learned from {found.seen} of the {every} keyframes that were held out in turn to check "
            "it; a run by `--methods motion` has none"
        )
    elif limits.held_out < least:
        reason = f"{held_out} could be held out in turn to check it, and a guarantee needs {least}"
    else:
        reason = f"too many pixels of the {held_out} held out in turn to check it were wrong"
    return f"Without a guarantee, {accepted}: {right}, but {reason}"


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
