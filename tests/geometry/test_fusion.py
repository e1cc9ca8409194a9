import math

import pytest
import torch
from torch import Tensor

from wrp.geometry import fusion
from wrp.geometry.fusion import (
    CONFIRMED_ERROR,
    VOTE_SIGMA,
    WarpedLabels,
    blend,
    blend_labels,
    blend_weights,
    count_votes,
    gather,
    inpaint,
    likeness,
    motion_error,
    prefer_nearest,
    smooth,
    weighted_vote,
)
from wrp.geometry.labels import argmax_frame, argmax_with_confidence

IGNORE = 255


def warped(
    labels: list[list[int]],
    distance: list[float],
    error: list[list[bool]] | None = None,
    photometric: list[list[float]] | None = None,
) -> WarpedLabels:
    """Evidence about a frame of one row."""
    ids = torch.tensor(labels, dtype=torch.uint8)[:, None]
    return WarpedLabels(
        ids,
        torch.tensor(error)[:, None] if error else torch.zeros_like(ids, dtype=torch.bool),
        torch.tensor(photometric)[:, None] if photometric else torch.zeros_like(ids, dtype=torch.float32),
        torch.tensor(distance),
        torch.arange(len(distance)),
    )


def nearest_weights(given: WarpedLabels) -> Tensor:
    return blend_weights(prefer_nearest(given))


def random_evidence(sources: int, seed: int, height: int = 9, width: int = 11) -> WarpedLabels:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (sources, height, width), generator=generator, dtype=torch.uint8)
    unknown = torch.rand(sources, height, width, generator=generator) < 0.4
    return WarpedLabels(
        labels.masked_fill(unknown, IGNORE),
        torch.rand(sources, height, width, generator=generator) < 0.4,
        torch.rand(sources, height, width, generator=generator).half(),
        torch.randint(1, 20, (sources,), generator=generator).float(),
        torch.arange(sources),
    )


@pytest.mark.parametrize("sources", [1, 2, 4])
@pytest.mark.parametrize("weigh", [blend_weights, nearest_weights])
def test_weights_sum_to_one_where_a_source_has_a_label_and_to_zero_elsewhere(sources: int, weigh) -> None:
    for seed in range(5):
        given = random_evidence(sources, seed)
        weights = weigh(given)
        assert weights.shape == given.labels.shape
        assert weights.dtype == torch.float32
        assert (weights >= 0).all()
        assert not weights[~given.known].any()
        torch.testing.assert_close(weights.sum(0), given.known.any(0).float(), atol=1e-5, rtol=0)


def test_weights_sum_to_one_even_where_every_source_looks_wrong() -> None:
    given = warped([[1], [2]], [100.0, 90.0], [[True], [True]], [[1.0], [1.0]])
    torch.testing.assert_close(blend_weights(given).sum(0), torch.ones(1, 1), atol=1e-4, rtol=0)


def test_one_keyframe_has_all_the_weight() -> None:
    given = warped([[3, IGNORE, 1]], [7.0], [[False, False, True]], [[0.0, 0.0, 0.9]])
    torch.testing.assert_close(blend_weights(given)[0, 0], torch.tensor([1.0, 0, 1]), atol=1e-4, rtol=0)
    assert nearest_weights(given)[0, 0].tolist() == [1, 0, 1]


def test_nearer_consistent_and_photometrically_better_sources_count_more() -> None:
    odds = 1.5**0.2
    nearer = blend_weights(warped([[1], [2]], [2.0, 3.0]))[:, 0, 0].tolist()
    assert nearer == pytest.approx([odds / (1 + odds), 1 / (1 + odds)], abs=1e-5)
    failed = warped([[1], [2]], [1.0, 1.0], error=[[True], [False]])
    assert blend_weights(failed)[:, 0, 0].tolist() == pytest.approx([0.3 / 1.3, 1 / 1.3], abs=1e-5)
    darker = warped([[1], [2]], [1.0, 1.0], photometric=[[1 / 12], [0.0]])
    first = torch.exp(torch.tensor(-1.0)).item()
    assert blend_weights(darker)[:, 0, 0].tolist() == pytest.approx([first / (1 + first), 1 / (1 + first)], abs=1e-5)


def test_all_weight_goes_to_the_nearest_keyframe_wherever_it_stands() -> None:
    assert nearest_weights(warped([[1], [2]], [2.0, 3.0]))[:, 0, 0].tolist() == [1, 0]
    assert nearest_weights(warped([[1], [2]], [3.0, 2.0]))[:, 0, 0].tolist() == [0, 1]
    assert nearest_weights(warped([[1], [2], [3]], [3.0, 2.0, 1.0]))[:, 0, 0].tolist() == [0, 0, 1]


def test_the_earlier_of_two_equally_near_anchors_is_taken() -> None:
    assert nearest_weights(warped([[1], [2]], [4.0, 4.0]))[:, 0, 0].tolist() == [1, 0]


def test_the_other_keyframe_speaks_where_the_nearest_says_nothing() -> None:
    given = warped([[IGNORE, 1, IGNORE], [2, 2, IGNORE]], [1.0, 9.0])
    assert nearest_weights(given)[:, 0].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert blend_weights(given)[:, 0, 0].tolist() == pytest.approx([0, 1], abs=1e-5)


def test_blend_adds_the_weights_of_each_class() -> None:
    given = warped([[0, 1, 2, IGNORE], [0, 2, IGNORE, IGNORE]], [1.0, 1.0])
    weights = torch.tensor([[0.75, 0.75, 1, 0], [0.25, 0.25, 0, 0]])[:, None]
    votes = count_votes(given.labels, weights, 3)[:, 0]
    assert votes.T.tolist() == [[1, 0, 0], [0, 0.75, 0.25], [0, 0, 1], [0, 0, 0]]
    # Each pixel hears its neighbours, in proportion to a Gaussian; where nothing is known, nothing is said.
    near = math.exp(-0.5 / VOTE_SIGMA**2)
    expected = torch.tensor([[1, 0.75 * near, 0.25 * near], [near, 0.75, 0.25 + near], [0, 0.75 * near, 1 + near / 4]])
    expected = torch.cat((expected / expected.sum(1, keepdim=True), torch.zeros(1, 3)))
    torch.testing.assert_close(blend(given, weights, 3)[:, 0].T, expected)


def test_a_line_of_one_pixel_survives_the_blend() -> None:
    labels = torch.zeros(1, 5, 5, dtype=torch.uint8)
    labels[0, :, 2] = 1
    given = WarpedLabels(labels, labels > 1, torch.zeros(1, 5, 5), torch.ones(1), torch.zeros(1).long())
    assert torch.equal(blend(given, blend_weights(given), 2).argmax(0), labels[0].long())
    labels[0] = torch.eye(5)[2] * torch.eye(5)[2].view(-1, 1)
    assert blend(given, blend_weights(given), 2).argmax(0).sum() == 0, "one pixel alone is taken for a sampling error"


def test_blend_of_weights_sums_to_one_or_zero() -> None:
    given = random_evidence(3, 7)
    probs = blend(given, blend_weights(given), 5)
    assert probs.shape == (5, 9, 11)
    torch.testing.assert_close(probs.sum(0), given.known.any(0).float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sources", [1, 2, 4])
def test_labels_of_a_blend_are_its_most_probable_classes(sources: int) -> None:
    given = random_evidence(sources, sources, 40, 30)
    given.labels[:, 5:12, 3:9] = IGNORE
    weights = blend_weights(given)
    labels, confidence = blend_labels(given, weights, 5)
    expected, highest = argmax_frame(blend(given, weights, 5))
    assert labels.unique().tolist() == [0, 1, 2, 3, 4, IGNORE]
    assert torch.equal(labels, expected)
    torch.testing.assert_close(confidence, highest)
    assert torch.equal(confidence == 0, labels == IGNORE)


def test_of_equal_classes_in_a_blend_the_lowest_wins() -> None:
    given = warped([[3, 3, 3], [1, 1, 1]], [2.0, 2.0])
    assert blend_labels(given, torch.full((2, 1, 3), 0.5), 4)[0].tolist() == [[1, 1, 1]]


def test_both_routes_smooth_and_blend_alike() -> None:
    given = random_evidence(2, 3, 40, 30)
    votes, weights = torch.rand(4, 40, 30), blend_weights(given)
    slowly = torch.nn.Parameter(votes), torch.nn.Parameter(weights)  # numpy knows no gradients
    torch.testing.assert_close(smooth(votes), smooth(slowly[0]).detach())
    labels, confidence = blend_labels(given, slowly[1], 5)
    assert torch.equal(labels, blend_labels(given, weights, 5)[0])
    torch.testing.assert_close(confidence.detach(), blend_labels(given, weights, 5)[1])


def test_weights_that_are_no_numbers_become_no_labels() -> None:
    given = warped([[0, 1, 1, 1, 2]], [1.0])
    labels, confidence = blend_labels(given, torch.tensor([[[1.0, 1.0, math.nan, 1.0, 1.0]]]), 3)
    assert labels.tolist() == [[0, IGNORE, IGNORE, IGNORE, 2]]
    assert confidence[0, 1:4].tolist() == [0, 0, 0]


def test_a_frame_is_like_the_keyframe_that_has_its_label() -> None:
    given = warped([[1, 1, 1, IGNORE], [1, 2, 2, IGNORE]], [2.0, 2.0])
    given.photometric[:, 0] = torch.tensor([[0.5, 0.5, 0.5, 0.0], [0.1, 0.1, 0.01, 0.0]])
    found = likeness(given, torch.tensor([[1, 1, 2, 3]], dtype=torch.uint8))[0]
    expected = [-(error - fusion.SAME) / fusion.UNLIKE for error in (0.1, 0.5, fusion.SAME, 1.0)]
    torch.testing.assert_close(found, torch.tensor(expected).exp(), atol=2e-3, rtol=0)  # errors are float16
    slowly = WarpedLabels(
        given.labels, given.error, torch.nn.Parameter(given.photometric), *list(vars(given).values())[3:]
    )
    torch.testing.assert_close(likeness(slowly, torch.tensor([[1, 1, 2, 3]], dtype=torch.uint8))[0].detach(), found)


SAME, DIFFERS = CONFIRMED_ERROR / 2, CONFIRMED_ERROR * 1.5


@pytest.mark.parametrize(
    ("labels", "error", "photometric", "expected"),
    [
        # one keyframe
        ([1], [False], [SAME], False),
        ([1], [True], [SAME], False),  # the forward-backward test alone is not believed,
        ([1], [False], [DIFFERS], False),  # nor is the photometric one
        ([1], [True], [DIFFERS], True),
        ([IGNORE], [False], [SAME], True),
        # two keyframes: one that is right is enough
        ([1, 2], [False, False], [SAME, SAME], False),
        ([1, 2], [True, False], [DIFFERS, DIFFERS], False),
        ([1, 2], [True, True], [DIFFERS, SAME], False),
        ([1, 2], [True, True], [DIFFERS, DIFFERS], True),
        ([1, IGNORE], [False, True], [SAME, DIFFERS], False),
        ([1, IGNORE], [True, False], [DIFFERS, SAME], True),  # the source that is right says nothing
        ([IGNORE, IGNORE], [False, False], [SAME, SAME], True),
    ],
)
def test_motion_is_in_error_where_every_source_with_a_label_is(
    labels: list[int], error: list[bool], photometric: list[float], expected: bool
) -> None:
    given = warped([[x] for x in labels], [2.0] * len(labels), [[x] for x in error], [[x] for x in photometric])
    assert motion_error(given).tolist() == [[expected]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inpaint_is_the_formula_of_the_paper(dtype: torch.dtype) -> None:
    motion, teacher_probs = torch.rand(4, 5, 6).softmax(0), torch.rand(4, 5, 6).softmax(0).to(dtype)
    error = torch.rand(5, 6) < 0.5
    expected = (1 - error.float()) * motion + error.float() * teacher_probs.float()
    result = inpaint(motion, error, teacher_probs)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


def test_gather_stacks_sources_in_order() -> None:
    first, second = random_evidence(1, 1), random_evidence(2, 2)
    both = gather([first, second])
    assert both.keyframe.tolist() == [0, 1, 1]
    for name in ("labels", "error", "photometric", "distance"):
        assert torch.equal(getattr(both, name), torch.cat([getattr(first, name), getattr(second, name)]))
    for name, value in vars(both.of_keyframe(1)).items():
        assert torch.equal(value, torch.ones(2) if name == "keyframe" else getattr(second, name))


def test_sources_of_the_nearest_keyframe_hide_those_of_the_other() -> None:
    given = warped([[1, 255, 255], [255, 2, 255], [3, 3, 3], [4, 4, 255]], [2.0, 2.0, 5.0, 5.0])
    given.keyframe = torch.tensor([0, 0, 1, 1])
    assert prefer_nearest(given).labels[:, 0].tolist() == [[1, 255, 255], [255, 2, 255], [255, 255, 3], [255] * 3]


@pytest.mark.parametrize("weigh", [blend_weights, nearest_weights])
def test_cropping_and_mirroring_commute_with_weighing(weigh) -> None:
    given = random_evidence(2, 5)
    rows, columns = slice(2, 7), slice(1, 6)
    weights: Tensor = weigh(given)
    assert torch.equal(weigh(given.crop(rows, columns)), weights[:, rows, columns])
    assert torch.equal(weigh(given.flip()), weights.flip(-1))
    assert torch.equal(motion_error(given.flip()), motion_error(given).flip(-1))


def test_elected_labels_are_the_maximum_of_the_votes() -> None:
    generator = torch.Generator().manual_seed(0)
    for sources in (1, 2, 3, 4):
        labels = torch.randint(0, 4, (sources, 20, 30), generator=generator).to(torch.uint8)
        labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
        weights = torch.rand(sources, generator=generator)
        shares = weights.view(-1, 1, 1) * (labels != 255)
        shares = shares / shares.sum(0).clamp(min=1e-6)
        expected, confidence = argmax_with_confidence(count_votes(labels, shares, 4)[None])
        found, share = weighted_vote(labels, weights)
        assert torch.equal(found, expected[0])
        assert found.dtype == torch.uint8
        assert share.dtype == torch.float32
        torch.testing.assert_close(share, confidence[0])


def test_of_equal_votes_the_lowest_class_wins() -> None:
    for first, second in ((3, 1), (1, 3)):
        labels = torch.tensor([[[first]], [[second]]], dtype=torch.uint8)
        assert weighted_vote(labels, torch.full((2,), 0.5))[0].item() == 1


def test_of_five_sources_none_is_elected() -> None:
    with pytest.raises(ValueError, match="got 5"):
        weighted_vote(torch.zeros(5, 1, 1, dtype=torch.uint8), torch.ones(5))


@pytest.mark.parametrize("constant", ["NEARNESS", "PHOTOMETRIC_SCALE", "TRUST_IN_ERROR"])
def test_the_weights_follow_each_of_their_constants(constant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, error = torch.zeros(2, 3, 4, dtype=torch.uint8), torch.zeros(2, 3, 4, dtype=torch.bool)
    error[0] = True
    photometric = torch.stack((torch.full((3, 4), 0.1), torch.full((3, 4), 0.2)))
    said = fusion.WarpedLabels(labels, error, photometric, torch.tensor([1.0, 5.0]), torch.tensor([0, 1]))
    before = fusion.blend_weights(said)
    monkeypatch.setattr(fusion, constant, 2 * getattr(fusion, constant))
    assert (fusion.blend_weights(said) - before).abs().min() > 1e-3


def test_the_blend_follows_its_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, weights = torch.tensor([[[0, 1, 1]]], dtype=torch.uint8), torch.tensor([[[1.0, 0.5, 1.0]]])
    nothing = torch.zeros(labels.shape)
    said = fusion.WarpedLabels(labels, nothing > 0, nothing.half(), torch.ones(1), torch.zeros(1))
    before = blend_labels(said, weights, 2)[1]
    monkeypatch.setattr(fusion, "VOTE_SIGMA", 2 * fusion.VOTE_SIGMA)
    after = blend_labels(said, weights, 2)[1]
    assert (after - before).abs().max() > 0.01
    assert torch.allclose(after, fusion.blend(said, weights, 2).max(0).values)
