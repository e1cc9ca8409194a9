"""OCR and multi-scale attention around encoder-decoders."""

import pytest
import torch
from torch import Tensor, nn

from wrp import SegmentationModule
from wrp.errors import WrpError
from wrp.options import NetworkArgs
from wrp.segmentation.heads import OCRHead
from wrp.segmentation.multiscale import MultiScale
from wrp.segmentation.network import create_segmenter
from wrp.structures import FrameBatch

ARCHITECTURES = ["Unet", "FPN", "DeepLabV3Plus", "Segformer"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scales", [None, [0.5, 1.0]], ids=["one scale", "two scales"])
def test_any_encoder_decoder_takes_an_ocr_head(architecture: str, scales: list[float] | None) -> None:
    net = create_segmenter(5, NetworkArgs(architecture, ocr=True, attention_scales=scales))
    images = torch.rand(2, 3, 70, 100)
    main, auxiliary, *single = net(images)
    assert [part.shape for part in single] == [main.shape] * len(scales or [])
    assert main.shape == auxiliary.shape == (2, 5, 70, 100)
    (main.square().mean() + auxiliary.square().mean()).backward()
    without = [name for name, p in net.named_parameters() if p.grad is None]
    assert not without
    with torch.no_grad():
        assert net.eval()(images).shape == (2, 5, 70, 100)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_any_encoder_decoder_takes_attention_over_scales(architecture: str) -> None:
    scales = NetworkArgs(architecture, attention_scales=[0.5, 1.0], test_scales=[0.5, 1.0, 2.0])
    net = create_segmenter(4, scales)
    logits, *single = net(torch.rand(2, 3, 64, 96))
    assert len(single) == 2
    assert logits.shape == (2, 4, 64, 96)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())
    with torch.no_grad():
        assert net.eval()(torch.rand(1, 3, 50, 75)).shape == (1, 4, 50, 75)


class Scripted(nn.Module):
    """Says which size it was given, with an attention of its own for each size."""

    def __init__(self, attention: dict[int, float]) -> None:
        super().__init__()
        self.attention = attention
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(tuple(images.shape[-2:]))
        height, width = images.shape[-2:]
        logits = torch.full((len(images), 2, height, width), float(height))
        return torch.full((len(images), 1, height, width), self.attention[height]), logits


def test_lower_scales_say_how_much_of_them_goes_over_the_higher_ones() -> None:
    net = Scripted({64: 0.25, 128: 0.5, 256: 0.9})
    blended = MultiScale(net, test_scales=(0.5, 1.0, 2.0)).eval()(torch.rand(1, 3, 128, 192))
    assert net.seen == [(256, 384), (128, 192), (64, 96)]
    expected = 0.25 * 64 + 0.75 * (0.5 * 128 + 0.5 * 256)
    torch.testing.assert_close(blended, torch.full((1, 2, 128, 192), expected))


def test_in_training_each_scale_has_logits_of_its_own() -> None:
    net = Scripted({64: 0.25, 128: 0.5})
    blended, high, low = MultiScale(net)(torch.rand(1, 3, 128, 192))
    for found, expected in ((blended, 0.25 * 64 + 0.75 * 128), (high, 128), (low, 64)):
        torch.testing.assert_close(found, torch.full((1, 2, 128, 192), float(expected)))


class One(nn.Module):
    def forward(self, logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return 1 + 0 * logits.sum()


@pytest.mark.parametrize(("scales", "expected"), [(None, 1.4), ([0.5, 1.0], 1.4 + 2 * 0.05)])
def test_the_losses_of_single_scales_weigh_little(scales: list[float] | None, expected: float) -> None:
    network = NetworkArgs("FPN", "tu-regnetx_002", ocr=True, attention_scales=scales)
    module = SegmentationModule(5, network, loss=One())
    module.log_loss = lambda *_: None  # type: ignore[method-assign]
    images, labels = torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.zeros(2, 64, 64, dtype=torch.uint8)
    loss = module.training_step(FrameBatch(images, labels, ["", ""], ["a", "b"], [0, 1]), 0)
    assert loss.item() == pytest.approx(expected)


def test_other_scales_keep_to_the_stride() -> None:
    net = Scripted({64: 0.5, 96: 0.5, 160: 0.5})
    MultiScale(net, scales=(0.3, 1.0))(torch.rand(1, 3, 160, 96))
    assert net.seen == [(160, 96), (64, 64)]


def test_a_pixels_context_is_that_of_the_class_it_resembles() -> None:
    """Two classes on two halves: with the other half's features changed, a pixel's context stays as it was."""
    torch.manual_seed(0)
    head = OCRHead(2, 2, channels=8, keys=4).eval()
    with torch.no_grad():
        head.regions.weight.copy_(torch.tensor([[60.0, -60.0], [-60.0, 60.0]]).view(2, 2, 1, 1))
    features = torch.zeros(1, 2, 8, 8)
    features[:, 0, :4], features[:, 1, 4:] = 1, 1
    with torch.no_grad():
        shares = head.regions(features).flatten(2).softmax(-1).view(2, 8, 8)
        logits = head(features)
    assert shares[0, :4].sum() == pytest.approx(1, abs=1e-4)
    assert shares[1, 4:].sum() == pytest.approx(1, abs=1e-4)
    assert logits.shape == (1, 2, 8, 8)
    assert torch.allclose(logits[0, :, 1, 3], logits[0, :, 1, 4], atol=1e-5)


def test_a_network_without_a_head_is_refused_by_name() -> None:
    with pytest.raises(WrpError, match="'HeadlessNet'|cannot make architecture 'HeadlessNet'"):
        create_segmenter(3, NetworkArgs("HeadlessNet", ocr=True))
