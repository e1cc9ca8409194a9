"""Save a picture of the first validation frame after each validation: a callback of your own."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from PIL import Image

import wrp
from wrp.data.synthetic.folder import generate_folder
from wrp.options import NetworkArgs, SelectArgs


class FirstFrame(pl.Callback):
    """Write frame, truth and prediction side by side."""

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        """Look at the first batch alone."""
        if batch_idx > 0 or trainer.sanity_checking:
            return
        predicted = module.probabilities(batch.images[:1]).argmax(1).to(torch.uint8)
        paint = trainer.datamodule.label_map.colorize
        frame = batch.images[0].permute(1, 2, 0).cpu().numpy()
        pictures = [frame, paint(batch.labels[0].cpu().numpy()), paint(predicted[0].cpu().numpy())]
        joined = torch.cat([torch.from_numpy(picture) for picture in pictures], 1)
        Image.fromarray(joined.numpy()).save(f"step-{trainer.global_step}.png")


scene = generate_folder(Path("scene"), num_frames=13, height=64, width=112)  # or a folder of yours
data = wrp.SegmentationData(root=str(scene), select=SelectArgs(label_every=6))
module = wrp.SegmentationModule(10, NetworkArgs("FPN", "tu-regnetx_002", scale=0.5))
often = {"max_steps": 4, "val_check_interval": 2, "check_val_every_n_epoch": None, "limit_val_batches": 2}
pl.Trainer(**often, logger=False, enable_checkpointing=False, callbacks=[FirstFrame()]).fit(module, data)
print(sorted(path.name for path in Path().glob("step-*.png")))
