"""The exact small cases of the three systems."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wrp.segmentation.losses import cross_entropy
from wrp.selftraining.average import update_average
from wrp.selftraining.cisc_r import (
    QueryIndex,
    cisc_map,
    classes_shown,
    consistency_bce,
    image_reliability,
    masked_pool,
    rectified_loss,
    rectify_by_anchor,
    rectify_weight,
)
from wrp.selftraining.st_plus_plus import (
    checkpoint_epochs,
    prediction_agreement,
    repeat_labelled,
    split_reliable,
    split_reliable_by_clip,
    stability,
    video_reliability,
)
from wrp.selftraining.three_stage import ema_decay, three_stage_loss, warp_by_grid

FIRST, LAST = torch.tensor([[0, 0], [1, 1]]), torch.tensor([[0, 1], [1, 1]])


def test_agreement_is_over_the_classes_that_occur() -> None:
    assert prediction_agreement(FIRST, LAST, 3) == pytest.approx(0.58333, abs=1e-5)
    assert stability([FIRST, LAST, LAST], 3) == pytest.approx(0.791667, abs=1e-6)


def test_the_better_half_is_reliable_and_the_earlier_of_equals_wins() -> None:
    assert split_reliable({"a": 0.1, "b": 0.9, "c": 0.5, "d": 0.5, "e": 0.2}) == (["b", "c"], ["d", "e", "a"])
    assert split_reliable({"a": 0.1}) == (["a"], [])
    frames = {("easy", 0): 0.9, ("easy", 1): 0.8, ("hard", 0): 0.2, ("hard", 1): 0.3}
    assert split_reliable_by_clip(frames) == ([("easy", 0), ("hard", 1)], [("easy", 1), ("hard", 0)])


def test_half_of_a_frames_score_is_agreement_with_its_propagated_label() -> None:
    assert video_reliability(0.5, LAST, LAST, 3) == 0.75
    unknown = torch.tensor([[0, 255], [255, 255]])
    assert video_reliability(1.0, LAST, unknown, 3) == 1.0


def test_checkpoints_are_kept_at_thirds_and_labelled_images_repeated() -> None:
    assert checkpoint_epochs(80) == (26, 53, 80)
    assert repeat_labelled(10, 25) == 3


def test_masked_pool() -> None:
    features = torch.tensor([[[1.0, 3.0], [5.0, 7.0]], [[2.0, 2.0], [2.0, 2.0]]])[None]
    mask = torch.tensor([[1, 0], [0, 1]])[None]
    torch.testing.assert_close(masked_pool(features, mask), torch.tensor([[3.9990, 1.9995]]), rtol=0, atol=1e-4)
    assert not masked_pool(features, torch.zeros(1, 2, 2)).any()
    assert masked_pool(features, torch.ones(1, 8, 8)).shape == (1, 2)


def pixels(*vectors: tuple[float, float]) -> Tensor:
    """Features (1, 2, 1, N)."""
    return torch.tensor(vectors).T[None, :, None]


def test_cisc_map() -> None:
    features = pixels((1, 0), (0, 1), (1, 1), (0, 0))
    found = cisc_map(features, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[[1.0, 0.0, 0.7071, 0.0]]]), rtol=0, atol=1e-4)
    nothing = cisc_map(features, torch.zeros(1, 2))
    assert not nothing.any()
    assert cisc_map(features, torch.ones(1, 2), (4, 16)).shape == (1, 4, 16)


MASK, SIMILAR = torch.tensor([1, 1, 0, 0]), torch.tensor([0.9, 0.2, 0.1, 0.8])


def test_rectify_weight() -> None:
    torch.testing.assert_close(rectify_weight(MASK, SIMILAR), torch.tensor([0.9, 0.2, 0.9, 0.2]))
    assert (rectify_weight(torch.zeros(4), torch.zeros(4)) == 1).all()
    assert not rectify_weight(MASK, SIMILAR.clone().requires_grad_()).requires_grad


def test_rectified_cross_entropy_over_all_and_over_valid_pixels() -> None:
    logits, pseudo = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 1, 255, 1]]])
    weight = rectify_weight(MASK, SIMILAR).view(1, 1, 4)
    assert float(rectified_loss(logits, pseudo, weight, paper_mean=True)) == pytest.approx(0.2253, abs=1e-4)
    assert float(rectified_loss(logits, pseudo, weight)) == pytest.approx(0.3004, abs=1e-4)
    assert rectified_loss(logits, torch.full_like(pseudo, 255), weight) == 0


def test_rectified_cross_entropy_counts_the_pixels_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, pseudo, weight = torch.zeros(1, 2, 1, 4), torch.zeros(1, 1, 4, dtype=torch.uint8), torch.ones(1, 1, 4)
    alone = rectified_loss(logits, pseudo, weight)
    monkeypatch.setattr("wrp.segmentation.losses.mean_over_processes", lambda sums: sums / 2)
    assert float(rectified_loss(logits, pseudo, weight)) == pytest.approx(2 * float(alone))


def test_consistency_cross_entropy() -> None:
    shape = (1, 1, 4)
    found = consistency_bce(SIMILAR.view(shape), MASK.view(shape), torch.zeros(shape))
    assert float(found) == pytest.approx(0.8574, abs=1e-4)
    beyond = torch.tensor([1.00000095, -0.0000001]).view(1, 1, 2)
    wrong = consistency_bce(beyond, torch.tensor([0, 1]).view(1, 1, 2), torch.zeros(1, 1, 2))
    assert float(wrong) < 12


def test_image_reliability() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]).T.view(2, 2, 2)
    labels = torch.tensor([[0, 0], [1, 1]])
    assert image_reliability(features, labels, torch.eye(2), mean=False) == pytest.approx(0.28486, abs=5e-5)
    assert image_reliability(features, labels, torch.eye(2)) == pytest.approx(0.14243, abs=5e-5)


def test_a_label_is_rectified_by_its_anchors_classes() -> None:
    pseudo = torch.zeros(1, 1, dtype=torch.long)
    for cosines, expected in (((0.9, 0.1), 0.9), ((0.2, 0.8), 0.2)):
        # Two prototypes with these cosines to the one feature.
        prototypes = {c: torch.tensor([s, (1 - s * s) ** 0.5]) for c, s in enumerate(cosines)}
        weight = rectify_by_anchor(pseudo, torch.tensor([1.0, 0.0]).view(2, 1, 1), prototypes)
        assert float(weight) == pytest.approx(expected, abs=1e-5)
    assert (rectify_by_anchor(pseudo, torch.zeros(2, 1, 1), {}) == 1).all()


def test_queries_come_from_images_that_show_the_classes() -> None:
    label = torch.zeros(10, 10, dtype=torch.uint8)
    label[0, :3], label[1, :2] = 1, 2
    assert classes_shown(label, 4) == [0, 1]
    index = QueryIndex([[0], [0, 1], [1], [2]])
    assert {index.draw([1], i / 10) for i in range(10)} == {1, 2}
    # Image 1 shows both classes, so it is drawn as often as the other two together.
    assert [index.draw([0, 1], i / 4) for i in range(4)] == [0, 1, 1, 2]
    assert {index.draw([7], i / 10) for i in range(10)} == {0, 1, 2, 3}
    index.keep_best({(0, 0): 0.9, (0, 1): 0.1, (1, 1): 0.5, (1, 2): 0.2, (2, 3): 1.0})
    assert index.images == {0: [1], 1: [2], 2: [3]}


def test_three_stage_loss() -> None:
    parts = [torch.tensor(value) for value in (1.2, 0.8, 0.4)]
    assert float(three_stage_loss(*parts)) == pytest.approx(1.5)
    assert float(three_stage_loss(*parts, supervised_weight=0.5)) == pytest.approx(0.9)


def test_the_average_moves_by_its_decay() -> None:
    average, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        average.weight.fill_(1)
        student.weight.fill_(3)
    update_average(average, student, 0.99)
    assert float(average.weight) == pytest.approx(1.02)
    steps = 100_000
    assert [ema_decay(step, steps) for step in (24_999, 25_000, 50_000, 75_000, steps)] == [
        0.99, 0.995, 0.9975, 0.999, 0.999
    ]  # fmt: skip


def test_little_of_the_untrained_network_is_left_in_the_average() -> None:
    left = 1.0
    for step in range(300):
        left *= ema_decay(step, 300)
    assert left < 1e-9
    assert ema_decay(0, 300) == 0.1


def test_labels_are_warped_by_a_grid() -> None:
    labels = torch.tensor([[[1, 2], [3, 4]]])
    flipped = torch.tensor([[[0.5, -0.5], [-0.5, -0.5]], [[0.5, 0.5], [-0.5, 0.5]]])[None]
    valid = torch.tensor([[[True, True], [False, True]]])
    assert warp_by_grid(labels, flipped, valid).tolist() == [[[2, 1], [255, 3]]]


def test_a_mean_over_nothing_is_zero() -> None:
    assert cross_entropy(torch.zeros(1, 2, 1, 1), torch.full((1, 1, 1), 255)) == 0
