"""What a GPU is fed with: several frames in one call, and no waiting for it in between."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.propagation.small import CLASSES, BrightnessTeacher, IdentityRefiner, stretch
from tests.refinement.small import Constant
from wrp import LabelWriter, PropagationModule, RefinementModule
from wrp.callbacks import writer
from wrp.data.synthetic.folder import label_map
from wrp.errors import WrpError
from wrp.flow.hashing import content_hash
from wrp.options import RefinerArgs
from wrp.propagation.session import PropagationSession
from wrp.refinement.module import teacher_probabilities
from wrp.structures import ClipBatch, RefinerInput
from wrp.testing import generated_interval

METHODS = ["motion", "semantic", "inpaint", "refine"]


class Counting:
    """A teacher and a refiner that note how many frames they are given in each call."""

    def __init__(self) -> None:
        self.teacher: list[int] = []
        self.refiner: list[int] = []
        outer = self

        class Teacher(BrightnessTeacher):
            def probabilities(self, images: Tensor) -> Tensor:
                outer.teacher.append(len(images) // 2)  # each with its mirror image
                return super().probabilities(images)

        class Refiner(IdentityRefiner):
            def forward(self, inputs: RefinerInput) -> Tensor:
                outer.refiner.append(len(inputs.image) // 2)
                return super().forward(inputs)

        self.networks = Teacher(), Refiner()


@pytest.mark.parametrize(
    ("frames", "calls"), [(None, [1] * 19), (1, [1] * 19), (3, [3, 1, 3, 1, 3, 3, 3, 2]), (8, [8, 8, 3])]
)
def test_networks_take_several_frames_in_a_call(frames: int | None, calls: list[int]) -> None:
    counting = Counting()
    flow = Constant(False)
    module = PropagationModule(CLASSES, METHODS, *counting.networks, flow, frames_per_call=frames)
    list(module.session(stretch((0, 20), 0, 20, (0, 20))))
    assert (counting.teacher, counting.refiner) == (calls, calls)


def test_several_frames_in_a_call_get_the_labels_of_one() -> None:
    interval, flow, scene = generated_interval(10, (48, 64))
    torch.manual_seed(0)
    classes = int(scene.labels[scene.labels < 255].max()) + 1
    refiner = RefinementModule(classes, RefinerArgs(channels=(8, 16))).eval()
    torch.nn.init.normal_(refiner.net.head.weight, std=0.2)  # type: ignore[union-attr, arg-type]

    class Teacher(torch.nn.Module):
        num_classes = classes

        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Conv2d(3, classes, 5, padding=2)

        def probabilities(self, images: Tensor) -> Tensor:
            return self.net(images.float() / 100).softmax(1)

    teacher = Teacher()
    one, several = (
        list(PropagationModule(classes, METHODS, teacher, refiner, flow, frames_per_call=n).session(interval))
        for n in (1, 5)
    )
    assert len(one) == 8 * len(METHODS) + 2
    for expected, found in zip(one, several, strict=True):
        assert (found.index, found.method) == (expected.index, expected.method)
        assert (found.labels == expected.labels).float().mean() >= 0.999
        torch.testing.assert_close(found.confidence, expected.confidence, atol=0.01, rtol=0)


def test_only_as_many_more_frames_are_held() -> None:
    held = []

    def watch(session: PropagationSession) -> Iterator[int]:
        for _ in session.frames():
            [work] = session._running
            yield len(work.gi_frame.f_locals["self"].known)  # type: ignore[attr-defined]

    for frames in (1, 8):
        networks = BrightnessTeacher(), IdentityRefiner(), Constant(False)
        module = PropagationModule(CLASSES, METHODS, *networks, frames_per_call=frames)
        held.append(max(watch(module.session(stretch((0, 24), 0, 24, (0, 24))))))
    assert held == [9, 9 + 7]


def test_frames_that_are_far_apart_are_not_all_held_at_once() -> None:
    counting = Counting()
    module = PropagationModule(CLASSES, ["refine"], *counting.networks, Constant(False), frames_per_call=4)
    session = module.session(stretch((0, 40), 0, 40, (0, 41)), only={8, 20, 32})
    next(iter(session))
    assert sum(counting.refiner) == 7  # those that vote at the first frame


def test_the_number_of_frames_is_checked() -> None:
    with pytest.raises(WrpError, match="frames_per_call must be at least 1, .*, got 0"):
        PropagationModule(CLASSES, frames_per_call=0)


def test_the_teacher_takes_one_frame_or_several() -> None:
    frames = torch.randint(0, 256, (3, 3, 8, 12), dtype=torch.uint8)
    several = teacher_probabilities(BrightnessTeacher(), frames, CLASSES)
    for frame, probs in zip(frames, several, strict=True):
        torch.testing.assert_close(teacher_probabilities(BrightnessTeacher(), frame, CLASSES), probs)
    assert teacher_probabilities(None, frames, CLASSES).shape == several.shape == (3, CLASSES, 8, 12)


class _Ops(TorchDispatchMode):
    """Counts operations that read a tensor's values to go on, whatever calls them."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "masked_select") or name.startswith(("unique", "_unique")):
            self.found[name] += 1
        if name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype == torch.bool for i in args[1]
        ):
            self.found[f"{name} by a mask"] += 1
        return func(*args, **(kwargs or {}))


class Waits(TorchFunctionMode):
    """Counts what would wait for a GPU, or copy from it or to it, if the tensors were there."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()
        self.on_host: list[Tensor] = []
        self.ops = _Ops(self.found)

    def __enter__(self) -> Any:
        self.ops.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.ops.__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        made = func(*args, **kwargs)
        if name in ("cpu", "tolist", "item", "tensor", "as_tensor", "new_tensor", "from_numpy") or (
            name == "numpy" and not any(_one_storage(args[0], there) for there in self.on_host)
        ):
            self.found[name] += 1
        elif name == "to" and "cpu" in args:
            self.found["to the host"] += 1
            self.on_host.append(made)
        return made


def _one_storage(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def count_waits(methods: list[str], frames: int, out: Path) -> Counter[str]:
    """Label and write an interval of so many frames between two keyframes, on which no numpy works."""
    batch = stretch((0, frames + 1), 0, frames + 1, (0, frames + 1))
    batch = replace(batch, hashes={index: content_hash(frame) for index, frame in enumerate(batch.frames)})  # type: ignore[arg-type]
    module = PropagationModule(
        CLASSES, methods, BrightnessTeacher(), IdentityRefiner(), Constant(True), frames_per_call=8
    )
    trainer: Any = SimpleNamespace(datamodule=SimpleNamespace(label_map=label_map(CLASSES)))
    with Waits() as waits:
        LabelWriter(str(out)).write_on_batch_end(trainer, module, module.session(batch), None, batch, 0, 0)
    assert len(list(out.glob("labels/*/*.png"))) == frames + 1
    return waits.found


@pytest.mark.parametrize("methods", [METHODS, [f"{name}:previous" for name in METHODS if name != "semantic"]])
def test_labelling_waits_once_in_several_frames(
    methods: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_after_the_other(items: Iterator[Any]) -> Iterator[Any]:
        yield from items  # in this thread, as operations are counted in one

    for name, module in list(sys.modules.items()):
        if name.startswith("wrp.") and hasattr(module, "serves"):
            monkeypatch.setattr(module, "serves", lambda *_: False)
        if name.startswith("wrp.") and hasattr(module, "prefetch"):
            monkeypatch.setattr(module, "prefetch", one_after_the_other)
    monkeypatch.setattr(writer, "_frames_per_copy", lambda device: writer.FRAMES_PER_COPY)
    monkeypatch.setattr(writer, "FRAMES_PER_COPY", 4)
    monkeypatch.setattr(ClipBatch, "to", lambda self, *_, **__: self)  # the interval is moved once
    short, long = (count_waits(methods, frames, tmp_path / str(frames)) for frames in (6, 14))
    assert long - short == {"to the host": 2}


def test_page_locked_memory_and_devices_keep_the_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append(self) or self.clone())
    batch = stretch((4, 6), 4, 6, (4, 7))
    batch = replace(batch, hashes={4: b"hash"}, held_out={5: batch.labels[4]})
    for copy in (batch.pin_memory(), batch.pin_memory().to("cpu", non_blocking=True)):
        assert copy.hashes is batch.hashes  # frames that are read on access add theirs later
        assert torch.equal(copy.frame(5), batch.frame(5))
        assert torch.equal(copy.labels[6], batch.labels[6])
        assert torch.equal(copy.held_out[5], batch.held_out[5])
    assert len(pinned) == 2 * (3 + 2 + 1)


def test_frames_that_are_read_on_access_are_not_read_to_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Tensor:
            raise AssertionError("read")

    monkeypatch.setattr(Tensor, "pin_memory", Tensor.clone)
    batch = replace(stretch((4, 6), 4, 6, (4, 7)), frames=Late())
    assert batch.pin_memory().frames is batch.frames
