"""Use an optical flow of your own: here Farnebäck's, of OpenCV."""

from pathlib import Path

import cv2
import numpy as np
import pytorch_lightning as pl
import torch

import wrp
from wrp.data.synthetic.folder import generate_folder
from wrp.options import SelectArgs


class Farneback(wrp.FlowEstimator):
    """Estimate flow by polynomial expansion."""

    @property
    def signature(self):
        """Name all that the flow depends on: kept flow of another one is not used."""
        return f"farneback, scale={self.scale}, opencv={cv2.__version__}"

    def estimate(self, frames_s, frames_t, pairs):
        """Return flow (B, 2, H, W) float32 in pixels from frames (B, 3, H, W) uint8 to others."""
        grey = [[cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_RGB2GRAY) for f in frames.permute(0, 2, 3, 1).numpy()]
                for frames in (frames_s, frames_t)]  # fmt: skip
        found = [cv2.calcOpticalFlowFarneback(*two, None, 0.5, 3, 15, 3, 5, 1.2, 0) for two in zip(*grey, strict=True)]
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).to(frames_s.device)


scene = generate_folder(Path("scene"), num_frames=13, height=64, width=112)  # or a folder of yours
data = wrp.PropagationData(root=str(scene), select=SelectArgs(label_every=6))
for flow in (Farneback(), "dis-best"):
    module = wrp.PropagationModule(10, ["motion"], flow=flow)
    [scores] = pl.Trainer(logger=False).test(module, data, verbose=False)
    print(f"{flow if isinstance(flow, str) else 'Farnebäck'}: mIoU {scores['test/motion/miou']:.1f}")
