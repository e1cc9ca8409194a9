"""Train and score a refiner for any list of classes, on generated clips alone: one class against the rest.

python experiments/camvid/refiner/agnostic.py train scenes --teacher SCENES.ckpt --agnostic AGNOSTIC.pt
python experiments/camvid/refiner/agnostic.py score camvid --teacher T.ckpt --refiner R.ckpt --agnostic AGNOSTIC.pt

`train` takes a data set and a teacher for it. `score` takes another data set and compares with its own refiner R.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
import torch
from readout import data_arguments, measure, network_arguments
from torch import Tensor

from wrp import CycleExamples, PropagationModule, RefinementData, RefinementModule
from wrp.data.layouts.registry import open_index
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.geometry.consistency import to_unit
from wrp.options import SelectArgs
from wrp.propagation.methods import METHODS
from wrp.propagation.methods.base import Context, PropagationMethod, QueryFrame
from wrp.propagation.methods.refine import Refine
from wrp.refinement.network import Refiner, refined, refiner_input, stack_inputs
from wrp.refinement.store import Crop
from wrp.runs.training import fit
from wrp.structures import IGNORE_INDEX, RefinerInput


def against_rest(probs: Tensor, number: int) -> Tensor:
    """Turn probabilities (B, C, H, W) into those of all other classes together and of one class, (B, 2, H, W)."""
    mine = probs[:, number]
    return torch.stack(((probs.sum(1) - mine).clamp(min=0), mine), 1)


def one_class(inputs: RefinerInput, number: int) -> RefinerInput:
    """Make the inputs for a refiner that tells one class from the rest."""
    parts = {name: against_rest(getattr(inputs, name), number) for name in ("prior", "teacher_probs", "motion")}
    return replace(inputs, **parts)


class OneAgainstRest(CycleExamples):
    """Examples for one class each, drawn at random among those of the example."""

    def draw(self, crop: Crop) -> tuple[RefinerInput, Tensor]:
        example, truth = super().draw(crop)
        present = truth[truth != IGNORE_INDEX].unique()
        number = int(present[torch.randint(len(present), ())]) if len(present) else 0
        return one_class(example, number), (truth == number).to(truth.dtype).masked_fill(
            truth == IGNORE_INDEX, IGNORE_INDEX
        )


class Agnostic(Refine):
    """Refine each class by itself and normalise; neighbouring frames vote as for ``refine``."""

    net: ClassVar[Refiner]

    def answers(self, queries: Sequence[QueryFrame], context: Context) -> Tensor:
        inputs = stack_inputs(
            [refiner_input(to_unit(query.image), query.warped, query.teacher_probs) for query in queries]
        )
        probs = torch.stack([refined(self.net, one_class(inputs, c))[:, 1] for c in range(context.num_classes)], 1)
        return probs / probs.sum(1, keepdim=True).clamp(min=1e-6)


class Untrained(Agnostic):
    """The same with an untrained network, whose answer is the inpainted label: shows what all other steps are worth."""

    net = Refiner(2).eval()


class WithAgnostic(PropagationModule):
    """Propagation with the two additional methods."""

    known_methods: ClassVar[dict[str, type[PropagationMethod[Any]]]] = METHODS | {
        "untrained": Untrained,
        "agnostic": Agnostic,
    }


def train(options: argparse.Namespace) -> None:
    num_classes = open_index(options.root).label_map.num_classes
    data = RefinementData(
        num_classes,
        OneAgainstRest(options.teacher, flow=FlowCache(DIS(), options.flow_cache)),
        options.root,
        select=SelectArgs(options.clips, options.every, options.offset),
        epoch_length=options.steps,
        seed=options.seed,
    )
    pl.seed_everything(options.seed, verbose=False)
    module = RefinementModule(2, net=Refiner(2))
    fit(module, data, options.steps, Path(options.agnostic).with_suffix(".ckpt"))
    torch.save(module.net.state_dict(), options.agnostic)


def score(options: argparse.Namespace) -> None:
    Agnostic.net = Refiner(2).eval()
    Agnostic.net.load_state_dict(torch.load(options.agnostic, weights_only=True))
    print(measure(WithAgnostic, ["motion", "semantic", "inpaint", "untrained", "agnostic", "refine"], options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    works = parser.add_subparsers(required=True)
    trains, scores = works.add_parser("train"), works.add_parser("score")
    data_arguments(trains)
    trains.add_argument("--steps", type=int, default=1200)
    trains.add_argument("--seed", type=int, default=0)
    network_arguments(scores)
    for part, work in ((trains, train), (scores, score)):
        part.add_argument("--agnostic", type=Path, required=True, help="the network's weights, written or read")
        part.set_defaults(work=work)
    options = parser.parse_args()
    options.work(options)


if __name__ == "__main__":
    main()
