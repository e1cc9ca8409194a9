import pytest
import torch
from torch import Tensor

from wrp.metrics.propagation import PropagationScore


def row(*labels: int) -> Tensor:
    return torch.tensor([labels], dtype=torch.uint8)


@pytest.fixture
def score() -> PropagationScore:
    score = PropagationScore(3, ["motion", "refine"], max_distance=5)
    truth = row(0, 0, 1, 1)
    score.update("motion", 1, row(0, 0, 1, 1), truth)
    score.update("motion", 2, row(0, 1, 1, 1), truth)
    score.update("motion", 2, row(0, 255, 1, 1), truth)
    score.update("refine", 2, row(0, 0, 1, 1), truth)
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
    }


def test_distances_are_in_order_and_far_ones_are_counted_together() -> None:
    score = PropagationScore(2, ["motion"], max_distance=3)
    for distance, prediction in ((7, 0), (3, 1), (1, 0), (100, 0)):
        score.update("motion", distance, row(prediction), row(0))
    assert list(score.compute()["motion"]["by_distance"]) == ["1", "3"]
    assert score.compute()["motion"]["by_distance"]["3"] == pytest.approx(100 * (2 / 3 + 0) / 2, abs=0.01)


def test_a_method_without_frames_has_no_score() -> None:
    result = PropagationScore(2, ["motion"]).compute()["motion"]
    assert result == {"miou": None, "per_class": [None, None], "by_distance": {}, "frames": 0}


def test_a_frame_without_any_truth_counts_as_a_frame_without_a_score() -> None:
    score = PropagationScore(2, ["motion"])
    score.update("motion", 4, row(0, 1), row(255, 255))
    assert score.compute()["motion"] == {
        "miou": None,
        "per_class": [None, None],
        "by_distance": {"4": None},
        "frames": 1,
    }


def test_an_unknown_method_is_refused(score: PropagationScore) -> None:
    with pytest.raises(ValueError, match="guess"):
        score.update("guess", 1, row(0), row(0))


def test_scores_of_processes_merge(score: PropagationScore) -> None:
    other = PropagationScore(3, ["motion", "refine"], max_distance=5)
    other.update("motion", 2, row(2, 2, 1, 1), row(0, 0, 1, 1))
    other.update("refine", 4, row(0, 0, 0, 0), row(0, 0, 0, 0))
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
