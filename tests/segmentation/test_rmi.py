"""RMI against a plain reference that follows the formula region by region."""

import numpy as np
import pytest
import torch

from wrp.segmentation.rmi import region_mutual_information


def reference(logits: np.ndarray, truth: np.ndarray, pixels: np.ndarray) -> float:
    """½ log det(Σ_Y - Σ_YP Σ_P⁻¹ Σ_PY + εI) / 9 in numpy, one image, class and region at a time."""
    batch, classes, height, width = logits.shape
    total = 0.0
    for b in range(batch):
        for c in range(classes):
            labels = pool(truth[b, c] * pixels[b])
            probs = pool(1 / (1 + np.exp(-logits[b, c])) * pixels[b] + 1e-6)
            regions = []
            for maps in (labels, probs):
                rows, columns = maps.shape[0] - 2, maps.shape[1] - 2
                vectors = np.array([maps[y : y + 3, x : x + 3].ravel() for y in range(rows) for x in range(columns)])
                regions.append((vectors - vectors.mean(0)).T)
            y, p = regions
            left = y @ y.T - (y @ p.T) @ np.linalg.inv(p @ p.T + 5e-4 * np.eye(9)) @ (p @ y.T)
            total += 0.5 * np.linalg.slogdet(left + 5e-4 * np.eye(9))[1] / 9
    return total / batch


def pool(values: np.ndarray) -> np.ndarray:
    height, width = (side // 4 for side in values.shape)
    return values[: 4 * height, : 4 * width].reshape(height, 4, width, 4).mean((1, 3))


def case(seed: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, height, width, generator=generator)
    labels = torch.randint(0, 3, (2, height, width), generator=generator)
    pixels = (torch.rand(2, height, width, generator=generator) < 0.8).float()
    return logits, torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float(), pixels


@pytest.mark.parametrize(("height", "width"), [(24, 32), (12, 12), (27, 45)])
def test_it_is_the_formula(height: int, width: int) -> None:
    logits, truth, pixels = case(height, height, width)
    wanted = reference(logits.double().numpy(), truth.numpy(), pixels.numpy())
    assert float(region_mutual_information(logits, truth, pixels)) == pytest.approx(wanted, rel=1e-4)


def test_images_smaller_than_a_region_give_a_connected_zero() -> None:
    logits, truth, pixels = case(0, 11, 40)
    logits.requires_grad_()
    loss = region_mutual_information(logits, truth, pixels)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_neighbours_that_move_together_are_worth_more_than_right_pixels_alone() -> None:
    """Shuffling the probabilities among the pixels of equal truth leaves every pixel's loss, and spoils the region."""
    _, truth, pixels = case(1, 48, 48)
    smooth = torch.nn.functional.avg_pool2d(
        torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(2)), 9, 1, 4
    )
    labels = (smooth > 0).float()
    noise = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(3))
    together = region_mutual_information(20 * smooth, labels, pixels)
    assert together < region_mutual_information(20 * smooth.abs() * noise.sign(), labels, pixels)
