"""Add a propagation method of your own and compare it with `motion`."""

from pathlib import Path

import pytorch_lightning as pl

import wrp
from wrp.data.synthetic.folder import generate_folder
from wrp.geometry.fusion import blend, blend_weights
from wrp.geometry.labels import argmax_frame
from wrp.options import NetworkArgs, SelectArgs
from wrp.propagation.methods.base import Needs


class Average(wrp.PropagationMethod):
    """Take the mean of motion and teacher."""

    needs = Needs(warped=True, teacher=True)

    def predict(self, query, state):
        """Return labels and confidence (H, W) of one frame."""
        motion = blend(query.warped, blend_weights(query.warped), state.num_classes)
        return argmax_frame((motion + query.teacher_probs) / 2)


class MyPropagation(wrp.PropagationModule):
    """Know one more method."""

    known_methods = {**wrp.PropagationModule.known_methods, "average": Average}


scene = generate_folder(Path("scene"), num_frames=13, height=64, width=112)  # or a folder of yours
teacher = wrp.SegmentationModule(
    10, NetworkArgs("FPN", "tu-regnetx_002", scale=0.5)
)  # untrained here; else the path of its checkpoint
module = MyPropagation(10, ["motion", "average"], teacher)
data = wrp.PropagationData(root=str(scene), select=SelectArgs(label_every=6))
[scores] = pl.Trainer(logger=False).test(module, data, verbose=False)
print({name: round(value, 1) for name, value in scores.items() if name.endswith("/miou")})
