"""Compare ways to combine the refiner's answer with its inputs: mIoU and calibration error.

python experiments/camvid/refiner/readout.py camvid --every 50 --teacher T.ckpt --refiner R.ckpt
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from wrp import PropagationModule
from wrp.data.index import select_clips
from wrp.data.items import IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.geometry.consistency import to_unit
from wrp.io.tables import markdown_table
from wrp.options import SelectArgs
from wrp.propagation.methods import METHODS
from wrp.propagation.methods.base import Context, PropagationMethod, QueryFrame
from wrp.propagation.methods.refine import Refine
from wrp.refinement.network import refiner_input, stack_inputs
from wrp.structures import RefinerInput

Readout = Callable[[Tensor, Tensor, RefinerInput], Tensor]

# Each maps the answers for the frame and for its mirror image, as probabilities, and the inputs to something
# proportional to probabilities.
READOUTS: dict[str, Readout] = {
    "answer alone": lambda answer, *_: answer,
    "with inpainted": lambda answer, _, given: answer + given.prior,
    "with motion": lambda answer, _, given: answer + given.motion,
    "with both": lambda answer, _, given: answer + (given.prior + given.motion) / 2,
    "product with motion": lambda answer, _, given: answer * (given.motion + 0.03).sqrt(),
    "answers to both images": lambda answer, mirrored, _: answer + mirrored,
    "the same with both": lambda answer, mirrored, given: answer + mirrored + given.prior + given.motion,
    "the same with motion": lambda answer, mirrored, given: answer + mirrored + given.motion,
    "the same with half of both (default)": lambda answer, mirrored, given: (
        answer + mirrored + (given.prior + given.motion) / 2
    ),
}


def read_out(combine: Readout) -> type[PropagationMethod[Any]]:
    """Make a method that combines the refiner's answer with its inputs; other frames have no vote."""

    class Combined(Refine):
        voters = ()

        def answers(self, queries: Sequence[QueryFrame], context: Context) -> Tensor:
            assert context.refiner is not None
            inputs = stack_inputs(
                [refiner_input(to_unit(query.image), query.warped, query.teacher_probs) for query in queries]
            )
            answer = context.refiner(inputs).float().softmax(1)
            mirrored = context.refiner(inputs.flip()).float().softmax(1).flip(-1)
            combined = combine(answer, mirrored, inputs)
            return combined / combined.sum(1, keepdim=True)

    return Combined


class ByReadout(PropagationModule):
    """Propagation with a method for each combination."""

    known_methods: ClassVar[dict[str, type[PropagationMethod[Any]]]] = METHODS | {
        name: read_out(combine) for name, combine in READOUTS.items()
    }


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the data and its teacher."""
    parser.add_argument("root", help="data set, looked for below WRP_DATA as well")
    parser.add_argument("--every", type=int, default=25)
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--clips", nargs="+", help="only these clips")
    parser.add_argument("--teacher", required=True, help="checkpoint")
    parser.add_argument("--flow-cache", help="folder of flows to share between runs")


def network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the data and the networks."""
    data_arguments(parser)
    parser.add_argument("--refiner", required=True, help="checkpoint")


def measure(kind: type[PropagationModule], methods: list[str], options: argparse.Namespace) -> str:
    """Measure mIoU and calibration error of each method of a module, as a table."""
    select = SelectArgs(options.clips, options.every, options.offset)
    index = select_clips(open_index(options.root), select)
    flow = FlowCache(DIS(), options.flow_cache)
    module = kind(index.label_map.num_classes, methods, options.teacher, options.refiner, flow).eval()
    items = IntervalItems(index.clips, index.label_map, with_held_out=True)
    with torch.inference_mode():
        for number in tqdm(range(len(items)), unit="interval"):
            for labels, truth in module.at_held_out(items[number]):
                module.score.update_frame(labels, truth)
    scores = module.score.compute()
    rows = [[name, f"{scores[name]['miou']:.2f}", f"{scores[name]['ece'] / 100:.3f}"] for name in methods]
    return markdown_table([f"K={options.every}", "mIoU", "ECE"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    network_arguments(parser)
    print(measure(ByReadout, ["motion", "inpaint", *READOUTS], parser.parse_args()))


if __name__ == "__main__":
    main()
