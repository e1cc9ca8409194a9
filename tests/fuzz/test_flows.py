"""Flow from files and from the cache: (2, H, W) float32, or DataError; what a cache holds is never wrong."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.flow.small import Counting, stretch
from tests.fuzz.damage import damaged, png
from wrp.errors import DataError
from wrp.flow import stored
from wrp.flow.cache import FlowCache
from wrp.flow.stored import read_flow

FLOW = np.random.default_rng(0).normal(0, 5, (2, 6, 9)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flows")


def write_flow(path: Path) -> bytes:
    """A file of FLOW, in the format of its suffix."""
    height, width = FLOW.shape[1:]
    if path.suffix == ".flo":
        sizes = np.array([width, height], "<i4").tobytes()
        path.write_bytes(b"PIEH" + sizes + FLOW.transpose(1, 2, 0).astype("<f4").tobytes())
    elif path.suffix == ".png":
        steps = (FLOW * 64 + 2**15).round()
        cv2.imwrite(str(path), np.stack((np.ones_like(steps[0]), steps[1], steps[0]), -1).astype(np.uint16))
    elif path.suffix == ".npy":
        np.save(path, FLOW)
    else:
        np.savez_compressed(path, FLOW)
    return path.read_bytes()


def check_flow(flow: np.ndarray) -> None:
    assert flow.dtype == np.float32
    assert flow.ndim == 3
    assert flow.shape[0] == 2


def read_damaged(folder: Path, suffix: str, data: st.DataObject) -> np.ndarray | None:
    """The flow of a damaged file; None where it is refused."""
    whole = write_flow(folder / f"whole{suffix}")
    path = folder / f"flow{suffix}"
    path.write_bytes(data.draw(damaged(whole)))
    try:
        found = read_flow(path)
    except DataError:
        return None
    check_flow(found)
    return found


@pytest.mark.parametrize("suffix", [".png", ".npz"])
@given(data=st.data())
def test_damaged_flow_with_checksums_is_the_same_or_refused(folder: Path, suffix: str, data: st.DataObject) -> None:
    found = read_damaged(folder, suffix, data)
    assert found is None or np.array_equal(found, read_flow(folder / f"whole{suffix}"))


@pytest.mark.parametrize("suffix", [".flo", ".npy"])
@given(data=st.data())
def test_damaged_flow_without_checksums_is_flow_or_refused(folder: Path, suffix: str, data: st.DataObject) -> None:
    """Nothing in these formats tells another number from the one that was meant."""
    found = read_damaged(folder, suffix, data)
    # of one byte each, at least
    assert found is None or found.nbytes <= 8 * (folder / f"flow{suffix}").stat().st_size


@given(
    shape=st.lists(st.integers(0, 4) | st.integers(0, 2**62), max_size=4),
    kind=st.sampled_from(["<f4", "<f8", ">f2", "|u1", "<i8", "<c8", "|b1", "|O", "<U3", "<M8[s]", [("a", "<f4")]]),
    content=st.binary(max_size=64),
    zipped=st.booleans(),
)
def test_arrays_of_any_kind_are_flow_or_refused(
    folder: Path, shape: list[int], kind: object, content: bytes, zipped: bool
) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": tuple(shape)})
    path = folder / ("any.npz" if zipped else "any.npy")
    path.write_bytes(file.getvalue() + content)
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("flow.npy", file.getvalue() + content)
    with contextlib.suppress(DataError):
        check_flow(read_flow(path))


@given(st.sampled_from(sorted(stored._READERS)), st.binary(max_size=100))
def test_what_is_no_flow_is_refused(folder: Path, suffix: str, content: bytes) -> None:
    path = folder / f"nothing{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError):
        read_flow(path)


def test_flow_is_bounded_before_it_is_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bomb.png").write_bytes(png(2**15, 2**15, 16, 2, bytes(6 * 2**15 + 1)))
    with pytest.raises(DataError, match=r"bomb\.png.* pixels"):
        read_flow(folder / "bomb.png")
    monkeypatch.setattr(stored, "MAX_BYTES", 1000)
    np.savez_compressed(folder / "bomb.npz", np.zeros((2, 40, 40), np.float32))
    with pytest.raises(DataError, match=r"bomb\.npz.* takes 12928 bytes"):
        read_flow(folder / "bomb.npz")


@given(data=st.data())
def test_a_damaged_cache_gives_the_flow_that_belongs_to_the_frames(folder: Path, data: st.DataObject) -> None:
    batch = stretch([1, 2, 3])
    place = folder / "cache"
    for path in place.glob("*.flow"):
        path.unlink()
    expected = list(FlowCache(Counting(), str(place)).neighbours(batch, range(2)))
    (path,) = place.glob("*.flow")
    path.write_bytes(data.draw(damaged(path.read_bytes()) | st.binary(max_size=200)))
    for _ in range(2):  # the second time with what the first one has mended
        found = list(FlowCache(Counting(), str(place)).neighbours(batch, range(2)))
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a.flow_fw, b.flow_fw)
            assert torch.equal(a.flow_bw, b.flow_bw)
