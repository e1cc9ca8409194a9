"""Steadiness of labels along a video."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wrp.metrics.temporal import VideoConsistency


@pytest.mark.parametrize("length", [2, 4])
def test_video_consistency_is_that_of_the_definition(length: int) -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 2, (7, 6, 8)).astype(np.uint8)
    truth[:, :3] = truth[0, :3]  # a part that stays the same
    truth[2, 0, :4] = 255
    prediction = np.where(generator.random(truth.shape) < 0.8, truth, 1 - truth.clip(max=1))
    score, ratios = VideoConsistency(length), []
    score.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    for start in range(7 - length + 1):
        common = hits = 0
        for y in range(6):
            for x in range(8):
                true = truth[start : start + length, y, x]
                if len(set(true.tolist())) == 1 and true[0] != 255:
                    common += 1
                    hits += bool((prediction[start : start + length, y, x] == true).all())
        ratios.append(hits / common)
    assert score.compute().item() == pytest.approx(np.mean(ratios))
    score.update(torch.from_numpy(prediction[: length - 1]), torch.from_numpy(truth[: length - 1]))
    assert score.compute().item() == pytest.approx(np.mean(ratios)), "a clip that is too short has no stretch"


def test_a_stretch_of_one_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 frames, got 1"):
        VideoConsistency(1)
