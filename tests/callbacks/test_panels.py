"""What the loggers are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger, WandbLogger
from torch.utils.data import DataLoader

from tests.clips import make_folder
from wrp import SegmentationData, SegmentationModule
from wrp.callbacks.panels import SegmentationPanels
from wrp.errors import WrpError
from wrp.options import SamplingArgs, SelectArgs


class Shown(WandbLogger):
    """W&B without its service: what it is given is kept."""

    def __init__(self) -> None:
        self.images: list[tuple[str, Any, dict[str, Any]]] = []
        self.tables: list[tuple[str, list[str], list[list[Any]]]] = []

    def log_image(self, key: str, images: list[Any], step: int | None = None, **given: Any) -> None:
        self.images.append((key, images, given))

    def log_table(self, key: str, columns: Any = None, data: Any = None, *_: Any, **__: Any) -> None:
        self.tables.append((key, columns, data))

    def log_metrics(self, *_: Any, **__: Any) -> None:
        pass

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        pass

    def after_save_checkpoint(self, _: Any) -> None:
        pass

    def finalize(self, _: str) -> None:
        pass

    name = save_dir = version = None  # type: ignore[assignment]


@pytest.fixture
def data(tmp_path: Path) -> SegmentationData:
    root = make_folder(tmp_path / "data", {"walk": 9}, labelled=range(9))
    sampling = SamplingArgs(crop_size=(32, 32), batch_size=2, epoch_length=4)
    return SegmentationData(3, str(root), select=SelectArgs(label_every=4), sampling=sampling)


def run(logger: Any, data: SegmentationData, verb: str) -> SegmentationModule:
    module = SegmentationModule(3)
    flags = {"enable_checkpointing": False, "enable_model_summary": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", logger=logger, callbacks=[SegmentationPanels(3)], **flags)
    getattr(trainer, verb)(module, datamodule=data)
    return module


def test_wandb_gets_frames_with_masks(data: SegmentationData) -> None:
    logger = Shown()
    module = run(logger, data, "validate")
    [(key, images, given)] = logger.images  # one list, and so one step of W&B
    assert (key, len(images)) == ("val/frames", 3)
    image = images[0]
    batch = next(iter(data.val_dataloader()))
    np.testing.assert_array_equal(image, batch.images[0].permute(1, 2, 0).numpy())
    masks = given["masks"][0]
    assert len(given["masks"]) == 3
    np.testing.assert_array_equal(masks["truth"]["mask_data"], batch.labels[0].numpy())
    [predicted] = module.eval().predict_step(batch, 0)
    np.testing.assert_array_equal(masks["prediction"]["mask_data"], predicted.labels.numpy())
    assert masks["truth"]["class_labels"] == {**dict(enumerate(data.label_map.names)), 255: "(none)"}
    assert given["caption"][0] == f"walk {batch.stems[0]}"


def test_wandb_gets_the_classes_by_name_after_a_test(data: SegmentationData) -> None:
    logger = Shown()
    run(logger, data, "test")
    [(key, columns, rows)] = logger.tables
    assert (key, columns) == ("test/classes", ["class", "IoU"])
    assert {name for name, _ in rows} <= set(data.label_map.names)
    assert all(0 <= iou <= 100 for _, iou in rows)


def test_tensorboard_gets_panels(data: SegmentationData, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path))
    run(logger, data, "validate")
    run(logger, data, "test")
    events = EventAccumulator(logger.log_dir).Reload()
    [first, *others] = events.Tags()["images"]
    assert len(others) == 2
    [panel] = events.Images(first)
    frame = next(iter(data.val_dataloader())).images
    assert (panel.height, panel.width) == (frame.shape[2], 3 * frame.shape[3])
    assert "test/classes/text_summary" in events.Tags()["tensors"]


def test_other_loggers_are_left_alone(data: SegmentationData, tmp_path: Path) -> None:
    run(CSVLogger(str(tmp_path)), data, "validate")


def test_data_without_names_of_classes_are_refused(data: SegmentationData) -> None:
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[SegmentationPanels()], enable_checkpointing=False)
    with pytest.raises(WrpError, match="SegmentationPanels needs names and colours of classes"):
        trainer.validate(SegmentationModule(3), data.val_dataloader())
    plain = {"image": torch.rand(1, 3, 32, 32), "mask": torch.zeros(1, 32, 32, dtype=torch.long)}
    data.val_dataloader = lambda: DataLoader([plain], batch_size=None)  # type: ignore[method-assign, arg-type]
    with pytest.raises(WrpError, match="shows the frames of a FrameBatch, got a dict"):
        trainer.validate(SegmentationModule(3), data)
