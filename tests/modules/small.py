"""Arguments of short runs through the command line."""

from __future__ import annotations

FIT = ["--trainer.max_steps=2", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]


PREDICT = ["--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.devices=1", "--return_predictions=false"]


def checkpoints(folder: str) -> list[str]:
    return [
        "--trainer.callbacks=ModelCheckpoint",
        f"--trainer.callbacks.dirpath={folder}",
        "--trainer.callbacks.filename=model",
    ]


def writer(folder: str) -> list[str]:
    return ["--trainer.callbacks=LabelWriter", f"--trainer.callbacks.out={folder}"]
