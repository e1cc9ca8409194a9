import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wrp import SegmentationData
from wrp.cli.main import main
from wrp.data.propagated import PropagatedLabels
from wrp.data.synthetic.folder import generate_folder
from wrp.io.opening import parse_json
from wrp.options import SamplingArgs, SelectArgs


@pytest.mark.slow
def test_labels_are_weighed_by_their_anchors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = generate_folder(tmp_path / "scene", num_classes=8, num_frames=9, height=64, width=96)
    out = tmp_path / "out"
    small = ["--methods=motion,semantic", "--teacher-steps=2", "--weights=none", "--label-every=4"]
    assert main(["autolabel", str(scene), f"--out={out}", *small]) == 0
    capsys.readouterr()
    assert main(["rectify", str(out)]) == 0
    printed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [int(distance) for distance, _ in printed] == [1, 2]
    assert set(json.loads((out / "drift.json").read_text())) == {"1", "2"}
    written = sorted((out / "rectified" / "street0").glob("*.png"))
    assert [path.stem for path in written] == [f"{i:05d}" for i in (1, 2, 3, 5, 6, 7)]
    weights = np.array(Image.open(written[0]))
    assert weights.shape == (64, 96)
    assert weights.std() > 0
    labels = PropagatedLabels(str(out), 1.0, weights="rectified")
    sampling = SamplingArgs((32, 32), epoch_length=8)
    data = SegmentationData(8, str(scene), select=SelectArgs(label_every=4), propagated=labels, sampling=sampling)
    assert all(batch.weights is not None for batch in data.train_dataloader())
    # A frame without any class of its anchor says nothing of the drift, which stays a number.
    nothing = np.full((64, 96), 255, np.uint8)
    Image.fromarray(nothing).save(out / "labels" / "street0" / "00001.png")
    assert main(["rectify", str(out)]) == 0
    drift = parse_json((out / "drift.json").read_text())
    assert all(0 < value < 100 for value in drift.values())


def test_a_run_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rectify", str(tmp_path)]) == 2
    assert "expected the output of `wrp autolabel`" in capsys.readouterr().err
