import pytest
import torch
from torch import Tensor, nn

from wrp.errors import WrpError
from wrp.options import InferenceArgs
from wrp.segmentation.inference import tiled_probabilities

IMAGES = torch.rand(2, 3, 37, 53, generator=torch.Generator().manual_seed(0))


def by_colour(images: Tensor) -> Tensor:
    """Logits that depend on their own pixel alone, so that no view changes them."""
    return 5 * images


@pytest.mark.parametrize("window", [(16, 16), (37, 20), (5, 53), (100, 100), (1, 1)])
@pytest.mark.parametrize("overlap", [0.0, 1 / 3, 0.9])
def test_windows_cover_everything(window: tuple[int, int], overlap: float) -> None:
    found = tiled_probabilities(by_colour, IMAGES, InferenceArgs(window, overlap))
    torch.testing.assert_close(found, by_colour(IMAGES).softmax(1))


def test_windows_are_no_larger_than_asked_and_overlap_as_asked() -> None:
    sizes = []

    def logits_of(images: Tensor) -> Tensor:
        sizes.append(tuple(images.shape[-2:]))
        return by_colour(images)

    tiled_probabilities(logits_of, IMAGES, InferenceArgs((16, 20), 0.5))
    assert set(sizes) == {(16, 20)}
    assert len(sizes) == 4 * 5


def test_mirrored_views_are_mirrored_back() -> None:
    network = nn.Conv2d(3, 4, 3, padding=1)
    found = tiled_probabilities(network, IMAGES, InferenceArgs(flip=True))
    plain, mirrored = network(IMAGES).softmax(1), network(IMAGES.flip(-1)).softmax(1).flip(-1)
    torch.testing.assert_close(found, (plain + mirrored) / 2)
    assert not torch.allclose(plain, mirrored)


def test_scales_are_averaged_at_the_size_of_the_image() -> None:
    seen = []

    def logits_of(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape[-2:]))
        return torch.zeros(len(images), 2, *images.shape[-2:]) + torch.tensor([0.0, float(len(seen))]).view(2, 1, 1)

    found = tiled_probabilities(logits_of, IMAGES, InferenceArgs(scales=[0.5, 1.0, 2.0]))
    assert seen == [(18, 26), (37, 53), (74, 106)]
    expected = torch.tensor([[0.0, k] for k in (1.0, 2.0, 3.0)]).softmax(1).mean(0)
    torch.testing.assert_close(found, expected.view(1, 2, 1, 1).expand(2, 2, 37, 53))


@pytest.mark.parametrize(
    ("inference", "match"),
    [
        ({"overlap": 1.0}, "overlap"),
        ({"scales": []}, "scales"),
        ({"scales": [0.0]}, "scales"),
        ({"window": (0, 4)}, "w"),
    ],
)
def test_what_cannot_be_looked_at_is_refused(inference: dict, match: str) -> None:
    with pytest.raises(WrpError, match=match):
        InferenceArgs(**inference)
