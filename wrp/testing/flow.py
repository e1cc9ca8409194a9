"""Tests of a flow estimator."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytest
import torch

from wrp.flow.estimator import FlowEstimator
from wrp.structures import ClipBatch
from wrp.testing.clips import texture


class FlowEstimatorTester(ABC):
    """What every flow estimator has to fulfil, as tests for pytest.

    Subclass it under a name that pytest collects, and return the estimator from :meth:`make`::

        class TestMyFlow(FlowEstimatorTester):
            def make(self) -> FlowEstimator:
                return MyFlow()

    Attributes:
        smallest: Height and width of the smallest frames that it takes.
        odd: Height and width of frames that are no multiple of any stride.
        tolerance: Greatest median error in pixels on a texture that moves as a whole.
        needs_weights: Whether it estimates nothing of use as :meth:`make` returns it, for want of trained weights.
    """

    smallest: tuple[int, int] = (1, 1)
    odd: tuple[int, int] = (57, 83)
    tolerance: float = 0.5
    needs_weights: bool = False

    @abstractmethod
    def make(self) -> FlowEstimator:
        """Return the estimator, as it can be made without a download."""

    @pytest.fixture
    def estimator(self) -> FlowEstimator:
        """Make one for each test."""
        return self.make()

    def test_flow_is_float32_with_x_and_y(self, estimator: FlowEstimator) -> None:
        """Check shape, dtype and finite values."""
        flow = estimator(texture(64, 96)[None], texture(64, 96, 2)[None])
        assert flow.shape == (1, 2, 64, 96)
        assert flow.dtype == torch.float32
        assert torch.isfinite(flow).all()
        assert not flow.requires_grad

    @pytest.mark.parametrize(("x", "y"), [(0, 0), (3, 0), (-3, 0), (0, 2), (2, -2.5)])
    def test_flow_points_from_the_first_frame_to_the_second(self, estimator: FlowEstimator, x: float, y: float) -> None:
        """Check the direction and the unit: pixels, x first."""
        if self.needs_weights:
            pytest.skip("random weights estimate nothing")
        flow = estimator(texture(96, 128)[None], texture(96, 128, x, y)[None])
        inner = flow[0, :, 16:-16, 16:-16].flatten(1).median(1).values
        assert inner.tolist() == pytest.approx([x, y], abs=self.tolerance)

    def test_frames_of_any_size_are_taken(self, estimator: FlowEstimator) -> None:
        """Check frames of an odd and of the smallest size."""
        for height, width in (self.odd, self.smallest):
            flow = estimator(texture(height, width)[None], texture(height, width, 1)[None])
            assert flow.shape == (1, 2, height, width)
            assert torch.isfinite(flow).all()

    def test_a_batch_equals_a_loop(self, estimator: FlowEstimator) -> None:
        """Check that the frames of a batch do not depend on one another."""
        first = torch.stack([texture(64, 80), texture(64, 80, 5), texture(64, 80, 0, 3)])
        second = torch.stack([texture(64, 80, 2), texture(64, 80, 4), texture(64, 80, 1, 3)])
        together = estimator(first, second)
        for i in range(3):
            alone = estimator(first[i : i + 1], second[i : i + 1])[0]
            torch.testing.assert_close(together[i], alone, atol=1e-3, rtol=0)

    def test_frames_are_left_as_they_were(self, estimator: FlowEstimator) -> None:
        """Check that frames are not written to."""
        first, second = texture(64, 80)[None], texture(64, 80, 2)[None]
        copies = first.clone(), second.clone()
        estimator(first, second)
        assert torch.equal(first, copies[0])
        assert torch.equal(second, copies[1])

    def test_between_gives_both_directions(self, estimator: FlowEstimator) -> None:
        """Check both directions between neighbours, and their order."""
        frames = [texture(64, 96, x) for x in (0, 2, 5)]
        batch = ClipBatch("clip", ["a", "b", "c"], 10, frames, {}, (10, 13))
        flows = estimator.between(batch, [10, 11])
        for i, neighbour in enumerate(flows):
            first, second = frames[i][None], frames[i + 1][None]
            # Kept flow is right to 2⁻¹¹ of itself.
            torch.testing.assert_close(neighbour.flow_fw, estimator(first, second), atol=1e-3, rtol=2**-11)
            torch.testing.assert_close(neighbour.flow_bw, estimator(second, first), atol=1e-3, rtol=2**-11)
            assert neighbour.flow_fw.shape == neighbour.flow_bw.shape == (1, 2, 64, 96)
        for one, other in zip(estimator.neighbours(batch, [11, 10]), reversed(flows), strict=True):
            torch.testing.assert_close(one.flow_fw, other.flow_fw, atol=1e-3, rtol=0)

    def test_an_initial_flow_leads_to_the_flow(self, estimator: FlowEstimator) -> None:
        """Check that an initial flow is used, also one that leads out of the frame."""
        if not estimator.any_frames:
            pytest.skip("knows no flow but that of neighbours")
        first, second = texture(96, 128)[None], texture(96, 128, 3)[None]
        initial = torch.tensor([3.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 96, 128)
        found = estimator(first, second, start=initial)
        assert found.shape == (1, 2, 96, 128)
        assert torch.isfinite(found).all()
        plain = estimator(first, second)
        error, without = ((flow - initial)[..., 16:-16, 16:-16].abs().median() for flow in (found, plain))
        assert error <= without + 0.1
        lost = torch.full_like(initial, 1e6)
        assert torch.isfinite(estimator(first, second, start=lost)).all()

    def test_direct_flow_starts_from_the_composed_flow(self, estimator: FlowEstimator) -> None:
        """Check that the direct flow between two frames of a clip is that from the initial flow, to the last bit."""
        if not estimator.any_frames:
            pytest.skip("knows no flow but that of neighbours")
        frames = [texture(64, 96, x) for x in (0, 2, 4)]
        batch = ClipBatch("clip", ["a", "b", "c"], 10, frames, {}, (10, 13))
        start = torch.tensor([-4.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 64, 96).contiguous()
        found = estimator.direct(batch, 12, 10, start, "prepend")
        assert torch.equal(found, estimator(frames[2][None], frames[0][None], start=start))

    def test_time_and_flows_are_counted(self, estimator: FlowEstimator) -> None:
        """Check that the seconds of estimation and the estimated flows are counted."""
        assert estimator.seconds == 0
        assert estimator.estimates == 0
        estimator(texture(64, 64)[None], texture(64, 64)[None])
        first = estimator.seconds
        estimator(texture(64, 64).expand(2, -1, -1, -1), texture(64, 64).expand(2, -1, -1, -1))
        assert 0 < first < estimator.seconds
        assert estimator.estimates == 3

    def test_it_is_frozen(self, estimator: FlowEstimator) -> None:
        """Check that nothing is trained."""
        assert not any(parameter.requires_grad for parameter in estimator.parameters())
        weighted = [module for module in estimator.train().modules() if list(module.parameters(recurse=False))]
        assert not any(module.training for module in weighted)

    def test_its_signature_tells_working_resolutions_apart(self, estimator: FlowEstimator) -> None:
        """Check that flow at one working resolution is never taken from a cache for another."""
        before, resolution = estimator.signature, estimator.magnification(64, 96)
        assert before == self.make().signature
        estimator.scale = estimator.scale / 2
        assert estimator.signature != before or estimator.magnification(64, 96) == resolution

    @pytest.mark.parametrize(
        ("first", "second", "message"),
        [
            ((1, 3, 32, 32), (1, 3, 32, 33), r"one shape, got \(1, 3, 32, 32\) and \(1, 3, 32, 33\)"),
            ((1, 3, 32, 32), (2, 3, 32, 32), "one shape"),
            ((3, 32, 32), (3, 32, 32), r"\(B, 3, H, W\)"),
            ((1, 1, 32, 32), (1, 1, 32, 32), r"\(B, 3, H, W\)"),
        ],
    )
    def test_other_shapes_are_refused(
        self, estimator: FlowEstimator, first: tuple[int, ...], second: tuple[int, ...], message: str
    ) -> None:
        """Check the message for other shapes."""
        with pytest.raises(ValueError, match=message):
            estimator(torch.zeros(first, dtype=torch.uint8), torch.zeros(second, dtype=torch.uint8))

    def test_other_dtypes_are_refused(self, estimator: FlowEstimator) -> None:
        """Check the message for other dtypes."""
        frame = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
        for first, second in ((frame.float(), frame), (frame, frame.half())):
            with pytest.raises(ValueError, match="flow needs uint8 frames in 0 … 255, got"):
                estimator(first, second)
