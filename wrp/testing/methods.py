"""Tests of a propagation method."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.propagation.methods.base import PropagationMethod
from wrp.propagation.session import Networks, PropagationSession
from wrp.structures import IGNORE_INDEX, ClipBatch, Prediction, RefinerInput
from wrp.testing.clips import textured_interval

CLASSES = 5
SIZE = (40, 56)


def intervals() -> dict[str, ClipBatch]:
    """Return an interval of each shape that a clip is cut into, on frames of 56×40 pixels with five classes."""
    return {
        "between two keyframes": textured_interval((4, 10), range(4, 11), range(4, 10)),
        "last, with its end": textured_interval((4, 10), range(4, 11), range(4, 11)),
        "before the first keyframe": textured_interval((4,), range(0, 5), range(0, 4)),
        "behind the last keyframe": textured_interval((4,), range(4, 10), range(4, 10)),
        "one frame": textured_interval((4,), range(4, 5), range(4, 5)),
    }


class BrightnessTeacher(nn.Module):
    """A stand-in for a teacher: the class of a pixel is its brightness in five steps.

    Example:
        >>> BrightnessTeacher().probabilities(torch.zeros(1, 3, 2, 2)).argmax(1).unique().tolist()
        [0]
    """

    num_classes = CLASSES

    def probabilities(self, images: Tensor) -> Tensor:
        """Return probabilities (B, 5, H, W) of images (B, 3, H, W) in 0 … 255."""
        steps = torch.arange(CLASSES, device=images.device).view(1, -1, 1, 1)
        scores = -(images.float().mean(1, keepdim=True) / 51 - steps).abs()
        return scores.softmax(1)


class IdentityRefiner(nn.Module):
    """A stand-in for a refiner: its logits are those of the prior.

    Example:
        >>> IdentityRefiner().num_classes
        5
    """

    num_classes = CLASSES

    def forward(self, inputs: RefinerInput) -> Tensor:
        """Return logits (B, C, H, W)."""
        return inputs.prior.clamp(min=1e-6).log()


def stand_ins() -> Networks:
    """Return what a method may need: DIS for flow, and stand-ins for teacher and refiner."""
    return Networks(CLASSES, FlowCache(DIS()), BrightnessTeacher().probabilities, IdentityRefiner())


class PropagationMethodTester(ABC):
    """What every propagation method has to fulfil, as tests for pytest.

    Subclass it under a name that pytest collects, and return the method from :meth:`make`::

        class TestMyMethod(PropagationMethodTester):
            def make(self) -> PropagationMethod:
                return MyMethod()

    Attributes:
        follows_keyframes: Whether a label stays where it is if nothing moves, as with every method that uses the labels
            of keyframes.
    """

    follows_keyframes: bool = True

    @abstractmethod
    def make(self) -> PropagationMethod[Any]:
        """Return a new method."""

    def session(self, interval: ClipBatch, only: list[int] | None = None) -> PropagationSession:
        """Return a session of the method alone, with :func:`stand_ins`."""
        return PropagationSession(interval, {"mine": self.make()}, stand_ins(), only=only)

    @pytest.fixture(params=intervals().values(), ids=list(intervals()))
    def interval(self, request: pytest.FixtureRequest) -> ClipBatch:
        """Give each of :func:`intervals`."""
        interval: ClipBatch = request.param
        return interval

    def test_every_frame_gets_a_label_and_its_confidence(self, interval: ClipBatch) -> None:
        """Check order, shapes, dtypes and ranges; confidence is 0 exactly where there is no label."""
        results = list(self.session(interval))
        assert [result.index for result in results] == list(range(*interval.queries))
        for result in results:
            assert result.method == ("keyframe" if result.index in interval.labels else "mine")
            assert result.labels.shape == result.confidence.shape == SIZE
            assert result.labels.dtype == torch.uint8
            assert ((result.labels < CLASSES) | (result.labels == IGNORE_INDEX)).all()
            assert result.confidence.dtype == torch.float32
            assert ((result.confidence >= 0) & (result.confidence <= 1)).all()
            assert torch.equal(result.confidence == 0, result.labels == IGNORE_INDEX)

    def test_two_sessions_at_once_give_what_each_gives_alone(self) -> None:
        """Check that the method holds nothing of an interval: two are propagated in turn by one object."""
        method, networks = self.make(), stand_ins()
        several = [intervals()[name] for name in ("between two keyframes", "before the first keyframe")]
        alone = [list(PropagationSession(interval, {"mine": method}, networks)) for interval in several]
        turns = zip_longest(*(PropagationSession(interval, {"mine": method}, networks) for interval in several))
        both = list(zip(*turns, strict=True))
        for expected, found in zip(alone, both, strict=True):
            self.check_equal(expected, [one for one in found if one is not None])

    def test_the_frames_that_are_wanted_get_the_same_labels(self) -> None:
        """Check that a frame has the same label whether the others of its interval are wanted or not."""
        interval = intervals()["between two keyframes"]
        whole = {result.index: result for result in self.session(interval)}
        some = list(self.session(interval, only=[6, 7]))
        self.check_equal([whole[6], whole[7]], some)

    def test_frames_that_networks_take_in_one_call_get_the_same_labels(self) -> None:
        """Check that a frame has the same label, but for rounding, if the session looks ahead as on a GPU."""
        interval, networks = intervals()["between two keyframes"], replace(stand_ins(), frames_per_call=3)
        together = PropagationSession(interval, {"mine": self.make()}, networks)
        for one, other in zip(self.session(interval), together, strict=True):
            assert (one.labels == other.labels).float().mean() >= 0.999
            torch.testing.assert_close(other.confidence, one.confidence, atol=0.01, rtol=0)

    def test_what_it_opens_is_closed_when_a_session_ends_early(self) -> None:
        """Check that a session that ends after one frame can be closed, and that another can begin."""
        interval = intervals()["between two keyframes"]
        with self.session(interval) as session:
            next(iter(session))
        assert len(list(self.session(interval))) == len(range(*interval.queries))

    def test_labels_stay_where_nothing_moves(self) -> None:
        """Check that in a still clip with equal keyframes every label is theirs."""
        if not self.follows_keyframes:
            pytest.skip("does not use the labels of keyframes")
        interval = intervals()["between two keyframes"]
        interval.frames = [interval.frames[0]] * len(interval.frames)
        label = interval.labels[4]
        interval.labels = {4: label, 10: label}
        known = label != IGNORE_INDEX
        for result in self.session(interval):
            assert torch.equal(result.labels[known], label[known])

    @staticmethod
    def check_equal(expected: list[Prediction], found: list[Prediction]) -> None:
        """Compare labels and confidence of the same frames."""
        assert [one.index for one in found] == [one.index for one in expected]
        for one, other in zip(expected, found, strict=True):
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.confidence, other.confidence)
