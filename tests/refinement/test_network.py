import pytest
import torch

from wrp.geometry.fusion import WarpedLabels, blend, blend_weights, inpaint, motion_error
from wrp.refinement.network import CUES, INPAINT_ODDS, SMOOTHING, Refiner, refined, refiner_input, stack_inputs
from wrp.structures import RefinerInput

IGNORE = 255


def random_input(num_classes: int, height: int, width: int, batch: int = 1) -> RefinerInput:
    motion = torch.rand(batch, num_classes, height, width).mul(4).softmax(1)
    teacher_probs = torch.rand(batch, num_classes, height, width).softmax(1)
    cues = torch.rand(batch, CUES, height, width)
    cues[:, 0] = cues[:, 0].round()
    prior = inpaint(motion, cues[:, :1] > 0.5, teacher_probs)
    return RefinerInput(torch.rand(batch, 3, height, width), prior, teacher_probs, cues, motion)


def random_evidence(height: int, width: int, num_classes: int) -> WarpedLabels:
    labels = torch.randint(0, num_classes, (2, height, width), dtype=torch.uint8)
    return WarpedLabels(
        labels.masked_fill(torch.rand(2, height, width) < 0.3, IGNORE),
        torch.rand(2, height, width) < 0.3,
        (torch.rand(2, height, width) / 5).half(),
        torch.tensor([3.0, 12.0]),
        torch.arange(2),
    )


@pytest.mark.parametrize("size", [(33, 47), (64, 96), (16, 16), (1, 1), (5, 130)])
@pytest.mark.parametrize(("num_classes", "channels"), [(2, (8, 16)), (11, (16, 32, 48, 64, 96)), (3, (8,))])
def test_an_untrained_refiner_inpaints(size: tuple[int, int], num_classes: int, channels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    inputs = random_input(num_classes, *size)
    logits = Refiner(num_classes, channels)(inputs)
    assert logits.shape == (1, num_classes, *size)
    mask = torch.where(inputs.cues[:, :1] > 0.5, 1.0, 0.0)
    odds = torch.tensor(INPAINT_ODDS)
    mask = mask * odds.sigmoid() + (1 - mask) * (-odds).sigmoid()
    inpainted = mask * inputs.teacher_probs + (1 - mask) * inputs.motion
    smoothed = (1 - SMOOTHING) * inpainted + SMOOTHING / num_classes
    torch.testing.assert_close(logits.softmax(1), smoothed)


def test_where_nothing_is_known_an_untrained_refiner_is_undecided() -> None:
    inputs = random_input(4, 8, 8)
    inputs.motion[:, :, 2, 2] = inputs.teacher_probs[:, :, 2, 2] = 0
    probs = Refiner(4, (8, 16))(inputs).softmax(1)
    torch.testing.assert_close(probs[0, :, 2, 2], torch.full((4,), 0.25))


def test_the_network_corrects_the_mask_for_all_classes_alike() -> None:
    inputs, refiner = random_input(3, 8, 8), Refiner(3, (8, 16))
    for bias, expected in ((30.0, inputs.teacher_probs), (-30.0, inputs.motion)):
        refiner.head.bias.data[0] = bias
        torch.testing.assert_close(refiner(inputs).softmax(1), (1 - SMOOTHING) * expected + SMOOTHING / 3)


def test_a_certain_prior_stays_finite_and_can_be_overruled() -> None:
    inputs = random_input(3, 8, 8)
    for prior in (inputs.prior, inputs.motion, inputs.teacher_probs):
        prior[:] = 0
        prior[:, 1] = 1
    logits = Refiner(3, (8, 16))(inputs)
    assert torch.isfinite(logits).all()
    assert (logits[:, 1] - logits[:, 0]).max() < 5


def test_every_weight_learns_once_the_head_has_moved() -> None:
    torch.manual_seed(1)
    refiner, inputs = Refiner(3, (8, 16, 24)), random_input(3, 17, 21, batch=2)
    truth = torch.randint(0, 3, (2, 17, 21))
    optimizer = torch.optim.SGD(refiner.parameters(), lr=0.5)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(refiner(inputs), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, parameter in refiner.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("field", ["image", "prior", "teacher_probs", "cues"])
def test_every_input_reaches_what_the_network_adds(field: str) -> None:
    torch.manual_seed(2)
    refiner, inputs = Refiner(3, (8, 16)), random_input(3, 16, 16)
    torch.nn.init.normal_(refiner.head.weight)
    before = refiner.residual(inputs)
    setattr(inputs, field, torch.rand_like(getattr(inputs, field)))
    assert not torch.allclose(before, refiner.residual(inputs))


def test_a_batch_equals_a_loop() -> None:
    torch.manual_seed(3)
    refiner = Refiner(3, (8, 16))
    torch.nn.init.normal_(refiner.head.weight)
    inputs = [random_input(3, 19, 23) for _ in range(3)]
    together = refiner(stack_inputs(inputs))
    for i, one in enumerate(inputs):
        torch.testing.assert_close(together[i], refiner(one)[0], atol=1e-4, rtol=1e-4)


def test_inputs_of_a_frame_are_warp_inpaint_with_its_cues() -> None:
    torch.manual_seed(4)
    warped, image, teacher_probs = random_evidence(9, 12, 5), torch.rand(3, 9, 12), torch.rand(5, 9, 12).softmax(0)
    inputs = refiner_input(image, warped, teacher_probs)
    weights = blend_weights(warped)
    motion = blend(warped, weights, 5)
    torch.testing.assert_close(inputs.prior[0], inpaint(motion, motion_error(warped), teacher_probs))
    torch.testing.assert_close(inputs.prior.sum(1), torch.ones(1, 9, 12))
    assert torch.equal(inputs.image[0], image)
    assert torch.equal(inputs.teacher_probs[0], teacher_probs)
    assert inputs.cues.shape == (1, CUES, 9, 12)
    assert torch.equal(inputs.cues[0, 0], motion_error(warped).float())
    torch.testing.assert_close(inputs.cues[0, 1], 1 - motion.amax(0))
    nearness = weights[0] * torch.exp(torch.tensor(-0.3)) + weights[1] * torch.exp(torch.tensor(-1.2))
    torch.testing.assert_close(inputs.cues[0, 3], nearness)
    assert ((inputs.cues >= 0) & (inputs.cues <= 1 + 1e-6)).all()


def test_without_a_teacher_the_prior_is_zero_where_motion_is_in_error() -> None:
    warped = random_evidence(6, 7, 3)
    inputs = refiner_input(torch.rand(3, 6, 7), warped, torch.zeros(3, 6, 7))
    torch.testing.assert_close(inputs.prior.sum(1)[0], (~motion_error(warped)).float())
    assert torch.isfinite(Refiner(3, (8, 16))(inputs)).all()


def test_the_refined_label_of_the_mirror_image_is_the_mirrored_one() -> None:
    torch.manual_seed(0)
    inputs, refiner = random_input(3, 16, 24), Refiner(3, (8, 16)).eval()
    torch.nn.init.normal_(refiner.head.weight)
    assert (refiner(inputs.flip()).flip(-1) - refiner(inputs)).abs().max() > 0.1
    torch.testing.assert_close(refined(refiner, inputs.flip()).flip(-1), refined(refiner, inputs))


def test_a_third_of_the_refined_label_is_that_of_motion_and_inpainting() -> None:
    inputs = random_input(3, 8, 8)
    probs = refined(lambda _: torch.tensor([50.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(2, 3, 8, 8), inputs)
    torch.testing.assert_close(probs[:, 1:], (inputs.motion + inputs.prior)[:, 1:] / 6)
