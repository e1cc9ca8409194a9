"""Estimators that wrap networks, files or generated clips."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from wrp.data.synthetic.scene import render_clip
from wrp.errors import DataError, WrpError
from wrp.flow.cache import FlowCache
from wrp.flow.dis import DIS
from wrp.flow.estimator import FlowEstimator
from wrp.flow.exact import Exact
from wrp.flow.padding import Padding
from wrp.flow.raft import RAFT
from wrp.flow.stored import Stored, read_flow
from wrp.structures import ClipBatch, FramePair
from wrp.testing import FlowEstimatorTester, texture


class Shift(FlowEstimator):
    """Says that everything moves by two pixels of its working resolution, and notes what it was given."""

    stride, smallest = 8, 40

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(scale)
        self.seen: list[tuple[int, ...]] = []

    @property
    def signature(self) -> str:
        return "shift"

    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: object) -> Tensor:
        self.seen.append(tuple(frames_s.shape))
        assert frames_s.dtype == torch.uint8
        return torch.full((len(frames_s), 2, *frames_s.shape[2:]), 2.0)


class TestRAFT(FlowEstimatorTester):
    needs_weights = True
    smallest = (16, 16)

    def make(self) -> RAFT:
        torch.manual_seed(0)
        return RAFT("small", weights=None, iterations=2)


@pytest.mark.parametrize(("scale", "expected"), [(1.0, (40, 64)), (0.5, (40, 40))])
def test_frames_are_padded_and_flow_is_scaled_back(scale: float, expected: tuple[int, int]) -> None:
    estimator = Shift(scale)
    flow = estimator(texture(33, 63)[None], texture(33, 63)[None])
    assert estimator.seen == [(1, 3, *expected)]
    assert flow.shape == (1, 2, 33, 63)
    height, width = round(33 * scale), round(63 * scale)
    torch.testing.assert_close(flow[0, 0], torch.full((33, 63), 2.0 * 63 / width))
    torch.testing.assert_close(flow[0, 1], torch.full((33, 63), 2.0 * 33 / height))


@pytest.mark.parametrize("scale", [0.5, 0.75])
def test_a_working_resolution_keeps_the_unit_of_flow(scale: float) -> None:
    flow = DIS(scale=scale)(texture(96, 128)[None], texture(96, 128, 3, -2)[None])
    inner = flow[0, :, 16:-16, 16:-16].flatten(1).median(1).values
    assert inner.tolist() == pytest.approx([3, -2], abs=0.4)


def test_padding_repeats_the_border() -> None:
    padding = Padding((3, 5), stride=4, smallest=1)
    frames = torch.arange(15, dtype=torch.uint8).view(1, 1, 3, 5)
    padded = padding.pad(frames)
    assert padded.shape == (1, 1, 4, 8)
    assert padded[0, 0, 3].tolist() == [10, 11, 12, 13, 14, 14, 14, 14]
    assert torch.equal(padding.unpad(padded), frames)


def test_padding_leaves_what_fits() -> None:
    frames = torch.zeros(1, 3, 8, 16, dtype=torch.uint8)
    assert Padding((8, 16), 8, 8).pad(frames) is frames


@pytest.mark.parametrize(("make", "message"), [
    (lambda: DIS(scale=0), "working resolution"),
    (lambda: DIS(threads=0), "threads must be at least 1"),
    (lambda: RAFT("huge", None), "unknown RAFT variant 'huge'"),
    (lambda: RAFT(weights=None, precision="8"), "unknown precision '8'"),
    (lambda: RAFT(weights=None, iterations=0), "iterations must be"),
    (lambda: RAFT(weights=None, pairs_per_call=0), "pairs_per_call must be"),
])  # fmt: skip
def test_arguments_out_of_range_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_threads_of_opencv_are_put_back() -> None:
    before = cv2.getNumThreads()
    DIS(threads=1)(texture(64, 64)[None], texture(64, 64)[None])
    assert cv2.getNumThreads() == before


def test_raft_reads_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = RAFT("small", None).net
    torch.save(net.state_dict(), tmp_path / "raft.pth")
    loaded = RAFT("small", str(tmp_path / "raft.pth"), iterations=1)
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), loaded.net.state_dict().values(), strict=True)
    )
    assert loaded.signature == RAFT("small", str(tmp_path / "raft.pth"), iterations=1).signature
    assert loaded.signature != RAFT("small", None, iterations=1).signature
    assert not loaded.train().net.training


def test_wrong_weights_of_raft_are_named(tmp_path: Path) -> None:
    with pytest.raises(WrpError, match="there is no file .*missing.pth"):
        RAFT("small", str(tmp_path / "missing.pth"))
    (tmp_path / "text.pth").write_text("weights")
    with pytest.raises(WrpError, match="text.pth does not hold a state_dict of this RAFT variant"):
        RAFT("small", str(tmp_path / "text.pth"))
    torch.save(RAFT("small", None).net.state_dict(), tmp_path / "small.pth")
    with pytest.raises(WrpError, match="small.pth does not hold"):
        RAFT("large", str(tmp_path / "small.pth"))
    with pytest.raises(WrpError, match="unknown weights 'BEST', expected one of DEFAULT, C_T_V1"):
        RAFT("small", "BEST")


def test_raft_under_bf16_is_close_to_float32() -> None:
    torch.manual_seed(0)
    fine, coarse = RAFT("small", None, 2), RAFT("small", None, 2, precision="bf16")
    coarse.net.load_state_dict(fine.net.state_dict())
    first, second = texture(128, 160)[None], texture(128, 160, 2)[None]
    flow = coarse(first, second)
    assert flow.dtype == torch.float32
    expected = fine(first, second)
    assert (flow - expected).abs().mean() < 0.1 * expected.abs().mean()


def test_raft_waits_for_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a GPU, a copy to the host or a decision by a value, fails on torch's device without data."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # which there is not on this device
    raft = RAFT("small", None, iterations=2, pairs_per_call=2).to("meta")
    frames = list(torch.empty(4, 3, 57, 83, dtype=torch.uint8, device="meta"))
    batch = ClipBatch("clip", list("abcd"), 0, frames, {}, (0, 4), hashes={i: bytes([i]) * 16 for i in range(4)})
    raft.scale = 1.5
    with Copies() as copies:
        for flow in (raft, FlowCache(raft)):
            found = list(flow.neighbours(batch, range(3)))
            assert [tuple(one.flow_fw.shape) for one in found] == [(1, 2, 57, 83)] * 3
            assert flow.direct(batch, 3, 0, found[0].flow_fw, "prepend").shape == (1, 2, 57, 83)
    assert raft.estimates == 2 * (2 * 3 + 1)
    assert copies.count <= 2 * 6  # torchvision makes coordinates on the CPU, twice in each of six calls
    with pytest.raises((NotImplementedError, RuntimeError)):
        next(Waiting().neighbours(batch, range(3)))


class Copies(TorchFunctionMode):
    """Counts copies from the CPU to another device."""

    count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.count += func is Tensor.to and args[0].device.type == "cpu" != made.device.type
        return made


class Waiting(Shift):
    def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: object) -> Tensor:
        return super().estimate(frames_s, frames_t, pairs) * frames_s.float().mean().item()


# ------------------------------------------------------------------------------------------------------------- stored


def write(path: Path, flow: np.ndarray) -> None:
    """Write flow (2, H, W) as the suffix says, by other code than the reader's where there is some."""
    path.parent.mkdir(parents=True, exist_ok=True)
    last = np.ascontiguousarray(flow.transpose(1, 2, 0))
    if path.suffix == ".flo":
        assert cv2.writeOpticalFlow(str(path), last)
    elif path.suffix == ".png":
        valid = np.ones(last.shape[:2], np.uint16)
        fixed = (last * 64 + 2**15).round().astype(np.uint16)
        assert cv2.imwrite(str(path), np.dstack((valid, fixed[..., 1], fixed[..., 0])))
    elif path.suffix == ".npy":
        np.save(path, flow)
    else:
        np.savez_compressed(path, flow=last)


@pytest.mark.parametrize("suffix", [".flo", ".png", ".npy", ".npz"])
def test_stored_flow_is_found_by_the_names_of_the_frames(tmp_path: Path, suffix: str) -> None:
    made = {pair: np.random.default_rng(i).uniform(-20, 20, (2, 6, 9)).astype(np.float32)
            for i, pair in enumerate((("a", "b"), ("b", "a")))}  # fmt: skip
    for (source, target), flow in made.items():
        write(tmp_path / "walk" / f"{source}_{target}{suffix}", flow)
    estimator = Stored(str(tmp_path), "{clip}/{source}_{target}" + suffix)
    frames = [torch.zeros(3, 6, 9, dtype=torch.uint8)] * 2
    found = estimator.between(ClipBatch("walk", ["a", "b"], 0, frames, {}, (0, 2)), [0])[0]
    tolerance = 1 / 128 if suffix == ".png" else 0
    np.testing.assert_allclose(found.flow_fw[0], made["a", "b"], atol=tolerance)
    np.testing.assert_allclose(found.flow_bw[0], made["b", "a"], atol=tolerance)


def test_invalid_pixels_of_kitti_have_no_flow(tmp_path: Path) -> None:
    image = np.full((4, 5, 3), 2**15, np.uint16)
    image[..., 0] = 1
    image[1, 2, 0] = 0
    cv2.imwrite(str(tmp_path / "a_b.png"), image)
    flow = read_flow(tmp_path / "a_b.png")
    assert np.isnan(flow[:, 1, 2]).all()
    assert np.isnan(flow).sum() == 2
    assert not np.nan_to_num(flow).any()


def test_wrong_stored_flow_is_named(tmp_path: Path) -> None:
    frames = torch.zeros(1, 3, 6, 9, dtype=torch.uint8)
    pair = [FramePair("walk", "a", "b")]
    with pytest.raises(WrpError, match="there is no folder"):
        Stored(str(tmp_path / "none"))
    with pytest.raises(WrpError, match=r"must hold \{source\} and \{target\}"):
        Stored(str(tmp_path), "{clip}.flo")
    with pytest.raises(WrpError, match=r"suffix of stored flow '.exr', expected one of .flo, .png, .npy, .npz"):
        Stored(str(tmp_path), "{source}_{target}.exr")
    stored = Stored(str(tmp_path))
    with pytest.raises(WrpError, match="pass pairs="):
        stored(frames, frames)
    with pytest.raises(DataError, match=r"there is no stored flow .*walk/a_b.flo"):
        stored(frames, frames, pair)
    write(tmp_path / "walk/a_b.flo", np.zeros((2, 6, 8), np.float32))
    with pytest.raises(DataError, match="holds flow of 8×6 pixels, the frames are 9×6"):
        stored(frames, frames, pair)
    content = (tmp_path / "walk/a_b.flo").read_bytes()
    for damaged in (b"", content[:7], content[:-1], b"XXXX" + content[4:]):
        (tmp_path / "walk/a_b.flo").write_bytes(damaged)
        with pytest.raises(DataError, match="a_b.flo cannot be read as flow"):
            stored(frames, frames, pair)
    np.save(tmp_path / "one.npy", np.zeros((6, 9)))
    with pytest.raises(DataError, match=r"one.npy holds float64 \(6, 9\), expected flow"):
        read_flow(tmp_path / "one.npy")
    np.savez(tmp_path / "two.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(DataError, match="two.npz cannot be read as flow: holds 2 arrays"):
        read_flow(tmp_path / "two.npz")
    (tmp_path / "two.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:-30])
    with pytest.raises(DataError, match="two.npz cannot be read as flow"):
        read_flow(tmp_path / "two.npz")
    np.savez(tmp_path / "zip.npz", a=np.zeros(3))
    (tmp_path / "zip.npz").rename(tmp_path / "zip.npy")
    with pytest.raises(DataError, match="zip.npy holds several arrays"):
        read_flow(tmp_path / "zip.npy")
    with pytest.raises(WrpError, match="knows {clip}, {source} and {target} alone"):
        Stored(str(tmp_path), "{folder}/{source}_{target}.flo")
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="grey.png cannot be read as flow: no 16-bit RGB"):
        read_flow(tmp_path / "grey.png")


# -------------------------------------------------------------------------------------------------------------- exact


def test_exact_flow_is_that_of_the_generated_clip() -> None:
    clip = render_clip(4, 64, 96)
    frames = [torch.from_numpy(frame).permute(2, 0, 1) for frame in clip.frames]
    batch = ClipBatch("scene", list("abcd"), 0, frames, {}, (0, 4))
    for i, flows in enumerate(Exact(clip.frames, clip.flow_fw, clip.flow_bw).neighbours(batch, range(3))):
        assert np.array_equal(flows.flow_fw[0], clip.flow_fw[i])
        assert np.array_equal(flows.flow_bw[0], clip.flow_bw[i])


def test_exact_flow_knows_no_other_frames() -> None:
    clip = render_clip(3, 32, 32)
    estimator = Exact(clip.frames, clip.flow_fw, clip.flow_bw)
    frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
    with pytest.raises(WrpError, match="between neighbouring frames of its generated clip only"):
        estimator(frames[:1], frames[2:])
    with pytest.raises(ValueError, match="the flows of 2 frames must be"):
        Exact(clip.frames[:2], clip.flow_fw, clip.flow_bw)


@pytest.mark.parametrize(("dis", "median"), [(DIS("medium", 1), 1 / 3), (DIS("fine", 1), 1 / 4), (DIS(), 2 / 5)])
def test_dis_is_close_to_the_exact_flow_where_nothing_is_hidden(dis: DIS, median: float) -> None:
    """Median end-point error in pixels, nine pixels of ten below two: of three scenes together.

    Magnified frames cost accuracy where all is smooth and win it at what is thin, which counts for labels.
    """
    errors = []
    for seed in range(3):
        clip = render_clip(6, 192, 256, seed=seed)
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2)
        flow = dis(frames[:-1], frames[1:]).numpy()
        distance = np.linalg.norm(flow - clip.flow_fw, axis=1)
        errors.append(distance[~clip.occlusion_fw])
    together = np.concatenate(errors)
    assert np.median(together) < median
    assert np.quantile(together, 0.9) < 2
