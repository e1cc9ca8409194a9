"""One encoder of each family of timm, small and with random weights, with a decoder that suits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor
from torch.utils.data import DataLoader

from tests.segmentation.small import QUIET, Linear, frames
from wrp import SegmentationModule
from wrp.errors import WrpError
from wrp.io.checkpoints import load_module
from wrp.options import NetworkArgs, OptimizerArgs
from wrp.segmentation.network import create_segmenter
from wrp.structures import FrameBatch

DPT = {"decoder_intermediate_channels": [8, 8, 8, 8], "decoder_fusion_channels": 8}
FPN = {"decoder_pyramid_channels": 16, "decoder_segmentation_channels": 32}
UPERNET = {"decoder_channels": 16}

VIT = NetworkArgs("DPT", "tu-vit_tiny_patch16_224", options={**DPT, "embed_dim": 24})
DINO2 = NetworkArgs("DPT", "tu-vit_small_patch14_dinov2", options={**DPT, "embed_dim": 24, "num_heads": 2})
DINO3 = NetworkArgs("DPT", "tu-vit_small_patch16_dinov3", options={**DPT, "embed_dim": 48, "num_heads": 2})
EVA = NetworkArgs("DPT", "tu-eva02_tiny_patch14_224", options={**DPT, "embed_dim": 48, "num_heads": 2})
HYBRID = NetworkArgs("DPT", "tu-vit_tiny_r_s16_p8_224", options={**DPT, "embed_dim": 24})
SWIN = NetworkArgs(
    "UPerNet", "tu-swin_tiny_patch4_window7_224", options={**UPERNET, "embed_dim": 12, "depths": (1, 1, 2, 1)}
)
MAXVIT = NetworkArgs("FPN", "tu-maxvit_rmlp_pico_rw_256", options={**FPN, "img_size": 64})
CONVNEXT = NetworkArgs(
    "UPerNet", "tu-convnext_atto", options={**UPERNET, "depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
)
EFFICIENTNET = NetworkArgs("FPN", "tu-tf_efficientnet_lite0", options=FPN)
# Its residual branches begin with a weight of 0 otherwise, so that nothing is seen of them in a first step.
REGNET = NetworkArgs("FPN", "tu-regnetx_002", options={**FPN, "zero_init_last": False})


def name_of(value: Any) -> str:
    return value.encoder_name.removeprefix("tu-") if isinstance(value, NetworkArgs) else ""


def odd(count: int, height: int, width: int) -> FrameBatch:
    """Images whose sides are multiples of nothing that an encoder needs."""
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
    labels = torch.randint(0, 5, (count, height, width), dtype=torch.uint8)
    return FrameBatch(images, labels, [""] * count, ["a"] * count, list(range(count)))


@pytest.mark.parametrize(
    ("network", "stride"),
    [
        (VIT, 32),
        (DINO2, 28),
        (DINO3, 32),
        (EVA, 28),
        (HYBRID, 64),
        (SWIN, 32),
        (MAXVIT, 64),
        (CONVNEXT, 32),
        (EFFICIENTNET, 32),
        (REGNET, 32),
    ],
    ids=name_of,
)
def test_encoders_learn_from_images_of_any_size_and_come_back(
    network: NetworkArgs, stride: int, tmp_path: Path
) -> None:
    """A step, a checkpoint, and predictions for images of odd sizes from what was loaded."""
    torch.manual_seed(0)
    module = SegmentationModule(5, network)
    assert module.net.stride == stride
    trainer = pl.Trainer(max_steps=1, **QUIET)
    before = [parameter.detach().clone() for parameter in module.backbone.parameters()]
    trainer.fit(module, DataLoader([odd(2, 75, 101)], batch_size=None))  # type: ignore[arg-type]
    # DDP waits for the gradients of all parameters that are trained.
    assert [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None] == []
    changed = [(a != b).any() for a, b in zip(before, module.backbone.parameters(), strict=True) if b.requires_grad]
    assert sum(changed) > 0.9 * len(changed)
    trainer.save_checkpoint(tmp_path / "network.ckpt")
    loaded = load_module(SegmentationModule, tmp_path / "network.ckpt")
    with torch.inference_mode():
        for height, width in ((75, 101), (131, 77)):
            images = odd(1, height, width).images
            probs = loaded.probabilities(images)
            assert probs.shape == (1, 5, height, width)
            assert torch.equal(probs, module.eval().probabilities(images))


def groups_of(network: NetworkArgs, **optimizer: Any) -> dict[str, tuple[float, float | None]]:
    """Learning rate and weight decay (None: the optimiser's) of each trained parameter, by its name in the encoder."""
    module = SegmentationModule(3, network, OptimizerArgs(lr=1.0, **optimizer))
    names = {id(p): name.removeprefix("net.net.encoder.model.") for name, p in module.named_parameters()}
    groups = module.parameter_groups()
    found = {
        names[id(p)]: (group.get("lr", 1.0), group.get("weight_decay")) for group in groups for p in group["params"]
    }
    assert sum(len(group["params"]) for group in groups) == len(found)
    assert found.keys() == {names[id(p)] for p in module.parameters() if p.requires_grad}
    return found


@pytest.mark.parametrize(
    ("network", "layers"),
    [
        (VIT, [r"patch_embed.proj.weight", *(f"blocks.{i}.mlp.fc1.weight" for i in range(12))]),
        (DINO3, [r"reg_token", *(f"blocks.{i}.mlp.fc1.weight" for i in range(12))]),
        (
            SWIN,
            ["patch_embed.proj.weight", "layers_0.blocks.0.mlp.fc1.weight", "layers_1.downsample.reduction.weight"]
            + ["layers_2.blocks.0.mlp.fc1.weight", "layers_2.blocks.1.mlp.fc1.weight", "layers_3.downsample.norm.bias"],
        ),
        (
            CONVNEXT,
            ["stem_0.weight", "stages_0.blocks.0.gamma", "stages_1.downsample.1.weight", "stages_2.blocks.0.gamma"]
            + ["stages_2.blocks.1.conv_dw.weight", "stages_3.blocks.0.mlp.fc2.weight"],
        ),
        (
            EFFICIENTNET,
            ["conv_stem.weight", "blocks.0.0.bn1.weight", *(f"blocks.1.{i}.conv_pw.weight" for i in range(2))]
            + [f"blocks.2.{i}.conv_pw.weight" for i in range(2)]
            + [f"blocks.{stage}.{i}.conv_pw.weight" for stage in (3, 4) for i in range(3)]
            + [*(f"blocks.5.{i}.bn3.bias" for i in range(4)), "blocks.6.0.conv_pw.weight"],
        ),
        (
            REGNET,
            ["stem.conv.weight", "s1.b1.conv1.conv.weight", "s2.b1.conv1.bn.bias"]
            + [f"s{stage}.b{i}.conv1.conv.weight" for stage, count in ((3, 4), (4, 7)) for i in range(1, count + 1)],
        ),
    ],
    ids=name_of,
)
def test_each_block_learns_slower_than_the_next(network: NetworkArgs, layers: list[str]) -> None:
    found = groups_of(network, layer_decay=0.5, encoder_lr=0.25)
    decoder = [value for name, value in found.items() if name.startswith("net.")]
    assert set(decoder) == {(1.0, None)}
    assert [found[name][0] for name in layers] == [0.25 * 0.5**depth for depth in range(len(layers) - 1, -1, -1)]
    assert len({rate for rate, _ in found.values()}) == len(layers) + 1


SPARED = {
    VIT.encoder_name: ["pos_embed", "cls_token", "blocks.3.norm1.weight", "patch_embed.proj.bias"],
    DINO3.encoder_name: ["cls_token", "reg_token", "blocks.3.gamma_1"],
    SWIN.encoder_name: ["layers_2.blocks.1.attn.relative_position_bias_table", "patch_embed.norm.weight"],
    CONVNEXT.encoder_name: ["stages_2.blocks.1.gamma", "stem_1.weight"],
    REGNET.encoder_name: ["stem.bn.weight"],
}


@pytest.mark.parametrize("network", [VIT, DINO3, SWIN, CONVNEXT, REGNET], ids=name_of)
@pytest.mark.parametrize("layer_decay", [1.0, 0.9])
def test_norms_biases_positions_and_tokens_are_spared_the_weight_decay(
    network: NetworkArgs, layer_decay: float
) -> None:
    found = groups_of(network, layer_decay=layer_decay, decay_all=False)
    spared = {name for name, (_, decay) in found.items() if decay == 0}
    assert spared >= set(SPARED[network.encoder_name])
    assert {decay for name, (_, decay) in found.items() if name not in spared} == {None}
    assert not [name for name in spared if name.endswith((".mlp.fc1.weight", "conv.weight", "proj.weight"))]
    assert "net.net.segmentation_head.0.bias" in spared or network.arch == "DPT"
    assert {decay for _, decay in groups_of(network, layer_decay=layer_decay).values()} == {None}


def test_a_network_without_an_encoder_spares_its_biases() -> None:
    net = torch.nn.Conv2d(3, 3, 1)
    weights, biases = SegmentationModule(3, net=net, optimizer=OptimizerArgs(decay_all=False)).parameter_groups()
    assert (weights["params"], biases["params"], biases["weight_decay"]) == ([net.weight], [net.bias], 0.0)
    module = SegmentationModule(3, net=Linear(), optimizer=OptimizerArgs(weight_decay=0.3, decay_all=False))
    optimizer = module.configure_optimizer(module.parameter_groups())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.0]


def different(network: NetworkArgs, mode: bool) -> bool:
    """Whether the features of an image differ from one forward pass to the next."""
    torch.manual_seed(0)
    encoder = create_segmenter(3, network).encoder.train(mode)
    images = torch.rand(2, 3, 64, 64)

    def last() -> Tensor:
        features = encoder(images)
        return features[0][-1] if isinstance(features, tuple) else features[-1]

    with torch.no_grad():
        return not torch.equal(last(), last())


@pytest.mark.parametrize("network", [VIT, DINO3, SWIN, CONVNEXT, EFFICIENTNET, REGNET], ids=name_of)
def test_paths_are_dropped_in_training_alone(network: NetworkArgs) -> None:
    dropping, keeping = (
        NetworkArgs(network.arch, network.encoder_name, options={**network.options, "drop_path_rate": rate})
        for rate in (0.9, 0.0)
    )
    assert [different(dropping, mode=True), different(dropping, mode=False)] == [True, False]
    assert not different(keeping, mode=True)


@pytest.mark.parametrize("network", [VIT, EFFICIENTNET], ids=name_of)
def test_a_frozen_encoder_has_no_graph_and_drops_nothing(network: NetworkArgs) -> None:
    options = {**network.options, "drop_path_rate": 0.9}
    frozen = NetworkArgs(network.arch, network.encoder_name, options=options)
    module = SegmentationModule(5, frozen, OptimizerArgs(encoder_lr=0.0)).train()
    seen: list[Any] = []
    module.backbone.register_forward_hook(lambda *given: seen.append(given[2]))
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    for _ in range(2):
        module.training_step(odd(2, 75, 101), 0).backward()
    features = [found[0][-1] if isinstance(found, tuple) else found[-1] for found in seen]
    assert not any(feature.requires_grad for feature in features)
    assert not any(part.training for part in module.backbone.modules())
    assert module.net.training
    trained = {id(p) for group in module.parameter_groups() for p in group["params"]}
    assert not trained & {id(p) for p in module.backbone.parameters()}
    assert all(p.grad is not None for p in module.parameters() if id(p) in trained)


def saved(path: Path, name: str, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    state: dict[str, Tensor] = timm.create_model(name, **options).state_dict()
    torch.save(state, path)
    return state


@pytest.mark.parametrize(("patch", "network"), [(14, DINO2), (16, VIT)], ids=["patch14", "patch16"])
def test_position_embeddings_of_another_grid_are_interpolated(patch: int, network: NetworkArgs, tmp_path: Path) -> None:
    path, name = tmp_path / "vit.pth", network.encoder_name.removeprefix("tu-")
    of_encoder = {key: value for key, value in network.options.items() if not key.startswith("decoder_")}
    state = saved(path, name, **of_encoder, img_size=6 * patch)
    options = {**network.options, "img_size": [4 * patch, 8 * patch]}
    net = create_segmenter(3, NetworkArgs("DPT", network.encoder_name, str(path), options))
    expected = resample_abs_pos_embed(state["pos_embed"], [4, 8], num_prefix_tokens=1)
    torch.testing.assert_close(net.encoder.model.pos_embed, expected)  # type: ignore[union-attr]
    assert torch.equal(net.encoder.model.blocks[3].mlp.fc1.weight, state["blocks.3.mlp.fc1.weight"])  # type: ignore[union-attr, index]
    assert net.eval()(torch.zeros(1, 3, 75, 101)).shape == (1, 3, 75, 101)


def test_biases_of_windows_of_another_size_are_interpolated(tmp_path: Path) -> None:
    of_encoder = {"embed_dim": 12, "depths": (1, 1, 2, 1)}
    state = saved(tmp_path / "swin.pth", "swin_tiny_patch4_window7_224", **of_encoder)
    options = {**SWIN.options, "window_size": 5, "img_size": 160}
    net = create_segmenter(3, NetworkArgs("UPerNet", SWIN.encoder_name, str(tmp_path / "swin.pth"), options))
    table = net.encoder.model.layers_0.blocks[0].attn.relative_position_bias_table  # type: ignore[union-attr, index]
    assert table.shape == (9 * 9, 3)
    assert state["layers.0.blocks.0.attn.relative_position_bias_table"].shape == (13 * 13, 3)


def test_options_that_timm_does_not_know_are_refused_beside_a_file(tmp_path: Path) -> None:
    saved(tmp_path / "vit.pth", "vit_tiny_patch16_224", embed_dim=24)
    options = {**VIT.options, "drop_pth_rate": 0.1}
    with pytest.raises(WrpError, match=r"cannot make the encoder tu-vit_tiny_patch16_224: .*drop_pth_rate") as error:
        create_segmenter(3, NetworkArgs("DPT", VIT.encoder_name, str(tmp_path / "vit.pth"), options))
    assert "\n" not in str(error.value)


def test_options_by_which_timm_finds_weights_are_refused_before_a_file_is_read(tmp_path: Path) -> None:
    options = {**VIT.options, "checkpoint_path": str(tmp_path / "other.pth")}
    with pytest.raises(WrpError, match=r"options\.checkpoint_path is not read"):
        create_segmenter(3, NetworkArgs("DPT", VIT.encoder_name, str(tmp_path / "none.pth"), options))


def test_the_logits_of_crops_that_no_patches_fill_have_the_size_of_the_crop() -> None:
    module = SegmentationModule(3, DINO2).train()
    assert module(frames().images / 255).shape == (2, 3, 32, 32)
