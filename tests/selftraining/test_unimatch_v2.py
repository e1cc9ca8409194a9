"""UniMatch V2: complementary channels, CutMix, and the average that labels, is deployed, and is saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.selftraining.small import NETWORK, SMALL, batch, command
from wrp.cli.main import main
from wrp.options import NetworkArgs
from wrp.segmentation.module import load_segmenter
from wrp.segmentation.network import create_segmenter
from wrp.selftraining.average import update_average
from wrp.selftraining.student import changed_features
from wrp.selftraining.unimatch import UniMatchModule
from wrp.selftraining.unimatch_v2 import UniMatchV2Module, complementary_factors, cut_mix, ramped_decay

VIT = NetworkArgs("DPT", "tu-vit_tiny_patch16_224")


def test_a_channel_that_one_view_has_lost_is_doubled_in_the_other() -> None:
    torch.manual_seed(0)
    first, second = complementary_factors(64, 32, whole_ratio=0.0).chunk(2)
    assert first.shape == (64, 32, 1, 1)
    assert torch.equal(first + second, torch.full_like(first, 2))
    assert set(first.unique().tolist()) == {0.0, 2.0}
    assert first.flatten(1).unique(dim=0).shape[0] == 64  # each image has its own
    assert abs(first.mean() - 1) < 0.05  # the expectation of features is what it was


def test_half_of_the_images_keep_all_channels() -> None:
    torch.manual_seed(0)
    whole = torch.zeros(5)
    for _ in range(100):
        first, second = complementary_factors(5, 16).flatten(1).chunk(2)
        kept = (first == 1).all(1)
        assert int(kept.sum()) == 2
        assert torch.equal(kept, (second == 1).all(1))
        whole += kept
    assert (whole > 20).all()  # not always the same ones


def test_the_decay_rises_to_its_greatest_value() -> None:
    found = [ramped_decay(step) for step in (0, 1, 3, 99, 249, 250, 100_000)]
    assert found == pytest.approx([0.0, 0.5, 0.75, 0.99, 0.996, 0.996, 0.996])


def test_until_then_all_past_weights_count_alike() -> None:
    average, student = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    for step in range(4):
        nn.init.constant_(student.weight, step)
        update_average(average, student, ramped_decay(step))
    assert average.weight.item() == pytest.approx(1.5)


def test_statistics_are_averaged_like_weights_and_counts_copied() -> None:
    kept, given = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
    given.running_mean.fill_(8.0)  # type: ignore[union-attr]
    given.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    update_average(kept, given, 0.75, buffers=True)
    assert kept.running_mean.item() == 2.0  # type: ignore[union-attr]
    assert kept.num_batches_tracked == 7
    update_average(kept, given, 0.75)
    assert kept.running_mean.item() == 8.0  # type: ignore[union-attr]


def test_what_belongs_to_an_image_is_mixed_with_it() -> None:
    torch.manual_seed(0)
    labels = torch.arange(4, dtype=torch.uint8).view(4, 1, 1).repeat(1, 32, 48)
    images = labels[:, None].float().repeat(1, 3, 1, 1) / 10
    seen = set()
    for _ in range(20):
        mixed, of_mixed, weights = cut_mix(images, labels, labels.float())
        assert torch.equal((10 * mixed[:, 0]).round().byte(), of_mixed)
        assert torch.equal(of_mixed.float(), weights)
        for number, label in enumerate(of_mixed):
            assert set(label.unique().tolist()) <= {number, 3 - number}
            seen.add((number, bool((label != number).any())))
    assert len(seen) == 8  # each is mixed at times, and left alone at times
    assert torch.equal(labels[:, 0, 0], torch.arange(4).byte())  # the originals are as they were


@pytest.mark.parametrize("network", [NETWORK, VIT], ids=["cnn", "transformer"])
def test_features_are_changed_and_the_image_is_not(network: NetworkArgs) -> None:
    net = create_segmenter(3, network).eval()
    images, seen = torch.rand(2, 3, 64, 64), list[Tensor]()
    with torch.no_grad():
        before = net.encoder(images)
        with changed_features(net.encoder, lambda features: features + 1):
            after = net.encoder(images)
        assert torch.equal(net(images), net(images))
    if isinstance(before, tuple):
        assert len(after) == len(before) == 2
        before, after = before[0], after[0]
    for old, new in zip(before, after, strict=True):
        assert torch.equal(new, old if old is images else old + 1)
        seen += [new] if new is images else []
    assert len(seen) == (network is NETWORK)
    assert not net.encoder._forward_hooks


@pytest.mark.parametrize("kind", [UniMatchModule, UniMatchV2Module])
def test_features_of_transformers_can_be_dropped(kind: type[UniMatchModule | UniMatchV2Module]) -> None:
    module = kind(3, VIT).train()
    assert torch.isfinite(module.semi_loss(batch(), batch(seed=1, labelled=False)))


def test_the_views_of_an_image_have_complementary_channels_in_every_feature() -> None:
    """The encoder's features are all ones, so those that the decoder gets are the factors."""
    torch.manual_seed(0)
    module = UniMatchV2Module(**SMALL).train()
    module.backbone.register_forward_hook(lambda _, images, found: [*images, *map(torch.ones_like, found[1:])])
    got: list[list[Tensor]] = []
    decoder: nn.Module = module.net.net.decoder  # type: ignore[union-attr,assignment]
    decoder.register_forward_pre_hook(lambda _, given: got.append(given[0]))
    module.semi_loss(batch(), batch(4, seed=1, labelled=False))
    labelled, both = got  # the average has a decoder of its own
    assert all((features == 1).all() for features in labelled[1:])
    assert [len(features) for features in both] == [8] * 6
    for features in both[1:]:
        first, second = features.chunk(2)
        assert (first + second == 2).all()
        assert (first.flatten(2) == first[..., :1, 0]).all()  # a channel is lost as a whole
        assert int((first != 1).flatten(1).any(1).sum()) == 2


def test_only_confident_pixels_teach() -> None:
    """The average is made to be sure of class 1 on the left half, and to know nothing on the right one."""
    module = UniMatchV2Module(**SMALL, cutout=False).train()

    class Known(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = torch.zeros(len(images), 3, *images.shape[-2:])
            logits[:, 1, :, : images.shape[-1] // 2] = 9.0
            return logits

    module.average = Known()
    labels, weights = module._label(torch.rand(2, 3, 64, 64))
    assert (labels[..., :32] == 1).all()
    assert weights.mean((0, 1)).tolist() == [1.0] * 32 + [0.0] * 32

    def loss(threshold: float) -> float:
        module.threshold = threshold
        torch.manual_seed(0)
        return float(module.semi_loss(batch(), batch(seed=1, labelled=False)))

    module.unlabelled_weight = 0.0
    supervised = loss(0.95)
    module.unlabelled_weight = 1.0
    assert supervised < loss(0.95) < loss(0.0)
    assert loss(1.1) == pytest.approx(supervised)


def test_padding_does_not_teach() -> None:
    module = UniMatchV2Module(**SMALL, threshold=0.0).train()
    outside = replace(batch(seed=1, labelled=False), weights=torch.zeros(2, 64, 64))

    def loss(weight: float) -> float:
        module.unlabelled_weight = weight
        torch.manual_seed(0)
        return float(module.semi_loss(batch(), outside))

    assert loss(0.0) == loss(1.0)


def test_processes_meet_equally_often_whatever_is_confident(monkeypatch: pytest.MonkeyPatch) -> None:
    met: list[int] = []

    def meet(sums: Tensor) -> Tensor:
        met.append(len(sums))
        return sums

    monkeypatch.setattr("wrp.segmentation.losses.mean_over_processes", meet)
    for threshold in (0.0, 1.1):
        UniMatchV2Module(**SMALL, threshold=threshold).train().semi_loss(batch(), batch(seed=1, labelled=False))
    assert len(met) == 6
    assert met[:3] == met[3:]


def test_the_average_is_no_part_of_what_is_trained() -> None:
    module = UniMatchV2Module(**SMALL).train()
    assert not module.average.training
    assert not any(p.requires_grad for p in module.average.parameters())
    assert len(module.parameter_groups()[0]["params"]) == len(list(module.net.parameters()))
    module.semi_loss(batch(), batch(seed=1, labelled=False)).backward()
    assert all(p.grad is not None for p in module.net.parameters() if p.requires_grad)


@pytest.mark.slow
def test_the_average_is_saved_and_deployed(
    lists: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    updated: list[tuple[float, bool]] = []

    def update(average: nn.Module, student: nn.Module, decay: float, buffers: bool) -> None:
        updated.append((decay, buffers))
        update_average(average, student, decay, buffers)

    monkeypatch.setattr("wrp.selftraining.average.update_average", update)
    assert main(command("unimatch-v2", lists, tmp_path / "out", "--encoder-lr=0.5")) == 0
    loaded = load_segmenter(str(tmp_path / "out" / "unimatch-v2.ckpt"), 3)
    assert isinstance(loaded, UniMatchV2Module)
    assert loaded.optimizer.encoder_lr == 0.5
    images = batch().images
    with torch.no_grad():
        expected = loaded.average(images / 255).softmax(1)
        torch.testing.assert_close(loaded.probabilities(images), expected)
        assert not torch.equal(loaded.net.eval()(images / 255).softmax(1), expected)
    assert updated == [(pytest.approx(decay), True) for decay in (0, 1 / 2, 2 / 3)]
