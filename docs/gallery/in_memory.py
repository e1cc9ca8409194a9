"""Label the frames between two labels that are in memory: no folder, no file, no Trainer."""

import torch

import wrp
from wrp.data.synthetic.scene import render_clip
from wrp.metrics.segmentation import SegmentationScore
from wrp.structures import ClipBatch

clip = render_clip(num_frames=9, height=64, width=112)  # or frames and labels of yours
frames = [torch.from_numpy(frame).permute(2, 0, 1) for frame in clip.frames]  # (3, H, W) uint8
truth = torch.from_numpy(clip.labels)  # (N, H, W) uint8
names = [f"{number:05d}" for number in range(9)]
interval = ClipBatch("street", names, 0, frames, labels={0: truth[0], 8: truth[8]}, queries=(0, 9))

score = SegmentationScore(num_classes=10)
for made in wrp.PropagationModule(10, ["motion"]).session(interval):
    print(f"frame {made.index}: {made.method} from keyframes {made.keyframes}, sure of {made.confidence.mean():.0%}")
    if made.method != "keyframe":
        score.update(made.labels[None], truth[made.index][None])
print(f"mIoU of the frames without a label: {100 * score.compute():.1f}")
