"""OpenCV's route to bilinear samples gives what torch's does."""

import pytest
import torch
from torch.nn import functional

from wrp.geometry import warp as warping
from wrp.geometry.backends import cpu
from wrp.geometry.composed import identity_flow, prepend_flow
from wrp.geometry.consistency import photometric_error
from wrp.geometry.vote import push_labels
from wrp.geometry.warp import Sampler, compose, coordinates, in_frame, warp, warp_labels


def by_torch(values: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    height, width = values.shape[-2:]
    coords = coordinates(flow)[0].double()
    grid = coords.permute(0, 2, 3, 1) * torch.tensor([2 / max(width - 1, 1), 2 / max(height - 1, 1)]) - 1
    return functional.grid_sample(values.double(), grid.double(), padding_mode="border", align_corners=True).float()


def along(values: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    return Sampler(values).along(flow)[0]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (37, 53)])
def test_both_routes_agree(channels: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(channels)
    values = torch.randn(2, channels, *size, generator=generator)
    flow = 8 * torch.randn(2, 2, *size, generator=generator)
    assert cpu.serves(values, flow)
    torch.testing.assert_close(along(values, flow), by_torch(values, flow), atol=2e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (37, 53)])
def test_both_routes_agree_along_a_flow(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    flow = 8 * torch.randn(2, 2, *size, generator=generator)
    flow[1] = flow[1].round() + 0.5  # between two pixels
    values = torch.randn(2, 5, *size, generator=generator)
    labels = torch.randint(0, 20, (2, *size), generator=generator).to(torch.uint8)

    def everything() -> list[torch.Tensor]:
        pushed = torch.stack([push_labels(label, one) for label, one in zip(labels, flow, strict=True)])
        warped = [warp_labels(labels, flow), warp_labels(labels > 9, flow, True), pushed, in_frame(flow)]
        return [*warped, *Sampler(values[:, :3], values[:, 3:]).along(flow)]

    ours = everything()
    for module in (warping, cpu):
        monkeypatch.setattr(module, "serves", lambda *_: False)
    for found, expected in zip(ours, everything(), strict=True):
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_flows_in_half_precision_are_taken() -> None:
    flow = torch.full((1, 2, 5, 6), 1.0, dtype=torch.bfloat16)
    labels = torch.arange(30, dtype=torch.uint8).view(1, 5, 6)
    assert torch.equal(warp_labels(labels, flow), warp_labels(labels, flow.float()))
    assert torch.equal(compose(flow, flow), torch.full((1, 2, 5, 6), 2.0))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e6, -1e6, 3e9])
def test_labels_do_not_come_from_nowhere(value: float) -> None:
    flow = torch.full((1, 2, 40, 50), value)
    labels = torch.ones(1, 40, 50, dtype=torch.uint8)
    assert (warp_labels(labels, flow) == 255).all()
    assert (push_labels(labels[0], flow[0]) == 255).all()
    assert not in_frame(flow).any()
    assert not warp(labels[None].float(), flow)[0].any()


def test_values_and_flows_that_are_not_contiguous_are_sampled_alike() -> None:
    values = torch.rand(1, 9, 11, 3).permute(0, 3, 1, 2)
    flow = torch.randn(1, 2, 11, 9).transpose(2, 3)
    torch.testing.assert_close(along(values, flow), by_torch(values, flow), atol=2e-5, rtol=0)


@pytest.mark.parametrize("part", ["values", "flow"])
def test_gradients_take_the_route_of_torch(part: str) -> None:
    values, flow = torch.rand(1, 2, 5, 6), torch.rand(1, 2, 5, 6) * 4
    tensor = {"values": values, "flow": flow}[part].requires_grad_()
    assert not cpu.serves(values, flow)
    along(values, flow).sum().backward()
    assert tensor.grad is not None
    with torch.no_grad():
        assert cpu.serves(values, flow)


@pytest.mark.parametrize("size", [(1, 2**15 - 2), (1, 2**15 - 1), (2**15, 1)])
def test_sides_that_opencv_cannot_count_take_the_route_of_torch(size: tuple[int, int]) -> None:
    values, flow = torch.rand(1, 2, *size), torch.ones(1, 2, *size)
    torch.testing.assert_close(along(values, flow), by_torch(values, flow), atol=2e-3, rtol=0)
    assert warp_labels(torch.zeros(1, *size, dtype=torch.uint8), flow).shape == (1, *size)


def test_gradients_of_warping_are_right() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(1, 2, 4, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    # Between the pixel centres: at them the derivative jumps. Single precision inside: wide steps and tolerances.
    flow = (0.3 + 0.3 * torch.rand(1, 2, 4, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, f: warp(v, f)[0], (values, flow), eps=1e-2, atol=1e-2, nondet_tol=1e-5)


def test_an_opencv_that_rounds_coordinates_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounding(image, x, y, out):  # type: ignore[no-untyped-def]
        exact(image, (x * 32).round() / 32, y, out)

    exact = cpu._remap
    cpu.remap_is_exact.cache_clear()
    monkeypatch.setattr(cpu, "_remap", rounding)
    values, flow = torch.rand(1, 2, 5, 6), torch.rand(1, 2, 5, 6) * 4
    assert not cpu.remap_is_exact()
    torch.testing.assert_close(along(values, flow), by_torch(values, flow), atol=2e-5, rtol=0)
    monkeypatch.undo()
    cpu.remap_is_exact.cache_clear()


@pytest.mark.parametrize("size", [(1, 1), (3, 4), (20, 31)])
def test_smoothing_agrees_at_the_border_too(size: tuple[int, int]) -> None:
    frame, warped = torch.rand(2, 3, *size), torch.rand(2, 3, *size)
    difference = (frame - warped).abs().mean(1, keepdim=True)
    expected = functional.avg_pool2d(difference, 5, 1, 2, count_include_pad=False)[:, 0]
    torch.testing.assert_close(photometric_error(frame, warped), expected, atol=1e-6, rtol=0)


def test_results_do_not_share_memory() -> None:
    values, flow = torch.rand(1, 3, 6, 7), torch.rand(1, 2, 6, 7) * 5
    first = along(values, flow)
    kept = first.clone()
    along(values + 1, flow)
    assert torch.equal(first, kept)


@pytest.mark.slow
def test_compiled_warping_equals_eager() -> None:
    values, flow = torch.rand(1, 3, 32, 48), 4 * torch.randn(1, 2, 32, 48)
    compiled = torch.compile(warp, backend="aot_eager", fullgraph=True)
    for found, expected in zip(compiled(values, flow), warp(values, flow), strict=True):
        torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    # Flows are sixteen times as large as these values.
    compiled_compose = torch.compile(compose, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled_compose(flow, -flow), compose(flow, -flow), atol=2e-4, rtol=0)
    composed = identity_flow(torch.zeros(32, 48))
    extended = torch.compile(prepend_flow, backend="aot_eager", fullgraph=True)(composed, flow, -flow)
    torch.testing.assert_close(extended.flow, prepend_flow(composed, flow, -flow).flow, atol=2e-4, rtol=0)
    assert torch.equal(extended.error, prepend_flow(composed, flow, -flow).error)
