import pytest
import torch
from torch.nn import functional

from wrp.losses.segmentation import cross_entropy


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
    torch.testing.assert_close(cross_entropy(logits, labels, ignore_index), reference)


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
