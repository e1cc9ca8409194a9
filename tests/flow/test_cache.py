"""Flow that is kept on disk: found again, shared, and never trusted when it is not what it should be."""

from __future__ import annotations

import copy
import gc
import logging
import multiprocessing
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.flow.small import Counting, stretch
from wrp.errors import WrpError
from wrp.flow import space
from wrp.flow.cache import FlowCache, cached
from wrp.flow.dis import DIS
from wrp.flow.hashing import direct_hash, frame_hash
from wrp.flow.space import DiskSpace
from wrp.structures import ClipBatch, FramePair
from wrp.testing import FlowEstimatorTester, texture


def forward(cache: FlowCache, batch: ClipBatch, index: int) -> list[float]:
    """Both components of the flow at the first pixel."""
    flow: list[float] = cache.between(batch, [index])[0].flow_fw[0, :, 0, 0].tolist()
    return flow


class TestFlowCache(FlowEstimatorTester):
    def make(self) -> FlowCache:
        return FlowCache(DIS())

    def test_its_signature_tells_working_resolutions_apart(self, estimator: FlowCache) -> None:
        assert estimator.signature == DIS().signature  # whose resolution it is


def test_a_flow_is_estimated_once_and_rounded_alike_at_every_time(tmp_path: Path) -> None:
    estimator, batch = Counting(), stretch([1, 2, 3, 4])
    cache = FlowCache(estimator, str(tmp_path))
    first = list(cache.neighbours(batch, range(3)))
    assert estimator.asked == 6
    for again in (cache, FlowCache(Counting(), str(tmp_path))):
        second = list(again.neighbours(batch, reversed(range(3))))[::-1]
        for a, b in zip(first, second, strict=True):
            assert torch.equal(a.flow_fw, b.flow_fw)
            assert torch.equal(a.flow_bw, b.flow_bw)
    assert estimator.asked == 6
    assert (cache.hits, cache.misses) == (3, 3)
    assert "6 pairs asked for, 50 % found, 0 MB on disk" in cache.summary()
    [file] = tmp_path.glob("*.flow")
    file.unlink()
    assert cache.summary().endswith("50 % found")


def test_the_error_of_rounding_is_as_stated(tmp_path: Path) -> None:
    batch = stretch([0, 1])
    batch.frames[:] = [texture(48, 64), texture(48, 64, 3)]
    exact, kept = DIS().between(batch, [0])[0], FlowCache(DIS(), str(tmp_path)).between(batch, [0])[0]
    assert ((exact.flow_fw - kept.flow_fw).abs() <= exact.flow_fw.abs() * 2**-11 + 1e-7).all()
    assert not torch.equal(exact.flow_fw, kept.flow_fw)


def test_flows_are_found_by_content_not_by_name(tmp_path: Path) -> None:
    FlowCache(Counting(), str(tmp_path)).between(stretch([7, 8]), [0])
    changed, estimator = stretch([7, 9]), Counting()
    changed.stems = ["007", "008"]
    assert forward(FlowCache(estimator, str(tmp_path)), changed, 0) == pytest.approx([7.33, 9.33], abs=0.01)
    assert estimator.asked == 2


def test_clips_sizes_and_estimators_have_files_of_their_own(tmp_path: Path) -> None:
    for version, batch in (
        (1, stretch([1, 2])),
        (2, stretch([1, 2])),
        (1, stretch([1, 2], "a/b")),
        (1, stretch([1, 2], size=(8, 8))),
    ):
        estimator = Counting(version)
        assert forward(FlowCache(estimator, str(tmp_path)), batch, 0) == pytest.approx(
            [version + 0.33, 2 * version + 0.33], abs=0.01
        )
        assert estimator.asked == 2
    assert len(list(tmp_path.glob("*.flow"))) == 4


@pytest.mark.parametrize("damage", ["empty", "text", "header", "flow", "cut", "cut in the header", "gone"])
def test_a_damaged_file_is_never_trusted(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    batch = stretch([1, 2, 3])
    list(FlowCache(Counting(), str(tmp_path)).neighbours(batch, range(2)))
    (path,) = tmp_path.glob("*.flow")
    content = bytearray(path.read_bytes())
    if damage == "header":
        content[3] ^= 1
    elif damage == "flow":
        content[4096 + 64 + 5] ^= 1
    changed = {"empty": b"", "text": b"flow", "cut": content[:-9], "cut in the header": content[:99]}
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(changed.get(damage, bytes(content)))
    estimator = Counting()
    with caplog.at_level(logging.WARNING):
        again = FlowCache(estimator, str(tmp_path))
        assert forward(again, batch, 0) == pytest.approx([1.33, 2.33], abs=0.01)
        assert forward(again, batch, 1) == pytest.approx([2.33, 3.33], abs=0.01)
    assert estimator.asked == {"flow": 2, "cut": 2}.get(damage, 4)
    if damage not in ("gone", "cut"):
        assert "estimated anew" in caplog.text or "made anew" in caplog.text
    healed = Counting()
    list(FlowCache(healed, str(tmp_path)).neighbours(batch, range(2)))
    assert healed.asked == 0


def test_a_file_that_breaks_while_it_is_open_is_not_trusted(tmp_path: Path) -> None:
    estimator, batch = Counting(), stretch([1, 2, 3])
    cache = FlowCache(estimator, str(tmp_path))
    list(cache.neighbours(batch, range(2)))
    (path,) = tmp_path.glob("*.flow")
    with path.open("r+b") as file:
        file.truncate(4096 + 100)
    assert forward(cache, batch, 1) == pytest.approx([2.33, 3.33], abs=0.01)
    assert estimator.asked == 6


def test_a_full_cache_says_so_once_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    estimator, batch = Counting(), stretch([1, 2, 3, 4])
    cache = FlowCache(estimator, str(tmp_path), max_bytes=4096 + 2 * (64 + 8 * 12 * 16))
    for _ in range(2):
        list(cache.neighbours(batch, range(3)))
    assert (cache.hits, cache.misses) == (2, 4)
    assert caplog.text.count("is full") == 1
    assert sum(path.stat().st_size for path in tmp_path.glob("*.flow")) <= cache.max_bytes


def test_clips_share_one_warning_when_the_cache_is_full(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = FlowCache(Counting(), str(tmp_path), max_bytes=5000)
    for clip in ("one", "two"):
        list(cache.neighbours(stretch([1, 2, 3], clip), range(2)))
    assert (cache.hits, cache.misses) == (0, 4)
    assert caplog.text.count("is full") == 1


RECORD = 64 + 8 * 12 * 16  # bytes, of a stretch


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes there were each time that the files of a folder were measured."""
    found = []
    measure = DiskSpace.measure

    def counted(one: DiskSpace) -> int:
        found.append(measure(one))
        return found[-1]

    monkeypatch.setattr(DiskSpace, "measure", counted)
    return found


@pytest.mark.parametrize("max_bytes", [2**30, 4096 + 9 * RECORD], ids=["with room", "full"])
def test_the_folder_is_measured_seldom(
    tmp_path: Path, measured: list[int], max_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "MEASURE_EVERY", 16)
    cache = FlowCache(Counting(), str(tmp_path), max_bytes)
    list(cache.neighbours(stretch(range(40)), range(39)))
    # At the start, and every 16 records; or at the start, when it seems full, and after 16 that were refused.
    assert len(measured) == 3


def test_what_other_processes_write_and_delete_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space, "MEASURE_EVERY", 8)
    cache = FlowCache(Counting(), str(tmp_path), max_bytes=4096 + 100 * RECORD)
    batch, other = stretch(range(40)), tmp_path / "other.flow"
    list(cache.neighbours(batch, range(4)))
    other.write_bytes(bytes(cache.max_bytes))
    list(cache.neighbours(batch, range(4, 20)))
    list(cache.neighbours(batch, range(20)))
    assert 4 <= cache.hits < 12
    other.unlink()
    list(cache.neighbours(batch, range(20, 40 - 1)))
    before = cache.hits
    list(cache.neighbours(batch, range(31, 40 - 1)))
    assert cache.hits == before + 8


def _fill(folder: str, order: Sequence[int]) -> None:
    cache = FlowCache(Counting(), folder)
    for index in order:
        assert abs(forward(cache, stretch(range(40)), index)[0] - index - 1 / 3) < 0.02


def test_processes_share_a_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    orders = [list(range(39)), list(reversed(range(39)))]
    processes = [context.Process(target=_fill, args=(str(tmp_path), order)) for order in orders]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    estimator = Counting()
    list(FlowCache(estimator, str(tmp_path)).neighbours(stretch(range(40)), range(39)))
    assert estimator.asked == 0


def grown(batch: ClipBatch) -> Tensor:
    """A flow to start from, which float16 would round."""
    return torch.full((1, 2, *batch.frame(batch.first).shape[1:]), 1 / 3)


def test_direct_flow_is_estimated_once_and_never_rounded(tmp_path: Path) -> None:
    batch, estimator = stretch([1, 2, 3, 4]), Counting()
    cache = FlowCache(estimator, str(tmp_path))
    expected = Counting().direct(batch, 3, 0, grown(batch), "prepend")
    assert not torch.equal(expected, expected.half().float())
    for again in (cache, cache, FlowCache(estimator, str(tmp_path))):
        assert torch.equal(again.direct(batch, 3, 0, grown(batch), "prepend"), expected)
    assert estimator.estimates == cache.estimates == 1
    assert (cache.hits, cache.misses) == (0, 0)  # they count pairs of neighbours


def test_direct_flow_that_nobody_will_need_is_found_but_not_kept(tmp_path: Path) -> None:
    batch, estimator = stretch([1, 2, 3, 4]), Counting()
    cache = FlowCache(estimator, str(tmp_path))
    cache.direct(batch, 3, 0, grown(batch), "prepend")
    cache.keeps_direct = False
    for far in (0, 1, 1):
        cache.direct(batch, 3, far, grown(batch), "prepend")
    assert estimator.estimates == 3


def test_direct_flow_is_found_by_all_that_its_initial_flow_is_made_of(tmp_path: Path) -> None:
    batch, other = stretch([1, 2, 3, 4]), stretch([1, 9, 3, 4])
    estimator = Counting()
    cache = FlowCache(estimator, str(tmp_path))
    for asked in (
        (batch, 3, 0, "prepend"),
        (batch, 0, 3, "prepend"),
        (batch, 3, 0, "append"),
        (batch, 3, 1, "prepend"),
        (other, 3, 0, "prepend"),
    ):
        before = estimator.estimates
        cache.direct(*asked[:3], grown(batch), asked[3])  # type: ignore[arg-type]
        assert estimator.estimates == before + 1, asked[1:]
    cache.direct(stretch([0, 1, 2, 3, 4]), 4, 1, grown(batch), "prepend")  # the same frames in a longer stretch
    assert estimator.estimates == 5
    assert direct_hash(batch, 1, 1, "append") != direct_hash(batch, 1, 1, "prepend")


def test_damaged_direct_flow_is_estimated_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batch, estimator = stretch([1, 2, 3]), Counting()
    expected = FlowCache(estimator, str(tmp_path)).direct(batch, 2, 0, grown(batch), "prepend")
    (path,) = tmp_path.glob("*-direct.flow")
    content = bytearray(path.read_bytes())
    content[4096 + 64 + 5] ^= 1
    path.write_bytes(bytes(content))
    assert torch.equal(FlowCache(estimator, str(tmp_path)).direct(batch, 2, 0, grown(batch), "prepend"), expected)
    assert estimator.estimates == 2
    assert "estimated anew" in caplog.text


def test_direct_flow_counts_as_all_flow_does(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batch, estimator = stretch([1, 2, 3]), Counting()
    cache = FlowCache(estimator, str(tmp_path), max_bytes=2 * 4096 + RECORD)
    cache.between(batch, [0])
    for _ in range(2):
        cache.direct(batch, 2, 0, grown(batch), "prepend")
    assert estimator.estimates == 2 + 2
    assert caplog.text.count("is full") == 1


def test_a_temporary_cache_keeps_no_direct_flow() -> None:
    batch, cache = stretch([1, 2, 3]), cached(Counting())
    for _ in range(2):
        cache.direct(batch, 2, 0, grown(batch), "prepend")
    assert cache.estimates == 2
    assert not list(cache.place.iterdir())


def test_a_clip_that_is_forgotten_makes_room_and_others_stay(tmp_path: Path) -> None:
    clips = ("a", "a-b", "a-12x16", "HxW", "a.b")
    cache = FlowCache(Counting(), str(tmp_path))
    for kept in (cache, FlowCache(Counting(2), str(tmp_path))):
        for clip in clips:
            batch = stretch([1, 2, 3], clip)
            kept.between(batch, [0, 1])
            kept.direct(batch, 2, 0, grown(batch), "prepend")
        kept.between(stretch([1, 2], "a", size=(8, 8)), [0])
    before = {path.name for path in tmp_path.glob("*.flow")}
    assert len(before) == 2 * (2 * len(clips) + 1)
    cache.forget("a")
    gone = before - {path.name for path in tmp_path.glob("*.flow")}
    assert len(gone) == 3
    assert all(name.startswith(("a-12x16-", "a-8x8-")) and "a-12x16-12x16" not in name for name in gone)
    assert forward(cache, stretch([1, 2, 3], "a"), 0) == pytest.approx([1.33, 2.33], abs=0.01)
    assert cache.estimates == (2 * 2 + 1) * len(clips) + 2 + 2


def test_the_room_of_a_forgotten_clip_is_used_again(tmp_path: Path, measured: list[int]) -> None:
    cache = FlowCache(Counting(), str(tmp_path), max_bytes=2 * 4096 + 2 * RECORD)
    one, two = stretch([1, 2, 3], "one"), stretch([1, 2, 3], "two")
    for batch in (one, two, two):
        list(cache.neighbours(batch, range(2)))
    assert (cache.hits, cache.misses) == (0, 6)
    cache.forget("one")
    for _ in range(2):
        list(cache.neighbours(two, range(2)))
    assert (cache.hits, cache.misses) == (2, 8)
    assert len(measured) == 2


def test_nothing_is_deleted_from_a_folder_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "a-2x2-00000000.flow").write_text("mine")
    with pytest.raises(WrpError, match="choose an empty folder"):
        FlowCache(Counting(), str(tmp_path)).forget("a")
    assert len(list(tmp_path.iterdir())) == 1


class OnAccess:
    """Frames that are read on access and hashed then, as those of long stretches."""

    def __init__(self, batch: ClipBatch) -> None:
        self.frames, self.hashes, self.reads = batch.frames, batch.hashes, 0

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Tensor:
        self.reads += 1
        self.hashes[index] = bytes([index]) * 16
        return self.frames[index].clone()


def test_frames_that_are_read_on_access_are_read_once_for_their_hash() -> None:
    batch = stretch([1, 2, 3])
    batch.frames = frames = OnAccess(batch)
    assert [frame_hash(batch, i) for i in (0, 1, 0)] == [bytes(16), bytes([1]) * 16, bytes(16)]
    for _ in range(3):
        direct_hash(batch, 2, 0, "prepend")
    assert frames.reads == 3


def test_a_temporary_cache_keeps_one_clip_and_leaves_nothing() -> None:
    cache = cached(Counting())
    place = cache.place
    list(cache.neighbours(stretch([1, 2, 3], "one"), range(2)))
    list(cache.neighbours(stretch([1, 2, 3], "two"), range(2)))
    assert len(list(place.glob("*.flow"))) == 1
    assert cached(cache) is cache
    del cache
    gc.collect()
    assert not place.exists()


def test_time_is_that_of_the_estimator(tmp_path: Path) -> None:
    cache = FlowCache(DIS(), str(tmp_path))
    batch = stretch([0, 1])
    batch.frames[:] = [texture(64, 96), texture(64, 96, 3)]
    cache.between(batch, [0])
    spent = cache.seconds
    assert spent == cache.estimator.seconds > 0
    cache.between(batch, [0])
    assert cache.seconds == spent


def test_copies_have_temporary_folders_of_their_own() -> None:
    cache = cached(Counting())
    list(cache.neighbours(stretch([1, 2, 3]), range(2)))
    for twin in (copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
        assert twin.place != cache.place
        assert forward(twin, stretch([5, 6], "other"), 0) == pytest.approx([5.33, 6.33], abs=0.01)
    del twin
    gc.collect()
    assert cache.place.is_dir()
    assert forward(cache, stretch([1, 2, 3]), 1) == pytest.approx([2.33, 3.33], abs=0.01)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WrpError, match="flow cache .*file is a file, expected a folder"):
        forward(FlowCache(Counting(), str(tmp_path / "file")), stretch([1, 2]), 0)


def test_a_folder_that_goes_away_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = FlowCache(Counting(), str(tmp_path / "flow"))
    assert forward(cache, stretch([1, 2, 3]), 0) == pytest.approx([1.33, 2.33], abs=0.01)
    shutil.rmtree(tmp_path / "flow")
    for _ in range(2):
        assert forward(cache, stretch([1, 2, 3]), 1) == pytest.approx([2.33, 3.33], abs=0.01)
    assert caplog.text.count("flow is no longer kept") == 1


def test_flow_does_not_depend_on_the_precision_of_who_asks(tmp_path: Path) -> None:
    class Product(Counting):
        def estimate(self, frames_s: Tensor, frames_t: Tensor, pairs: Sequence[FramePair] | None) -> Tensor:
            flow = super().estimate(frames_s, frames_t, pairs)
            return flow @ torch.eye(flow.shape[-1])

    plain = Product().between(stretch([100, 201]), [0])[0].flow_fw
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Product().between(stretch([100, 201]), [0])[0].flow_fw, plain)
