import pytest
import torch
from segmentation_models_pytorch.losses import DiceLoss, LovaszLoss
from torch.nn import functional

from wrp.errors import WrpError
from wrp.segmentation.losses import LOSSES, SegmentationLoss, cross_entropy, dice, lovasz, ohem, relaxation


def random_case(seed: int, ignore_index: int = 255) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 6, 7, 9, generator=generator) * 3
    labels = torch.randint(0, 6, (3, 7, 9), generator=generator)
    ignored = torch.rand(3, 7, 9, generator=generator) < 0.9 * torch.rand(1, generator=generator)
    return logits, labels.masked_fill(ignored, ignore_index)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ignore_index", [255, -1, 2])
def test_it_is_the_mean_over_the_labelled_pixels(seed: int, ignore_index: int) -> None:
    logits, labels = random_case(seed, ignore_index)
    kept = labels != ignore_index
    reference = functional.cross_entropy(logits.permute(0, 2, 3, 1)[kept], labels[kept])
    torch.testing.assert_close(cross_entropy(logits, labels, ignore_index=ignore_index), reference)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_labels_may_have_any_integer_dtype(dtype: torch.dtype) -> None:
    logits, labels = random_case(0)
    torch.testing.assert_close(cross_entropy(logits, labels.to(dtype)), cross_entropy(logits, labels))


def test_ignored_pixels_have_no_gradient_whatever_their_logits() -> None:
    logits, labels = random_case(1)
    ignored = labels == 255
    loss = cross_entropy(logits.requires_grad_(), labels)
    loss.backward()
    assert logits.grad is not None
    per_pixel = logits.grad.abs().sum(1)
    assert not per_pixel[ignored].any()
    assert (per_pixel[~ignored] > 0).all()
    changed = torch.where(ignored[:, None], 50.0, logits.detach())
    torch.testing.assert_close(cross_entropy(changed, labels), loss.detach())


def test_nothing_labelled_gives_a_zero_that_is_connected_to_the_graph() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 4, 4), 255))
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_are_summed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 2, 400, 400, dtype=dtype)
    loss = cross_entropy(logits, torch.zeros(1, 400, 400, dtype=torch.long))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.6931, abs=1e-3)


def test_a_label_beyond_the_classes_is_an_error_and_not_ignored() -> None:
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        cross_entropy(torch.zeros(1, 2, 1, 1), torch.tensor([[[5]]]))


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_balance_weighs_classes_by_their_share_of_the_batch(balance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 9, generator=generator)
    labels = torch.randint(0, 2, (2, 8, 9), generator=generator)
    labels[0, 0, :4] = 255
    each = -logits.log_softmax(1).gather(1, labels.clamp(max=2)[:, None])[:, 0]
    weights = torch.zeros(labels.shape)
    for c in range(2):
        weights[labels == c] = float((labels == c).sum()) ** -balance
    expected = (each * weights).sum() / weights.sum()
    torch.testing.assert_close(cross_entropy(logits, labels, balance=balance), expected)


def test_a_balanced_loss_of_nothing_is_a_zero_with_gradients() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((1, 4, 4), 255), balance=0.5)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_pixels_near_a_border_count_more(balance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 12, generator=generator)
    labels = (torch.arange(12) > 5).long().expand(2, 8, 12)
    each = functional.cross_entropy(logits, labels, reduction="none")
    near = (torch.arange(12) >= 4) & (torch.arange(12) <= 7)
    weights = 1 + 2.0 * near  # both classes have as many pixels, so balance changes nothing
    expected = (each * weights).sum() / weights.expand(2, 8, 12).sum()
    torch.testing.assert_close(cross_entropy(logits, labels, balance=balance, boundary=2.0), expected)


def weighted_case(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits, labels = random_case(seed)
    return logits, labels, torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed + 100))


@pytest.mark.parametrize("name", LOSSES)
def test_pixels_of_no_weight_have_no_say(name: str) -> None:
    """In every loss: their logits do not matter, and but for the number of pixels it is as if they had no label."""
    logits, labels = large_case(0)
    some = (torch.rand(labels.shape, generator=torch.Generator().manual_seed(7)) < 0.6).float()
    found = LOSSES[name](logits, labels, some)
    if name != "ohem":  # which asks how hard a pixel is, whatever it weighs
        torch.testing.assert_close(LOSSES[name](torch.where(some[:, None] == 0, -3.0, logits), labels, some), found)
    without = labels.masked_fill(some == 0, 255)
    if name in ("dice", "lovasz"):
        torch.testing.assert_close(found, LOSSES[name](logits, without))
    if name in ("cross_entropy", "focal"):
        share = (without != 255).sum() / (labels != 255).sum()
        torch.testing.assert_close(found, share * LOSSES[name](logits, without))


@pytest.mark.parametrize("name", ["cross_entropy", "ohem", "focal", "relaxation"])
def test_labels_of_which_none_is_sure_count_little(name: str) -> None:
    logits, labels = large_case(3)
    torch.testing.assert_close(
        LOSSES[name](logits, labels, torch.full(labels.shape, 0.1)), 0.1 * LOSSES[name](logits, labels)
    )


def large_case(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of which a region of RMI can be made, in blobs, so that labels have borders and insides."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 24, 32, generator=generator) * 2
    labels = torch.randint(0, 4, (2, 6, 8), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    return logits, labels.masked_fill(torch.rand(labels.shape, generator=generator) < 0.2, 255)


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_has_gradients_and_a_connected_zero_where_nothing_is_labelled(name: str) -> None:
    logits, labels = large_case(1)
    logits.requires_grad_()
    LOSSES[name](logits, labels).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad.any()
    logits.grad = None
    nothing = LOSSES[name](logits, torch.full_like(labels, 255))
    nothing.backward()
    assert nothing == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_falls_when_the_truth_is_predicted(name: str) -> None:
    logits, labels = large_case(2)
    right = functional.one_hot(labels.clamp(max=3), 4).movedim(-1, 1) * 10.0 - 5.0
    assert LOSSES[name](right, labels) < LOSSES[name](logits, labels) - 0.05


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "lovasz", "focal", "rmi", "relaxation"])
def test_gradients_are_those_of_the_value(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 3, (1, 3, 4), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2)
    logits = torch.randn(1, 3, 12, 16, generator=generator)
    direction = torch.randn(logits.shape, generator=generator)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[name](logits, labels), logits)
    step = 1e-2
    with torch.no_grad():
        prefetch, behind = (LOSSES[name](logits + sign * step * direction, labels).double() for sign in (1, -1))
    slope = float((prefetch - behind) / (2 * step))
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.03, abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_dice_and_lovasz_are_the_librarys_where_all_pixels_weigh_the_same(seed: int) -> None:
    logits, labels = random_case(seed)
    for loss, library in ((dice, DiceLoss), (lovasz, LovaszLoss)):
        reference = library("multiclass", ignore_index=255)(logits, labels)
        torch.testing.assert_close(loss(logits, labels), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dice", "lovasz"])
def test_a_pixel_of_weight_two_counts_as_two_pixels(name: str) -> None:
    logits, labels, _ = weighted_case(4)
    twice = torch.ones(labels.shape)
    twice[:, :, 5:] = 2
    doubled = torch.cat((logits, logits[..., 5:]), -1), torch.cat((labels, labels[..., 5:]), -1)
    torch.testing.assert_close(LOSSES[name](logits, labels, twice), LOSSES[name](*doubled), rtol=1e-4, atol=1e-5)


def test_ohem_is_the_cross_entropy_of_the_hard_pixels() -> None:
    logits, labels = random_case(5)
    each = functional.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    hard = ((-each).exp() <= 0.7) & (labels != 255)
    torch.testing.assert_close(ohem(logits, labels), each[hard].mean())
    sure = functional.one_hot(labels.clamp(max=5), 6).movedim(-1, 1) * 20.0 + 0.1 * logits
    each = functional.cross_entropy(sure, labels, ignore_index=255, reduction="none")[labels != 255]
    hardest = each.sort(descending=True).values[: labels.numel() // 16]
    torch.testing.assert_close(ohem(sure, labels), hardest.mean(), rtol=1e-3, atol=1e-9)


def test_relaxation_accepts_any_class_of_the_neighbourhood() -> None:
    logits, labels = random_case(6)
    probs, total, count = logits.softmax(1), 0.0, 0
    for b, y, x in (labels != 255).nonzero().tolist():
        around = labels[b, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].unique()
        total -= float(probs[b, around[around != 255], y, x].sum().log())
        count += 1
    assert float(relaxation(logits, labels)) == pytest.approx(total / count, rel=1e-4)


def test_inside_of_a_region_relaxation_is_cross_entropy() -> None:
    logits = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.ones(1, 6, 6, dtype=torch.long)
    torch.testing.assert_close(relaxation(logits, labels), cross_entropy(logits, labels))


def test_unknown_losses_are_refused_by_name() -> None:
    with pytest.raises(WrpError, match=r"unknown loss .entropy.; did you mean cross_entropy\?.*relaxation"):
        SegmentationLoss({"entropy": 1.0})
    with pytest.raises(WrpError, match="got none"):
        SegmentationLoss({})
    assert SegmentationLoss({"rmi": 0.5}).weights == {"rmi": 0.5}
    assert SegmentationLoss().weights == {"cross_entropy": 1.0}


def test_losses_add_up_by_their_weights() -> None:
    logits, labels, weights = weighted_case(8)
    expected = 0.5 * cross_entropy(logits, labels, weights, balance=0.5) + 2 * dice(logits, labels, weights)
    loss = SegmentationLoss({"cross_entropy": 0.5, "dice": 2.0}, {"balance": 0.5})
    found = loss(logits, labels, weights)
    torch.testing.assert_close(found, expected)


def test_class_weights_and_smoothing_are_torchs() -> None:
    logits, labels = random_case(9)
    each = torch.tensor([1.0, 2.0, 0.5, 1.0, 0.0, 3.0])
    reference = functional.cross_entropy(logits, labels, weight=each, ignore_index=255)
    torch.testing.assert_close(cross_entropy(logits, labels, class_weights=each.tolist()), reference)
    reference = functional.cross_entropy(logits, labels, ignore_index=255, label_smoothing=0.1)
    torch.testing.assert_close(cross_entropy(logits, labels, label_smoothing=0.1), reference)


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "rmi"])
def test_beside_relaxation_no_loss_makes_borders_hard_again(name: str) -> None:
    labels = torch.zeros(1, 24, 32, dtype=torch.uint8)
    labels[:, :, 16:] = 1
    labels[:, :2, :] = 255  # no border: one class is all that is known here
    logits = torch.randn(1, 2, 24, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    SegmentationLoss({"relaxation": 0.0, name: 1.0})(logits, labels).backward()
    assert logits.grad is not None
    changed = logits.grad[0].abs().sum(0)
    assert not changed[2:, 15:17].any()
    assert changed[2:, :15].all()
    assert changed[2:, 17:].all()
