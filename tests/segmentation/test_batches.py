"""Batches that other data modules serve: dictionaries with an image and a mask."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tests.segmentation.small import QUIET, Linear, frames
from wrp import SegmentationModule
from wrp.errors import WrpError
from wrp.geometry.consistency import to_unit
from wrp.segmentation.batches import as_frames
from wrp.structures import FrameBatch


class Plain(pl.LightningDataModule):
    """Some images with masks, in the given types."""

    def __init__(self, images: torch.dtype = torch.float32, masks: torch.dtype = torch.int64, channel: bool = False):
        super().__init__()
        batch = frames(4)
        pictures = batch.images if images == torch.uint8 else (batch.images / 255).to(images)
        labels = batch.labels.to(masks)
        labels[:, :4] = 255
        labels = labels[:, None] if channel else labels
        self.items = [{"image": pictures[i], "mask": labels[i]} for i in range(4)]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.items, batch_size=2)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = predict_dataloader = train_dataloader


def test_floating_point_is_taken_as_it_is_and_bytes_are_divided() -> None:
    pictures = frames().images
    assert torch.equal(to_unit(pictures), pictures.float() / 255)
    assert torch.equal(to_unit(pictures.float() / 255), pictures.float() / 255)
    assert to_unit(torch.ones(1, 3, 2, 2, dtype=torch.bfloat16)).dtype == torch.float32
    module = SegmentationModule(3, net=Linear()).eval()
    with torch.no_grad():
        given = module.probabilities(pictures), module.probabilities(pictures.float() / 255)
    assert torch.equal(*given)


@pytest.mark.parametrize("images", [torch.uint8, torch.float32, torch.float16])
@pytest.mark.parametrize(("masks", "channel"), [(torch.int64, False), (torch.uint8, True)])
def test_plain_batches_are_trained_validated_tested_and_predicted(
    images: torch.dtype, masks: torch.dtype, channel: bool
) -> None:
    torch.manual_seed(0)
    module = SegmentationModule(3, net=Linear())
    again = SegmentationModule(3, net=Linear())
    again.load_state_dict(module.state_dict())
    trainer = pl.Trainer(**{**QUIET, "max_epochs": 1})
    trainer.fit(module, Plain(images, masks, channel))
    assert "val/miou" in trainer.callback_metrics
    [scores] = trainer.test(module, Plain(images, masks, channel), verbose=False)
    predictions = [one for batch in trainer.predict(module, Plain(images, masks, channel)) or [] for one in batch]
    assert [one.stem for one in predictions] == ["000000", "000001", "001000", "001001"]

    class Own(Plain):
        """The same as this package's batches."""

        def train_dataloader(self) -> DataLoader[Any]:
            def join(items: list[dict[str, Tensor]]) -> FrameBatch:
                pictures, labels = (torch.stack([item[key] for item in items]) for key in ("image", "mask"))
                return FrameBatch(pictures, labels, ["", ""], ["a", "b"], [0, 1])

            return DataLoader(self.items, batch_size=2, collate_fn=join)  # type: ignore[arg-type]

        val_dataloader = test_dataloader = predict_dataloader = train_dataloader

    other = pl.Trainer(**{**QUIET, "max_epochs": 1})
    other.fit(again, Own(images if images == torch.uint8 else torch.float32, torch.uint8))
    if images != torch.float16:
        assert other.test(again, Own(images, torch.uint8), verbose=False) == [scores]
        assert torch.equal(module.net.head.weight, again.net.head.weight)  # type: ignore[union-attr]


IMAGE, MASK = torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"image": IMAGE + 2, "mask": MASK}, "got float32 from 2 to 2: do not normalise them"),
        ({"image": IMAGE - 0.5, "mask": MASK}, "got float32 from -0.5 to -0.5"),
        ({"image": IMAGE / 0, "mask": MASK}, "got float32 from nan to nan"),
        ({"image": IMAGE.long(), "mask": MASK}, "images must be uint8, or floating point in .* got int64"),
        ({"image": IMAGE.movedim(1, 3), "mask": MASK}, r"\(B, 3, H, W\), got \(2, 8, 8, 3\) float32"),
        ({"image": IMAGE[0], "mask": MASK}, r"got \(3, 8, 8\) float32"),
        ({"image": [1], "mask": MASK}, "images must be a tensor .* got a list"),
        ({"image": IMAGE, "mask": MASK.float()}, r"integers \(2, 8, 8\) or \(2, 1, 8, 8\), got \(2, 8, 8\) float32"),
        ({"image": IMAGE, "mask": MASK[:, :4]}, r"got \(2, 4, 8\) int64"),
        ({"image": IMAGE, "mask": MASK + 3}, "classes 0 … 2, and 255 where there is none, got 3"),
        ({"image": IMAGE, "mask": MASK - 1}, "got -1"),
        ({"image": IMAGE, "mask": MASK + 256}, "got 256"),
        ({"pixels": IMAGE, "mask": MASK}, "with image and mask, got a dictionary of pixels, mask"),
        ({"labelled": frames(), "unlabelled": frames()}, "keep two kinds apart"),
        ((IMAGE, MASK), "single frames, got a tuple: use --data SegmentationData, or serve"),
    ],
)
def test_other_batches_are_refused_in_one_line(batch: Any, message: str) -> None:
    module = SegmentationModule(3, net=Linear())
    for step in (module.training_step, module.validation_step, module.test_step, module.predict_step):
        with pytest.raises(WrpError, match=message) as error:
            step(batch, 0)
        assert "\n" not in str(error.value)


def test_values_near_the_ends_are_rounding() -> None:
    as_frames({"image": IMAGE - 0.001, "mask": MASK}, 3)
    as_frames({"image": IMAGE + 1.001, "mask": MASK}, 3)


def test_names_of_images_and_a_lack_of_masks() -> None:
    batch = as_frames({"image": IMAGE, "stem": ["x", "y"]}, 3)
    assert batch.stems == ["x", "y"]
    assert batch.clips == ["images"] * 2
    assert as_frames({"image": IMAGE, "stem": ["x", "y"], "clip": ["a", "b"]}, 3).clips == ["a", "b"]
    assert (batch.labels == 255).all()


def test_values_on_a_gpu_are_checked_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each check waits for it."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    wrong = {"image": IMAGE.cuda() + 2, "mask": MASK.cuda()}
    for number in (0, 50):
        with pytest.raises(WrpError, match="do not normalise"):
            as_frames(wrong, 3, number)
    as_frames(wrong, 3, 1)
