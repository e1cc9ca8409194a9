import pytest
import torch
from torch import Tensor

from wrp.geometry.labels import near_border
from wrp.metrics.propagation import PropagationScore, Truth

NO_REGIONS = {"miou_trimap": None, "miou_inside_error": None, "miou_outside_error": None}


def row(*labels: int) -> Tensor:
    return torch.tensor([labels], dtype=torch.uint8)


@pytest.fixture
def score() -> PropagationScore:
    score = PropagationScore(3, ["motion", "refine"], max_distance=5)
    truth = row(0, 0, 1, 1)
    score.update("motion", row(0, 0, 1, 1), None, Truth(truth, 1))
    score.update("motion", row(0, 1, 1, 1), None, Truth(truth, 2))
    score.update("motion", row(0, 255, 1, 1), None, Truth(truth, 2))
    score.update("refine", row(0, 0, 1, 1), None, Truth(truth, 2))
    return score


def test_methods_and_distances_are_counted_apart(score: PropagationScore) -> None:
    result = score.compute()
    assert list(result) == ["motion", "refine"]
    assert result["motion"]["frames"] == 3
    # Distance 2: class 0 is right at 2 of 4 pixels, class 1 at 4 of 4 and wrong at one more.
    assert result["motion"]["by_distance"] == {"1": 100.0, "2": pytest.approx(100 * (2 / 4 + 4 / 5) / 2)}
    assert result["motion"]["per_class"] == [pytest.approx(66.67), pytest.approx(85.71), None]
    assert result["motion"]["miou"] == pytest.approx(76.19)
    assert result["refine"] == {
        "miou": 100.0,
        "per_class": [100.0, 100.0, None],
        "by_distance": {"2": 100.0},
        "frames": 1,
        "miou_trimap": 100.0,
        "miou_inside_error": None,
        "miou_outside_error": None,
    }


def test_distances_are_in_order_and_far_ones_are_counted_together() -> None:
    score = PropagationScore(2, ["motion"], max_distance=3)
    for distance, prediction in ((7, 0), (3, 1), (1, 0), (100, 0)):
        score.update("motion", row(prediction), None, Truth(row(0), distance))
    assert list(score.compute()["motion"]["by_distance"]) == ["1", "3"]
    assert score.compute()["motion"]["by_distance"]["3"] == pytest.approx(100 * (2 / 3 + 0) / 2, abs=0.01)


def test_a_method_without_frames_has_no_score() -> None:
    result = PropagationScore(2, ["motion"]).compute()["motion"]
    assert result == {"miou": None, "per_class": [None, None], "by_distance": {}, "frames": 0} | NO_REGIONS


def test_a_frame_without_any_truth_counts_as_a_frame_without_a_score() -> None:
    score = PropagationScore(2, ["motion"])
    score.update("motion", row(0, 1), None, Truth(row(255, 255), 4))
    assert score.compute()["motion"] == {
        "miou": None,
        "per_class": [None, None],
        "by_distance": {"4": None},
        "frames": 1,
        **NO_REGIONS,
    }


def test_an_unknown_method_is_refused(score: PropagationScore) -> None:
    with pytest.raises(ValueError, match="guess"):
        score.update("guess", row(0), None, Truth(row(0), 1))


def test_scores_of_processes_merge(score: PropagationScore) -> None:
    other = PropagationScore(3, ["motion", "refine"], max_distance=5)
    other.update("motion", row(2, 2, 1, 1), None, Truth(row(0, 0, 1, 1), 2))
    other.update("refine", row(0, 0, 0, 0), None, Truth(row(0, 0, 0, 0), 4))
    together = PropagationScore(3, ["motion", "refine"], max_distance=5)
    together.merge_state(score)
    together.merge_state(other)
    result = together.compute()
    assert result["motion"]["frames"] == 4
    assert result["refine"]["by_distance"] == {"2": 100.0, "4": 100.0}
    assert torch.equal(together.matrix, score.matrix + other.matrix)
    assert result["motion"]["per_class"][2] == 0.0


def test_resetting_forgets_everything(score: PropagationScore) -> None:
    score.reset()
    assert score.compute()["motion"]["frames"] == 0
    assert score.compute()["motion"]["miou"] is None


def test_regions_are_scored_apart() -> None:
    truth = torch.zeros(1, 20, dtype=torch.uint8)
    truth[0, 10:] = 1
    assert near_border(truth, 3)[0].nonzero().flatten().tolist() == list(range(7, 13))
    prediction = truth.clone()
    prediction[0, 8] = 1  # wrong near the border
    prediction[0, 0] = 1  # and far from it, where motion is in error
    error = torch.zeros(1, 20, dtype=torch.bool)
    error[0, :2] = True
    score = PropagationScore(2, ["motion"])
    score.update("motion", prediction, None, Truth(truth, 1, error))
    result = score.compute()["motion"]
    assert result["miou_trimap"] == pytest.approx(100 * (2 / 3 + 3 / 4) / 2, abs=0.01)
    assert result["miou_inside_error"] == pytest.approx(100 * (1 / 2 + 0) / 2, abs=0.01)
    assert result["miou_outside_error"] == pytest.approx(100 * (7 / 8 + 10 / 11) / 2, abs=0.01)


def test_the_upper_bound_takes_what_is_right_of_motion_and_teacher() -> None:
    score = PropagationScore(3, ["motion", "semantic"])
    labels = {"motion": (row(0, 1, 2, 2), None), "semantic": (row(1, 0, 2, 0), None)}
    score.update_frame(labels, Truth(row(0, 0, 2, 1), 1))
    assert score.compute()["upper_bound"]["per_class"] == [100.0, 0.0, 50.0]
    assert "upper_bound" not in PropagationScore(3, ["motion", "refine"]).compute()


def test_confidence_is_scored_where_something_is_said_and_known() -> None:
    score = PropagationScore(2, ["motion"])
    confidence = torch.tensor([[0.9, 0.9, 0.6, 0.6, 0.0, 1.0]])
    score.update("motion", row(0, 1, 1, 1, 255, 0), confidence, Truth(row(0, 0, 1, 1, 1, 255), 1))
    result = score.compute()["motion"]
    # Of the pixels at 0.9 half are right, of those at 0.6 all are.
    assert result["ece"] == pytest.approx(100 * (0.5 * 0.4 + 0.5 * 0.4))
    assert result["reliability"] == [(0.6, 1.0, 2), (0.9, 0.5, 2)]
    assert result["risk_coverage"] == [(0.5, 25.0), (1.0, pytest.approx(100 * (1 / 2 + 2 / 3) / 2, abs=0.01))]
