"""Take a network to programs without PyTorch: ONNX (extra `onnx`), as `wrp export-model --format onnx` does."""

import json
from pathlib import Path

import numpy as np
import onnxruntime

import wrp
from wrp.data.synthetic.folder import label_map
from wrp.options import NetworkArgs
from wrp.segmentation.export import export_onnx
from wrp.segmentation.labeler import Labeler

module = wrp.SegmentationModule(10, NetworkArgs("FPN", "tu-regnetx_002", scale=0.5))
labeler = Labeler(module, label_map(10))  # or wrp.load("student.ckpt")
export_onnx(labeler, Path("student.onnx"))  # it compares what it has written with the network

session = onnxruntime.InferenceSession("student.onnx", providers=["CPUExecutionProvider"])
classes = json.loads(session.get_modelmeta().custom_metadata_map["wrp_classes"])
image = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)  # of any size
batch = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
[probabilities] = session.run(["probabilities"], {"images": batch})
theirs = probabilities[0].argmax(0)
ours, _ = labeler.predict(image)
print(f"{classes['names'][:3]} …; the same label at {(theirs == ours.numpy()).mean():.1%} of the pixels")
