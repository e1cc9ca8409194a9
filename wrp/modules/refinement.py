"""Training the refiner on the noise of propagation, seen where the truth is known (method, section 3)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import ColorJitter

from wrp.errors import WrpError
from wrp.flow.cache import cached
from wrp.flow.dis import DIS
from wrp.flow.estimator import FlowEstimator
from wrp.flow.keys import frame_key
from wrp.losses.segmentation import check_losses, sum_losses
from wrp.metrics.segmentation import SegmentationScore
from wrp.models.refiner import Refiner, RefinerInput, refined, refiner_input, stack_inputs
from wrp.models.segmenter import EncoderView, encoder_name
from wrp.modules.base import BaseModule
from wrp.modules.examples import Place, Walk, WalkCache, draw_sources
from wrp.modules.segmentation import load_segmenter
from wrp.modules.walking import walk_cycles
from wrp.ops.consistency import to_unit
from wrp.ops.fusion import Evidence, gather
from wrp.ops.labels import decide
from wrp.ops.noise import displace
from wrp.types import ClipBatch, Prediction

# Disk space that the walks of refiner training may take, in bytes: a walk over 50 frames of 480×360 takes 76 MB.
WALK_CACHE_BYTES = 2**35

# Features of the image from a decoder.
VIEW_CHANNELS = 16


class RefinementModule(BaseModule):
    """Cycle-consistent training of the refiner, from the sparse anchors alone.

    A batch is one labelled frame with its neighbours (:class:`~wrp.types.ClipBatch`, data modules with
    ``serve: windows``). The flow walks from it to both sides once; of the cycles t → t±k → t and the labels of other
    anchors it met, ``crops`` random examples are drawn: two sources whose distances add up to that of two anchors, as
    at inference.

    Logs ``train/loss``, ``val/miou`` and, for comparison, ``val/prior_miou``.

    Args:
        num_classes: Number of classes C.
        teacher: Checkpoint of a SegmentationModule, or the module; frozen. None: no semantic input.
        fold_teachers: Checkpoints of n teachers, of which number i has not learned from the labelled frames number i,
            i + n, …: each frame's semantic input comes from the one that does not know its label (cross-fitting). None:
            from ``teacher``, who has seen all labels and seems better here than elsewhere.
        channels: Width of the refiner's levels, full resolution first.
        interval: Distance between anchors that examples imitate, in frames; None: the walk's whole length.
        pair_share: Share of the examples that use another anchor's label, where one is in reach.
        crossed: Whether a cycle goes out along the composed flow and back along the direct one, and the other way
            round; along one flow both ways it returns to its start however wrong the flow is.
        displacement: Smooth random displacement of each source of an example, standard deviation in pixels.
        crops: Examples per labelled frame and step.
        crop_size: Height and width of an example in pixels; smaller frames are used whole.
        losses: Weight of each loss, see :class:`~wrp.SegmentationModule`; None: cross-entropy alone.
        balance: Weight of rare classes in the cross-entropy, see :func:`~wrp.losses.segmentation.cross_entropy`.
        boundary: Weight of pixels near a border in the cross-entropy beyond that of others.
        jitter: Strength of random brightness, contrast and saturation of the examples, 0 … 1: few labelled frames are
            learned by heart soon.
        optimizer: ``adamw`` or ``sgd``.
        lr: Learning rate at the start of the "poly" schedule.
        weight_decay: Weight decay.
        flow: Flow estimator; None: DIS.
        decoder: Architecture of segmentation-models-pytorch that shows the refiner the image as the teacher's encoder
            sees it; None: it sees the image alone.
        encoder: Name of that encoder; None: the teacher's, with its weights.
        freeze_encoder: Whether the encoder stays as it is.
        net: A refiner of your own: :class:`~wrp.models.refiner.RefinerInput` to logits (B, C, H, W).
    """

    frozen = ("teacher", "fold_teachers", "flow")
    methods = ("refine",)

    def __init__(
        self,
        num_classes: int,
        teacher: str | nn.Module | None = None,
        fold_teachers: list[str] | None = None,
        channels: tuple[int, ...] = (16, 32, 48, 64, 96),
        interval: int | None = None,
        pair_share: float = 0.5,
        crossed: bool = True,
        displacement: float = 0.0,
        crops: int = 6,
        crop_size: tuple[int, int] = (192, 256),
        losses: dict[str, float] | None = None,
        balance: float = 0.5,
        boundary: float = 0.0,
        jitter: float = 0.3,
        optimizer: str = "adamw",
        lr: float = 5e-3,
        weight_decay: float = 1e-2,
        flow: FlowEstimator | None = None,
        decoder: str | None = None,
        encoder: str | None = None,
        freeze_encoder: bool = True,
        net: nn.Module | None = None,
    ) -> None:
        super().__init__(optimizer, lr, weight_decay)
        modules = ["net", "flow", "fold_teachers"] + ([] if isinstance(teacher, str) else ["teacher"])
        self.save_hyperparameters(ignore=modules)
        self.num_classes = num_classes
        self.channels = channels
        self.interval = interval
        self.pair_share = pair_share
        self.crossed = crossed
        self.displacement = displacement
        self.crops = crops
        self.crop_size = crop_size
        self.losses = check_losses(losses or {"cross_entropy": 1.0})
        self.balance = balance
        self.boundary = boundary
        self.jitter = ColorJitter(jitter, jitter, jitter)
        self.flow = cached(flow if flow is not None else DIS())
        self.teacher = load_segmenter(teacher, num_classes)
        if self.teacher is not None:
            self.freeze_part("teacher")
        self.fold_teachers = nn.ModuleList(load_segmenter(path, num_classes) for path in fold_teachers or [])
        self.freeze_part("fold_teachers")
        self.decoder = decoder
        self.freeze_encoder = freeze_encoder
        self.encoder = encoder
        self.net = net if net is not None else self.configure_network()
        self.save_hyperparameters({"encoder": self.encoder})  # there is no teacher where labels are refined
        self.val_score, self.prior_score = SegmentationScore(num_classes), SegmentationScore(num_classes)
        self.walks = WalkCache(WALK_CACHE_BYTES)

    def configure_network(self) -> nn.Module:
        """Make the refiner; override it for one of your own."""
        if self.decoder is None:
            return Refiner(self.num_classes, tuple(self.channels))
        name = self.encoder or encoder_name(self.teacher)
        view = EncoderView(self.decoder, name, VIEW_CHANNELS, self.freeze_encoder)
        if self.encoder is None:
            view.net.encoder.load_state_dict(self.teacher.deployed.encoder.state_dict())
            self.encoder = name
        return Refiner(self.num_classes, tuple(self.channels), view, VIEW_CHANNELS)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of logits (B, C, H, W) against the truth (B, H, W) uint8; override it for another."""
        return sum_losses(logits, labels, self.losses, balance=self.balance, boundary=self.boundary)

    def forward(self, inputs: RefinerInput) -> Tensor:
        """Logits (B, C, H, W) of the refined labels."""
        return self.net(inputs)

    @torch.no_grad()
    def walk(self, window: ClipBatch) -> Walk:
        """Follow the flow from the target to both ends of its window."""
        cycles, pairs = walk_cycles(window, self.flow, self.crossed)
        return Walk(window.labels[window.targets[0]], self._semantic_at(window).half(), cycles, pairs)

    def _semantic_at(self, window: ClipBatch) -> Tensor:
        """p^S of a labelled frame, by a teacher that does not know its label, where there is one."""
        frame = window.frame(window.targets[0])
        if not self.fold_teachers:
            return self.semantic(frame)
        teacher = self.fold_teachers[window.number % len(self.fold_teachers)]
        return semantic_probabilities(teacher, frame, self.num_classes)

    @torch.no_grad()
    def semantic(self, frame: Tensor) -> Tensor:
        """The teacher's probabilities (C, H, W) float32 of a frame (3, H, W) uint8; zeros without a teacher."""
        return semantic_probabilities(self.teacher, frame, self.num_classes)

    def training_step(self, batch: ClipBatch, batch_idx: int) -> Tensor:
        """Loss of ``crops`` examples at one labelled frame."""
        walk = self._walk_of(batch)
        image = to_unit(batch.frame(batch.targets[0]))
        inputs, labels = [], []
        for _ in range(self.crops):
            place = self._draw_place(walk.label)
            example, truth = self._example(walk, image, place)
            if torch.rand(()) < 0.5:
                example, truth = example.flip(), truth.flip(-1)
            inputs.append(example)
            labels.append(truth)
        loss = self.loss(self(stack_inputs(inputs)), torch.stack(labels))
        self.log("train/loss", loss, prog_bar=True, batch_size=self.crops)
        return loss

    def validation_step(self, batch: ClipBatch, batch_idx: int) -> None:
        """Refine the longest cycles of one labelled frame and compare with its truth."""
        inputs, truth = self._longest(batch)
        self.val_score.update(decide(refined(self, inputs))[0], truth)
        self.prior_score.update(decide(inputs.prior)[0], truth)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the refined labels and of the prior."""
        for name, score in (("miou", self.val_score), ("prior_miou", self.prior_score)):
            self.log(f"val/{name}", score.compute().float(), prog_bar=True)
            score.reset()

    def predict_step(self, batch: ClipBatch, batch_idx: int) -> list[Prediction]:
        """Refine the longest cycles of one labelled frame."""
        inputs, _ = self._longest(batch)
        labels, confidence = decide(refined(self, inputs))
        target = batch.targets[0]
        stem = batch.stems[target - batch.first]
        return [Prediction(batch.clip, stem, target, "refine", labels[0], confidence[0])]

    def _walk_of(self, batch: ClipBatch) -> Walk:
        if not isinstance(batch, ClipBatch) or batch.targets[1] - batch.targets[0] != 1:
            raise WrpError(
                f"RefinementModule learns from labelled frames with their neighbours, got a {type(batch).__name__}: "
                "set data.init_args.serve=windows"
            )
        if len(batch.frames) < 2:
            raise WrpError(f"clip {batch.clip}: a refiner needs at least two frames to learn from, got one")
        # Names do not tell: the same module may see another data set, or labels that were corrected.
        names = (batch.clip, batch.targets[0], tuple(batch.stems))
        labels = tuple((index, frame_key(batch.labels[index])) for index in sorted(batch.labels))
        key = (frame_key(batch.frame(batch.targets[0])), names, labels)
        return self.walks.get(key, lambda: self.walk(batch))

    def _longest(self, batch: ClipBatch) -> tuple[RefinerInput, Tensor]:
        walk = self._walk_of(batch)
        ends = sorted({min(walk.cycles), max(walk.cycles)})
        target = batch.targets[0]
        evidence = gather([walk.cycles[offset] for offset in ends]).to(self.device)
        image, semantic = to_unit(batch.frame(target)), walk.semantic.to(self.device)
        return refiner_input(image, evidence, semantic), batch.labels[target][None]

    def _draw_place(self, label: Tensor) -> Place:
        """Rows and columns of a random crop of a frame."""
        sides = []
        for wanted, size in zip(self.crop_size, label.shape, strict=True):
            start = int(torch.randint(size - min(wanted, size) + 1, ()))
            sides.append(slice(start, start + min(wanted, size)))
        return sides[0], sides[1]

    def _example(self, walk: Walk, image: Tensor, place: Place) -> tuple[RefinerInput, Tensor]:
        """What two anchors could say about a part of the labelled frame, and the truth there."""
        sources = draw_sources(walk, self.interval, self.pair_share)
        # Cropped one by one: all else stays on the disk.
        evidence = gather([source.crop(*place) for source in sources])
        return self._look(image, evidence, walk.semantic, place), walk.label[place].to(image.device)

    def _look(self, image: Tensor, evidence: Evidence, semantic: Tensor, place: Place) -> RefinerInput:
        """What the refiner sees of a part of a frame, disturbed."""
        whole = (slice(None), *place)
        disturbed = self._disturbed(evidence.to(image.device))
        example = refiner_input(image[whole], disturbed, semantic[whole].to(image.device))
        example.image = self.jitter(example.image)
        return example

    def _disturbed(self, evidence: Evidence) -> Evidence:
        labels = evidence.labels
        if self.displacement:
            labels = displace(labels, self.displacement)
        return replace(evidence, labels=labels)


def semantic_probabilities(teacher: Any, frame: Tensor, num_classes: int) -> Tensor:
    """The teacher's probabilities (C, H, W) float32 of a frame (3, H, W) uint8; zeros without a teacher.

    They are the mean of those of the frame and of its mirror image (ours); measured in experiments/README.md.
    """
    if teacher is None:
        return torch.zeros(num_classes, *frame.shape[1:], device=frame.device)
    probs, mirrored = teacher.probabilities(torch.stack((frame, frame.flip(-1))))
    return (probs + mirrored.flip(-1)) / 2
