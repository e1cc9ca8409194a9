"""Label images with a trained network: a student, a teacher, or what `wrp fit` has trained."""

from pathlib import Path

import pytorch_lightning as pl
from PIL import Image

import wrp
from wrp.data.synthetic.folder import generate_folder
from wrp.options import NetworkArgs, SelectArgs

scene = generate_folder(Path("scene"), num_frames=13, height=64, width=112)  # or a folder of yours
data = wrp.SegmentationData(root=str(scene), select=SelectArgs(label_every=6))
trainer = pl.Trainer(max_steps=2, limit_val_batches=0, logger=False, enable_checkpointing=False)
trainer.fit(wrp.SegmentationModule(10, NetworkArgs("FPN", "tu-regnetx_002", scale=0.5)), data)
trainer.save_checkpoint("student.ckpt")  # `wrp autolabel --student` writes one, too

labeler = wrp.load("student.ckpt")
labels, confidence = labeler.predict(scene / "frames" / "street0" / "00003.png")  # also a PIL image, array or tensor
Image.fromarray(labeler.label_map.colorize(labels.numpy())).save("labels.png")
print(f"{tuple(labels.shape)} labels of {len(labeler.names)} classes, mean confidence {confidence.mean():.2f}")
