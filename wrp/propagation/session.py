"""Sessions: label one interval frame by frame. Several sessions may run at once."""

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
from wrp.geometry.fusion import WarpedLabels
from wrp.geometry.labels import argmax_with_confidence, hide_unsure
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
from wrp.propagation.warping import IntervalWarper, Sides
from wrp.refinement.network import refined
from wrp.structures import IGNORE_INDEX, ClipBatch, Prediction, RefinerInput

logger = logging.getLogger("wrp")

# A run stops if more than this ratio of an interval's values is not finite.
MOST_NOT_FINITE = 0.01

# Memory for the teacher's probabilities of the frames near the labelled one, in bytes: 35 frames of 480×360 and 11
# classes; those of further frames are computed again.
TEACHER_BYTES = 2**28

GIVEN = "keyframe"
"""Name of the method in the prediction of a keyframe, which holds its given label."""


@dataclass(frozen=True)
class Networks:
    """The networks that label intervals; sessions share them and do not change them.

    Attributes:
        num_classes: Number of classes C.
        flow: Optical flow.
        teacher: Maps frames (B, 3, H, W) uint8 to the teacher's probabilities (B, C, H, W) float32; None: no teacher.
        refiner: Maps inputs to logits (B, C, H, W); None: no refiner.
        device: Returns the device of the networks, to which each interval is moved first; None: intervals are not
            moved.
        frames_per_call: Number of frames B that teacher and refiner take in one call. Sessions look as many frames
            ahead.

    Example:
        >>> from wrp.flow.cache import cached
        >>> from wrp.flow.dis import DIS
        >>> Networks(num_classes=3, flow=cached(DIS())).teacher is None
        True
    """

    num_classes: int
    flow: FlowCache
    teacher: Callable[[Tensor], Tensor] | None = None
    refiner: Callable[[RefinerInput], Tensor] | None = None
    device: Callable[[], torch.device] | None = None
    frames_per_call: int = 1


@dataclass(frozen=True)
class Labelled:
    """One labelled frame.

    Attributes:
        known: The image, warped labels and teacher output of the frame; None at a keyframe.
        predictions: Its predictions by method; at a keyframe, only the given label, by the name ``keyframe``.

    Example:
        >>> labels, confidence = torch.ones(2, 2, dtype=torch.uint8), torch.ones(2, 2)
        >>> frame = Labelled(None, {GIVEN: Prediction("street", "a", 0, GIVEN, labels, confidence, (0,), (0,))})
        >>> list(frame.predictions)
        ['keyframe']
    """

    known: Known | None
    predictions: dict[str, Prediction]


class PropagationSession:
    """The predictions of one interval, computed while iterating over the session.

    Each iteration has its own state, counters and open files. They are closed at its end, by :meth:`close`, or on
    leaving a ``with`` block. Nothing is kept of frames that are done.

    Args:
        interval: The interval to label.
        methods: The methods by name; the predictions of a frame come in this order.
        networks: Flow, teacher and refiner.
        calibration: Calibration of the confidence by method; methods without one keep their confidence.
        min_confidence: Labels with a lower confidence, in [0, 1], become 255.
        only: Indices in the clip of the frames to label; None: all frames of the interval.
        precision: Returns a context manager in which everything is computed, e.g. autocast.

    Attributes:
        cuts: After an iteration, the indices in the clip of the frames behind which there was a cut: nothing is
            propagated across it.

    Raises:
        WrpError: During iteration, if more than 1 % of the values of flow or networks are not finite.

    Example:
        >>> from wrp.flow.cache import cached
        >>> from wrp.flow.dis import DIS
        >>> from wrp.propagation.methods import make_methods
        >>> frames, label = [torch.zeros(3, 8, 8, dtype=torch.uint8)] * 3, torch.ones(8, 8, dtype=torch.uint8)
        >>> interval = ClipBatch("street", ["a", "b", "c"], 0, frames, {0: label, 2: label}, queries=(0, 3))
        >>> with PropagationSession(interval, make_methods(["copy"]), Networks(2, cached(DIS()))) as session:
        ...     [(prediction.stem, prediction.method, prediction.distance) for prediction in session]
        [('a', 'keyframe', 0), ('b', 'copy', 1), ('c', 'keyframe', 0)]
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
        self.cuts: tuple[int, ...] = ()
        self._running: list[Generator[Labelled, None, None]] = []

    def __iter__(self) -> Iterator[Prediction]:
        for frame in self.frames():
            yield from frame.predictions.values()

    def __enter__(self) -> PropagationSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all unfinished iterations, and close the files that they have opened."""
        while self._running:
            self._running.pop().close()

    def frames(self) -> Iterator[Labelled]:
        """Yield each wanted frame with the predictions of all methods, in temporal order."""
        work = _Work(self).frames()
        self._running.append(work)
        try:
            while True:
                # Not around the `yield`: the caller's code must run in its own precision.
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
    """One iteration over a session, with all that it has opened, counted and kept."""

    def __init__(self, session: PropagationSession) -> None:
        self.session = session
        self.networks = networks = session.networks
        self.interval = session.interval if networks.device is None else _moved(session.interval, networks.device())
        self.needs = _joined(method.needs for method in session.methods.values())
        self.flow: CountedFlow | None = None
        self.not_finite = {part: NotFinite() for part in ("flow", "teacher", "refiner")}
        self.probs: BoundedCache[int, Tensor] = BoundedCache(TEACHER_BYTES, lambda probs: probs.nbytes)
        self.decisions: dict[int, Labels] = {}
        self.known: dict[int, Known] = {}

    def frames(self) -> Generator[Labelled, None, None]:
        """Label the wanted frames."""
        methods, radius = self.session.methods, self.needs.neighbours
        queries = tuple(index for index in self.session.wanted if index not in self.interval.labels)
        coming, unprepared = deque(_around(queries, radius, self.interval)), deque(queries)
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
                self._look_ahead(coming, index + radius, warped)
                ready = []
                while unprepared and (not coming or unprepared[0] + radius < coming[0]):
                    ready.append(unprepared.popleft())
                for name, method in methods.items() if ready else ():
                    if not self._lacks_labels(method):
                        method.prepare([self._query(frame, method) for frame in ready], states[name])
                predictions = {
                    name: self._predict(name, self._query(index, method), states[name])
                    for name, method in methods.items()
                }
                yield Labelled(self.known[index], predictions)
                self.probs.drop(index)
                for passed in [passed for passed in self.known if passed <= index - radius]:
                    del self.known[passed]
                    self.decisions.pop(passed, None)
        self._check_finite()
        self.session.cuts = tuple(self.flow.cuts()) if self.flow is not None else ()

    def _open(self, stack: ExitStack, frames: Collection[int]) -> IntervalWarper | None:
        """Open flow and warped labels for all frames that are used; the stack closes them."""
        if not frames or not (self.needs.warped or self.needs.flow):
            return None
        self.flow = CountedFlow(self.networks.flow, self.interval.clip, self.not_finite["flow"])
        stack.enter_context(self.flow)
        if not self.needs.warped:
            return None
        within = range(min(frames), max(frames) + 1)
        return stack.enter_context(IntervalWarper(self.interval, self.flow, within))

    def _context(self, needs: Needs, wanted: tuple[int, ...]) -> Context:
        """Return the context of a method with these needs."""
        networks = self.networks
        context = Context(networks.num_classes, self.interval, wanted, frames_per_call=networks.frames_per_call)
        if needs.flow:
            context = replace(context, flow=self.flow)
        return replace(context, refiner=networks.refiner, refine=self._refine) if needs.refiner else context

    def _look_ahead(self, coming: deque[int], last: int, warper: IntervalWarper | None) -> None:
        """Get to know all frames up to a last one; if any are left, as many as networks take in one call."""
        count = 0
        while coming and (coming[0] <= last or 0 < count < self.networks.frames_per_call):
            index = coming.popleft()
            self.known[index] = self._know(index, warper)
            count += 1

    def _know(self, index: int, warper: IntervalWarper | None) -> Known:
        known = Known(index, self.interval.frame(index), self.interval.labels)
        if warper is not None:
            warped, sides = warper.at(index), Sides.of(self.interval)
            # Each keyframe has as many sources as the other; to read whose they are would wait for the device.
            count = len(warped.labels) // (1 if sides.earlier is None or sides.later is None else 2)
            earlier = WarpedLabels(*(values[:count] for values in vars(warped).values()))
            known = replace(known, warped=warped, warped_earlier=earlier)
        if not self.needs.teacher:
            return known
        ask = partial(self._teacher_probs, index), partial(self._teacher_labels, index)
        return replace(known, teacher_probs=ask[0], teacher_labels=ask[1])

    def _query(self, index: int, method: PropagationMethod[Any]) -> QueryFrame:
        return QueryFrame(self.known[index], method.needs, method.keyframes, self.known)

    def _lacks_labels(self, method: PropagationMethod[Any]) -> bool:
        """Tell whether there are no labels that the method could propagate: networks would invent some."""
        return self.interval.unlabelled and bool(method.works_from)

    def _given(self, index: int) -> Prediction:
        label = self.interval.labels[index]
        return self._prediction(index, GIVEN, label, (label != IGNORE_INDEX).float(), (index,), None)

    def _predict(self, name: str, query: QueryFrame, state: Any) -> Prediction:
        """Predict, calibrate, apply the confidence threshold, and find the provenance, in this order."""
        method = self.session.methods[name]
        keyframes = used_keyframes(method.keyframes, self.interval.labels)
        if self._lacks_labels(method):
            size, device = query.image.shape[1:], query.image.device
            labels = torch.full(size, IGNORE_INDEX, dtype=torch.uint8, device=device)
            agreeing = torch.zeros_like(labels) if method.needs.warped or method.needs.teacher else None
            return self._prediction(query.index, name, labels, torch.zeros(size, device=device), keyframes, agreeing)
        labels, confidence = method.predict(query, state)
        if (line := self.session.calibration.get(name)) is not None:
            away = min(abs(query.index - keyframe) for keyframe in keyframes)
            # A method without keyframes is calibrated in full at any distance.
            confidence = line(confidence, away if method.works_from else line.distance)
        if self.interval.never is not None:
            labels = labels.masked_fill(self.interval.never, IGNORE_INDEX)
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

    def _teacher_probs(self, index: int) -> Tensor:
        return self.probs.get(index, lambda: self._ask_teacher(index))

    def _teacher_labels(self, index: int) -> Labels:
        if index not in self.decisions:
            self._teacher_probs(index)
        return self.decisions[index]

    def _ask_teacher(self, index: int) -> Tensor:
        """Return the teacher's probabilities of a frame, and keep those of the next frames, from the same call."""
        assert self.networks.teacher is not None
        later = [at for at in self.known if at > index and at not in self.decisions]
        frames = [index, *later[: self.networks.frames_per_call - 1]]
        probs = self.networks.teacher(torch.stack([self.known[at].image for at in frames]))
        probs = probs.masked_fill(~self.not_finite["teacher"].known(probs, 1)[:, None], 0.0)
        # Kept longer than the probabilities, as labels need much less memory.
        decisions = map(Labels, *argmax_with_confidence(probs))
        self.decisions.update(zip(frames, decisions, strict=True))
        self.probs.max_bytes = max(self.probs.max_bytes, TEACHER_BYTES + probs[1:].nbytes)
        for place in range(len(frames) - 1, 0, -1):  # the nearest last: if memory is short, it is kept
            self.probs.get(frames[place], partial(probs.__getitem__, place))
        return probs[0]

    def _refine(self, inputs: RefinerInput) -> Tensor:
        assert self.networks.refiner is not None
        probs = refined(self.networks.refiner, inputs)
        return probs.masked_fill(~self.not_finite["refiner"].known(probs, 1)[:, None], 0.0)

    def _check_finite(self) -> None:
        """Raise WrpError if too many values of flow or networks are not finite, else log how many were ignored."""
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
    """Join the needs of several methods."""
    needs = list(needs)
    return Needs(
        warped=any(one.warped for one in needs),
        flow=any(one.flow for one in needs),
        teacher=any(one.teacher for one in needs),
        refiner=any(one.refiner for one in needs),
        neighbours=max((one.neighbours for one in needs), default=0),
    )


def _moved(interval: ClipBatch, device: torch.device) -> ClipBatch:
    # The host may go on while it is copied to a GPU, but not while it is copied back.
    return interval.to(device, non_blocking=device.type != "cpu")


def _around(queries: Iterable[int], radius: int, interval: ClipBatch) -> list[int]:
    """Return the query frames and their neighbours up to the radius, without keyframes, in temporal order."""
    near = {index for query in queries for index in range(query - radius, query + radius + 1)}
    return sorted(index for index in near if index in range(*interval.queries) and index not in interval.labels)
