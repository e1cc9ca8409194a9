"""Score labels of a video: mIoU against truth, and how steady they are from frame to frame."""

import torch

import wrp
from wrp.data.synthetic.scene import CLASSES, render_clip
from wrp.flow import DIS
from wrp.metrics.segmentation import SegmentationScore
from wrp.metrics.temporal import TemporalConsistency
from wrp.structures import ClipBatch

clip = render_clip(num_frames=9, height=64, width=112)
frames = [torch.from_numpy(frame).permute(2, 0, 1).contiguous() for frame in clip.frames]
truth = torch.from_numpy(clip.labels)
names = [f"{number:05d}" for number in range(9)]
interval = ClipBatch("street", names, 0, frames, labels={0: truth[0]}, queries=(0, 9))

flow, score, steady = DIS(), SegmentationScore(10), TemporalConsistency(10)
previous = truth[0]
for made in wrp.PropagationModule(10, ["copy"]).session(interval, only=set(range(1, 9))):
    score.update(made.labels[None], truth[made.index][None])  # (B, H, W) uint8 each
    flow_bw = flow(frames[made.index][None], frames[made.index - 1][None])
    steady.update(previous, made.labels, flow_bw)
    previous = made.labels
by_class = {name: f"{100 * iou:.0f}" for (name, _), iou in zip(CLASSES[:10], score.per_class(), strict=True)}
print(f"mIoU {100 * score.compute():.1f}, temporal consistency {100 * steady.compute():.1f}, by class {by_class}")
