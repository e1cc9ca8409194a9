import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from wrp.errors import WrpError
from wrp.options import NetworkArgs
from wrp.runs.config import TeacherArgs
from wrp.segmentation.network import MEAN, SMALLEST, STD, STRIDE, Segmenter, create_segmenter


class Recorder(nn.Module):
    """Remembers what it was given and returns its first two channels."""

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return images[:, :2]


@pytest.mark.parametrize("size", [(32, 64), (33, 47), (1, 1), (64, 95)])
def test_images_are_padded_to_the_stride_and_the_logits_cut_back(size: tuple[int, int]) -> None:
    net = Recorder()
    logits = Segmenter(net)(torch.rand(2, 3, *size))
    assert logits.shape == (2, 2, *size)
    height, width = net.seen.shape[-2:]
    assert height % STRIDE == width % STRIDE == 0
    for padded, side in ((height, size[0]), (width, size[1])):
        assert padded == SMALLEST or 0 <= padded - side < STRIDE
        assert padded >= max(side, SMALLEST)


def test_images_are_normalised_with_the_statistics_of_the_encoders() -> None:
    net, image = Recorder(), torch.rand(1, 3, 64, 64)
    Segmenter(net)(image)
    for channel in range(3):
        torch.testing.assert_close(net.seen[0, channel], (image[0, channel] - MEAN[channel]) / STD[channel])


def test_padding_is_the_mean_colour() -> None:
    net = Recorder()
    Segmenter(net)(torch.rand(1, 3, 30, 30))
    assert not net.seen[..., 30:, :].any()
    assert not net.seen[..., 30:].any()


def test_statistics_are_not_part_of_the_checkpoint() -> None:
    assert not Segmenter(Recorder()).state_dict()


@pytest.mark.parametrize(("architecture", "encoder"), [("Unet", "resnet18"), ("FPN", "tu-resnet10t")])
def test_networks_are_made_by_name_for_any_size(architecture: str, encoder: str) -> None:
    segmenter = create_segmenter(5, NetworkArgs(architecture, encoder)).eval()
    with torch.no_grad():
        logits = segmenter(torch.rand(1, 3, 33, 47))
    assert logits.shape == (1, 5, 33, 47)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(
    ("architecture", "encoder", "weights", "named"),
    [
        ("Unett", "resnet18", None, "Unett"),
        ("Unet", "resnet17", None, "resnet17"),
        ("Unet", "tu-no_such_encoder", None, "tu-no_such_encoder"),
        ("Unet", "resnet18", "no-such-weights", "encoder_weights=null starts from scratch"),
        ("Unet", "tu-regnetx_002", "swsl", "tu-regnetx_002.TAG"),
    ],
)
def test_unknown_names_are_refused_in_one_line(
    architecture: str, encoder: str, weights: str | None, named: str
) -> None:
    with pytest.raises(WrpError, match=named) as error:
        create_segmenter(3, NetworkArgs(architecture, encoder, weights))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(("pretrained", "scale"), [(True, 0.75), (False, 0.5)])
def test_the_smallest_images_go_through_the_default_teacher(pretrained: bool, scale: float) -> None:
    network = TeacherArgs().recipe(pretrained).network
    assert network.scale == scale
    net = create_segmenter(3, network).eval()
    with torch.inference_mode():
        assert net(torch.rand(1, 3, 1, 1)).shape == (1, 3, 1, 1)


def test_the_logits_of_patches_of_14_pixels_lie_where_the_image_is() -> None:
    """Not only at its left, as if a patch had 16 pixels."""
    torch.manual_seed(0)
    slim = {"decoder_intermediate_channels": [8, 8, 8, 8], "decoder_fusion_channels": 8}
    net = create_segmenter(2, NetworkArgs("DPT", "tu-eva02_tiny_patch14_224", options=slim)).eval()
    with torch.no_grad():
        image = torch.zeros(1, 3, 112, 112)
        plain = net(image)
        image[..., -14:] = 1.0
        change = (net(image) - plain).abs().sum((0, 1, 2))
    assert change[-28:].mean() > 2 * change[:-56].mean()


def test_small_images_are_padded_to_what_pan_halves() -> None:
    net = create_segmenter(3, NetworkArgs("PAN", "resnet18")).train()
    assert net(torch.rand(1, 3, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("architecture", ["DeepLabV3Plus", "DeepLabV3", "PSPNet"])
def test_a_batch_of_one_image_can_be_learned_from(architecture: str) -> None:
    torch.manual_seed(0)
    net = create_segmenter(3, NetworkArgs(architecture, "tu-regnetx_002")).train()
    logits = net(torch.rand(1, 3, 64, 64))
    logits = logits[0] if isinstance(logits, tuple) else logits
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    plain = smp.create_model(architecture, "tu-regnetx_002", encoder_weights=None, classes=3)
    plain.load_state_dict(net.net.state_dict())
    for part in (*plain.modules(), *net.modules()):
        if isinstance(part, nn.Dropout | nn.Dropout2d):
            part.p = 0.0
    images = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(net.net(images), plain.train()(images))  # batches of several are as they were
