"""Compiled loops give what numpy, OpenCV and torch give, in any number of threads and processes."""

from __future__ import annotations

import contextlib
import hashlib
import math
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import pytest
import torch
from torch import Tensor

from wrp.ops import cpu, formulas
from wrp.ops.chain import Chain, extend_near
from wrp.ops.consistency import photometric_error_along
from wrp.ops.cycle import image_of
from wrp.ops.fusion import VOTE_SIGMA, Evidence, anchor_weights, blend_labels, elect
from wrp.ops.vote import push_labels
from wrp.ops.warp import compose, warp_labels

kernels = pytest.importorskip("wrp.ops.kernels", exc_type=ImportError)
vote_kernels = pytest.importorskip("wrp.ops.vote_kernels", exc_type=ImportError)
if cpu.compiled() is None:
    pytest.skip("compiling is switched off", allow_module_level=True)

SIZES = [(1, 1), (1, 40), (40, 1), (2, 2), (67, 101), (130, 33)]


@pytest.fixture(autouse=True)
def _both_routes() -> None:
    """Each test says itself which route it takes."""


def everything(size: tuple[int, int]) -> dict[str, Tensor]:
    """All that has a compiled route, on random maps."""
    generator = torch.Generator().manual_seed(sum(size))
    flow, back, far = (6 * torch.randn(2, 2, *size, generator=generator) for _ in range(3))
    flow[0] = flow[0].round() + 0.5  # between two pixels
    flow[1, :, ::7] = float("nan")
    back[1] = -flow[1].nan_to_num() + 0.2 * torch.randn(2, *size, generator=generator)
    frames = torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 5, (4, *size), generator=generator, dtype=torch.uint8)
    labels[labels == 4] = 255
    labels[:, : size[0] // 2] = 1  # in large parts sources agree
    error = torch.rand(4, *size, generator=generator) < 0.3
    results = {
        "composed": compose(flow, far).nan_to_num(-1),
        "labels": warp_labels(labels[:2], flow),
        "mask": warp_labels(error[:2], flow, True),
        "pushed": push_labels(labels[0], flow[1]),
        "photometric": photometric_error_along(frames[:1], image_of(frames[1]), flow[:1]),
    }
    chain = extend_near(Chain(far, error[:2]), flow, back, 0.01, 0.5)
    results |= {"chain": chain.flow, "error": chain.error}
    for count in (1, 2, 4):
        photometric = (0.2 * torch.rand(count, *size, generator=generator)).half()
        distance, anchor = torch.arange(1.0, count + 1), torch.arange(count)
        evidence = Evidence(labels[:count], error[:count], photometric, distance, anchor)
        weights = anchor_weights(evidence)
        results[f"weights of {count}"] = weights
        results[f"blend of {count}"], results[f"confidence of {count}"] = blend_labels(evidence, weights, 5)
        results[f"vote of {count}"], results[f"share of {count}"] = elect(labels[:count], distance)
    return results


KERNELS = {"compose", "look", "push", "differ", "mean_around", "extend", "weigh", "blend", "elect"}


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the kernels that have been called."""
    names = set()

    def counted(name: str, kernel: Callable[..., None]) -> Callable[..., None]:
        return lambda *arguments: names.add(name) or kernel(*arguments)

    for module in (kernels, vote_kernels):
        for name in KERNELS & set(vars(module)):
            monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    return names


def test_what_is_kept_on_disk_is_of_these_formulas() -> None:
    digest = hashlib.blake2b(Path(formulas.__file__).read_bytes(), digest_size=8).hexdigest()
    assert digest == kernels.COMPILED_WITH, "write this hash into wrp/ops/kernels.py, so that they are compiled anew"


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_routes_agree(size: tuple[int, int], threads: int, monkeypatch: pytest.MonkeyPatch, called: set[str]) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = everything(size)
    assert called == KERNELS
    monkeypatch.setattr(cpu, "_compiled", lambda: None)
    for name, expected in everything(size).items():
        assert found[name].dtype == expected.dtype, name
        if expected.is_floating_point():
            torch.testing.assert_close(found[name], expected, atol=2e-5, rtol=0, msg=name)
        else:
            assert torch.equal(found[name], expected), name


def test_a_third_class_wins_where_it_has_most_votes() -> None:
    labels = torch.tensor([[[0, 3, 7]]], dtype=torch.uint8)
    nothing = torch.zeros(labels.shape)
    evidence = Evidence(labels, nothing > 0, nothing.half(), torch.ones(1), torch.zeros(1))
    chosen, confidence = blend_labels(evidence, torch.tensor([[[0.3, 1.0, 0.3]]]), 8)
    beside = 0.3 * math.exp(-0.5 / VOTE_SIGMA**2)
    assert chosen[0, 1] == 3
    assert float(confidence[0, 1]) == pytest.approx(1 / (1 + 2 * beside))


def test_of_equal_votes_the_lowest_class_wins() -> None:
    labels = torch.tensor([[[0]], [[5]], [[3]]], dtype=torch.uint8)
    nothing = torch.zeros(labels.shape)
    evidence = Evidence(labels, nothing > 0, nothing.half(), torch.ones(3), torch.arange(3))
    assert blend_labels(evidence, torch.tensor([[[0.0]], [[0.5]], [[0.5]]]), 6)[0].tolist() == [[3]]


@pytest.mark.parametrize("size", [(1, 4), (4, 1)])
def test_nothing_lands_beyond_the_far_edge(size: tuple[int, int]) -> None:
    # Half a pixel more than this is rounded up to the next one.
    flow = torch.full((2, *size), math.nextafter(0.5, 0.0)).float()
    flow[0 if size[0] == 1 else 1] = 0.0
    flow[flow != 0] = torch.nextafter(torch.tensor(0.5), torch.tensor(0.0))
    assert push_labels(torch.full(size, 6, dtype=torch.uint8), flow).tolist() == torch.full(size, 6).tolist()


ONES = torch.ones(1, 2, 8, 8)


@pytest.mark.parametrize(
    "work",
    [
        lambda: compose(ONES, torch.ones(1, 2, 64, 64)),
        lambda: warp_labels(torch.ones(1, 8, 8, dtype=torch.uint8), torch.ones(1, 2, 64, 64)),
        lambda: push_labels(torch.ones(64, 64, dtype=torch.uint8), ONES[0]),
        lambda: extend_near(Chain(ONES, torch.ones(1, 64, 64) > 0), ONES, ONES),
        lambda: elect(torch.ones(2, 8, 8, dtype=torch.int64), torch.ones(2)),
        lambda: push_labels(torch.ones(8, 8, dtype=torch.int64), ONES[0]),
    ],
)
def test_maps_that_do_not_fit_are_not_for_the_loops(work: Callable[[], object], called: set[str]) -> None:
    with contextlib.suppress(ValueError, RuntimeError, cv2.error):
        work()
    assert not called


def test_as_many_weights_as_sources_are_needed() -> None:
    with pytest.raises(ValueError, match="a weight for each of 4 sources, got 2"):
        elect(torch.ones(4, 2, 2, dtype=torch.uint8), torch.ones(2))


def compose_in_child(send: Callable[[float], None]) -> None:
    send(float(compose(torch.ones(1, 2, 200, 50), torch.ones(1, 2, 200, 50)).sum()))


def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    expected = float(compose(torch.ones(1, 2, 200, 50), torch.ones(1, 2, 200, 50)).sum())
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=compose_in_child, args=(sending.send,), daemon=True)
    process.start()
    assert receiving.poll(60)
    assert receiving.recv() == expected == 40_000
    process.join()


@pytest.fixture
def _asked_anew() -> Iterator[None]:
    cpu._compiled.cache_clear()
    yield
    cpu._compiled.cache_clear()


@pytest.mark.usefixtures("_asked_anew")
def test_numpy_does_it_where_numba_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    assert cpu.compiled(torch.ones(2, 2)) is None
    assert torch.equal(compose(torch.ones(1, 2, 5, 6), torch.ones(1, 2, 5, 6)), torch.full((1, 2, 5, 6), 2.0))


@pytest.mark.usefixtures("_asked_anew")
def test_numpy_does_it_where_compiling_is_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    # Loops over pixels in the interpreter would take minutes for a frame.
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    assert cpu.compiled(torch.ones(2, 2)) is None


@pytest.mark.usefixtures("_asked_anew")
@pytest.mark.parametrize("error", [ImportError("Numba needs NumPy 2.3 or less"), OSError("libllvmlite.so")])
def test_a_numba_that_does_not_work_is_named(
    error: Exception, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: str) -> None:
        raise error

    monkeypatch.setattr(cpu, "import_module", fails)
    assert cpu.compiled(torch.ones(2, 2)) is None
    assert str(error) in caplog.text


def test_it_works_where_nothing_can_be_kept_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def njit(function: Callable, cache: bool = False, **how: object) -> Callable:
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return compiling(function, **how)

    compiling = kernels.numba.njit
    monkeypatch.setattr(kernels.numba, "njit", njit)
    assert kernels.jit(lambda x: x + 1)(2) == 3
