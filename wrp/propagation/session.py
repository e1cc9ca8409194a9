"""Labelling one interval, frame by frame; any number of intervals may be worked on at once."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wrp.errors import WrpError
from wrp.flow.cache import FlowCache
from wrp.flow.counted import CountedFlow
from wrp.geometry.finite import NotFinite
from wrp.geometry.labels import argmax_frame, hide_unsure
from wrp.io.caching import BoundedCache
from wrp.propagation.calibration import Calibration
from wrp.propagation.methods.base import (
    Context,
    Known,
    Labels,
    Needs,
    PropagationMethod,
    QueryFrame,
    used_keyframes,
)
from wrp.propagation.provenance import provenance
from wrp.propagation.warping import IntervalWarper
from wrp.refinement.network import refined
from wrp.structures import IGNORE_INDEX, ClipBatch, Prediction, RefinerInput

logger = logging.getLogger("wrp")

# Ratio of an interval's pixels from which on values that are not finite are no accident.
MOST_NOT_FINITE = 0.01

# Memory for the teacher's probabilities of the frames around the one that is labelled, in bytes: 35 frames of 480×360
# and 11 classes; more are asked for again.
TEACHER_BYTES = 2**28

GIVEN = "keyframe"
"""The method of a keyframe's own label."""


@dataclass(frozen=True)
class Networks:
    """What intervals are labelled with; shared by all sessions, and changed by none.

    Attributes:
        num_classes: Number of classes C.
        flow: Optical flow.
        teacher: The teacher's probabilities (C, H, W) float32 of a frame (3, H, W) uint8; None: there is no teacher.
        refiner: From inputs to logits (B, C, H, W); None: there is no refiner.
        device: Tells where they are; intervals are moved there when the work on them begins. None: they stay.
    """

    num_classes: int
    flow: FlowCache
    teacher: Callable[[Tensor], Tensor] | None = None
    refiner: Callable[[RefinerInput], Tensor] | None = None
    device: Callable[[], torch.device] | None = None


@dataclass(frozen=True)
class Labelled:
    """One frame with its labels.

    Attributes:
        known: What is known of it beside its labels; None at a keyframe.
        predictions: Its labels by method; of a keyframe, its own label alone.
    """

    known: Known | None
    predictions: dict[str, Prediction]


class PropagationSession:
    """Labels of the frames of one interval, made while it is iterated over.

    Each iteration is a work of its own: it has its own state and counters, and ends with whatever it opened closed,
    also where it is not gone through to the end (:meth:`close`, or leaving a ``with`` block). Nothing is kept of frames
    that have passed.

    Args:
        interval: What to label.
        methods: The methods by name; predictions of a frame come in this order.
        networks: What they work with.
        calibration: By method, what its confidence becomes.
        min_confidence: Labels that are less confident become 255.
        only: Indices in the clip of the frames that are wanted; None: all. Others are not labelled.
        precision: Makes a context in which all the work is done.

    Raises:
        WrpError: While iterating: where flow or networks yield more than 1 % of values that are not finite.
    """

    def __init__(
        self,
        interval: ClipBatch,
        methods: Mapping[str, PropagationMethod[Any]],
        networks: Networks,
        calibration: Mapping[str, Calibration] | None = None,
        min_confidence: float = 0.0,
        only: Collection[int] | None = None,
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.interval = interval
        self.methods = dict(methods)
        self.networks = networks
        self.calibration = dict(calibration or {})
        self.min_confidence = min_confidence
        self.wanted = tuple(index for index in range(*interval.queries) if only is None or index in only)
        self.precision = precision
        self._running: list[Generator[Labelled, None, None]] = []

    def __iter__(self) -> Iterator[Prediction]:
        for frame in self.frames():
            yield from frame.predictions.values()

    def __enter__(self) -> PropagationSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the iterations that have not come to their end, and close what they have opened."""
        while self._running:
            self._running.pop().close()

    def frames(self) -> Iterator[Labelled]:
        """The frames with their labels, in temporal order."""
        work = _Work(self).frames()
        self._running.append(work)
        try:
            while True:
                # Not around the `yield`: whoever takes the result works in a precision of its own.
                with torch.no_grad(), self.precision():
                    frame = next(work, None)
                if frame is None:
                    return
                yield frame
        finally:
            work.close()
            if work in self._running:
                self._running.remove(work)


class _Work:
    """One iteration over a session: what it has opened, counted and kept."""

    def __init__(self, session: PropagationSession) -> None:
        self.session = session
        self.networks = networks = session.networks
        self.interval = session.interval if networks.device is None else session.interval.to(networks.device())
        self.needs = _joined(method.needs for method in session.methods.values())
        self.flow: CountedFlow | None = None
        self.not_finite = {part: NotFinite() for part in ("flow", "teacher", "refiner")}
        self.probs: BoundedCache[int, Tensor] = BoundedCache(TEACHER_BYTES, lambda probs: probs.nbytes)
        self.decisions: dict[int, Labels] = {}

    def frames(self) -> Generator[Labelled, None, None]:
        """Label the frames that are wanted."""
        methods, radius = self.session.methods, self.needs.neighbours
        queries = tuple(index for index in self.session.wanted if index not in self.interval.labels)
        coming = deque(_around(queries, radius, self.interval))
        known: dict[int, Known] = {}
        with ExitStack() as stack:
            warped = self._open(stack, coming)
            states = {}
            for name, method in methods.items() if queries else ():
                states[name] = method.start(self._context(method.needs, queries))
                stack.callback(method.close, states[name])
            for index in self.session.wanted:
                if index in self.interval.labels:
                    yield Labelled(None, {GIVEN: self._given(index)})
                    continue
                while coming and coming[0] <= index + radius:
                    seen = coming.popleft()
                    known[seen] = self._know(seen, warped)
                predictions = {}
                for name, method in methods.items():
                    query = QueryFrame(known[index], method.needs, method.keyframes, known)
                    predictions[name] = self._predict(name, query, states[name])
                yield Labelled(known[index], predictions)
                self.probs.drop(index)
                for passed in [passed for passed in known if passed <= index - radius]:
                    del known[passed]
                    self.decisions.pop(passed, None)
        self._check_finite()

    def _open(self, stack: ExitStack, frames: Collection[int]) -> IntervalWarper | None:
        """Open what reaches over all frames that are looked at; the stack closes it."""
        if not frames or not (self.needs.warped or self.needs.flow):
            return None
        self.flow = CountedFlow(self.networks.flow, self.interval.clip, self.not_finite["flow"])
        stack.enter_context(self.flow)
        if not self.needs.warped:
            return None
        within = range(min(frames), max(frames) + 1)
        return stack.enter_context(IntervalWarper(self.interval, self.flow, within))

    def _context(self, needs: Needs, wanted: tuple[int, ...]) -> Context:
        """What a method with these needs may use."""
        context = Context(self.networks.num_classes, self.interval, wanted)
        if needs.flow:
            context = replace(context, flow=self.flow)
        return replace(context, refiner=self.networks.refiner, refine=self._refine) if needs.refiner else context

    def _know(self, index: int, warped: IntervalWarper | None) -> Known:
        image = self.interval.frame(index)
        known = Known(index, image, self.interval.labels, None if warped is None else warped.at(index))
        if not self.needs.teacher:
            return known
        ask = partial(self._teacher_probs, index, image), partial(self._teacher_labels, index, image)
        return replace(known, teacher_probs=ask[0], teacher_labels=ask[1])

    def _given(self, index: int) -> Prediction:
        label = self.interval.labels[index]
        return self._prediction(index, GIVEN, label, (label != IGNORE_INDEX).float(), (index,), None)

    def _predict(self, name: str, query: QueryFrame, state: Any) -> Prediction:
        """Predict, calibrate, hide what is not sure, and find what agrees, in this order."""
        method = self.session.methods[name]
        keyframes = used_keyframes(method.keyframes, self.interval.labels)
        if self.interval.unlabelled and method.works_from:  # what networks might make of that comes from no label
            size, device = query.image.shape[1:], query.image.device
            labels = torch.full(size, IGNORE_INDEX, dtype=torch.uint8, device=device)
            agreeing = torch.zeros_like(labels) if method.needs.warped or method.needs.teacher else None
            return self._prediction(query.index, name, labels, torch.zeros(size, device=device), keyframes, agreeing)
        labels, confidence = method.predict(query, state)
        if (line := self.session.calibration.get(name)) is not None:
            away = min(abs(query.index - keyframe) for keyframe in keyframes)
            # The teacher is as sure near a keyframe as far from it.
            confidence = line(confidence, away if method.works_from else line.distance)
        labels, confidence = hide_unsure(labels, confidence, self.session.min_confidence)
        agreeing = provenance(labels, query, method)
        return self._prediction(query.index, name, labels, confidence, keyframes, agreeing)

    def _prediction(
        self,
        index: int,
        method: str,
        labels: Tensor,
        confidence: Tensor,
        keyframes: tuple[int, ...],
        agreeing: Tensor | None,
    ) -> Prediction:
        name = (self.interval.clip, self.interval.stems[index - self.interval.first], index, method)
        distances = tuple(abs(index - keyframe) for keyframe in keyframes)
        return Prediction(*name, labels, confidence, keyframes, distances, agreeing)

    def _teacher_probs(self, index: int, image: Tensor) -> Tensor:
        return self.probs.get(index, lambda: self._ask_teacher(index, image))

    def _teacher_labels(self, index: int, image: Tensor) -> Labels:
        if index not in self.decisions:
            self._teacher_probs(index, image)
        return self.decisions[index]

    def _ask_teacher(self, index: int, image: Tensor) -> Tensor:
        assert self.networks.teacher is not None
        probs = self.networks.teacher(image)
        probs = probs.masked_fill(~self.not_finite["teacher"].known(probs, 0), 0.0)
        # Kept for longer than the probabilities, of which it is a small part.
        self.decisions[index] = Labels(*argmax_frame(probs))
        return probs

    def _refine(self, inputs: RefinerInput) -> Tensor:
        assert self.networks.refiner is not None
        probs = refined(self.networks.refiner, inputs)
        return probs.masked_fill(~self.not_finite["refiner"].known(probs, 1)[:, None], 0.0)

    def _check_finite(self) -> None:
        """Stop where networks or flow yield what is not finite; those pixels have got no label from them."""
        interval = self.interval
        where = f"clip {interval.clip}, frames {interval.stems[0]} … {interval.stems[-1]}"
        for part, found in self.not_finite.items():
            count, ratio = found.take()
            if part == "flow" and self.networks.flow.sparse:
                continue
            if ratio > MOST_NOT_FINITE:
                raise WrpError(
                    f"{where}: {100 * ratio:.1f} % of the {part}'s values are not finite, more than "
                    f"{100 * MOST_NOT_FINITE:.0f} %; look at these frames, use another {part}, or --trainer.precision "
                    "32 if it is less"
                )
            if count:
                logger.warning("%s: %d pixels of the %s are not finite and count as unknown", where, count, part)


def _joined(needs: Iterable[Needs]) -> Needs:
    """What some of several methods need."""
    needs = list(needs)
    return Needs(
        warped=any(one.warped for one in needs),
        flow=any(one.flow for one in needs),
        teacher=any(one.teacher for one in needs),
        refiner=any(one.refiner for one in needs),
        neighbours=max((one.neighbours for one in needs), default=0),
    )


def _around(queries: Iterable[int], radius: int, interval: ClipBatch) -> list[int]:
    """The query frames, and those frames to label that are no farther from one than the radius; in temporal order."""
    near = {index for query in queries for index in range(query - radius, query + radius + 1)}
    return sorted(index for index in near if index in range(*interval.queries) and index not in interval.labels)
