import random
from pathlib import Path

import pytest

from tests.clips import LABEL_MAP, bare_clip, make_folder, picture, save
from wrp.data.index import ClipIndex, hold_out_labels, intervals, label_beside, list_images, make_clip, select_clips
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError
from wrp.options import SelectArgs
from wrp.structures import Clip, Frame


def index_of(*clips: Clip) -> ClipIndex:
    return ClipIndex(Path("somewhere"), "folder", LABEL_MAP, clips)


def bounds(clip: Clip) -> list[tuple[int, int, int | None, int | None]]:
    return [(i.start, i.stop, i.previous, i.next) for i in intervals(clip)]


def random_keyframes() -> list[tuple[int, tuple[int, ...]]]:
    draw = random.Random(5)
    cases = []
    for _ in range(60):
        count = draw.randint(1, 30)
        cases.append((count, tuple(sorted(draw.sample(range(count), draw.randint(1, count))))))
    return cases


@pytest.mark.parametrize(("count", "keyframes"), [*random_keyframes(), (1, (0,)), (2, (0, 1)), (9, tuple(range(9)))])
def test_every_frame_is_in_exactly_one_interval_with_the_anchors_next_to_it(
    count: int, keyframes: tuple[int, ...]
) -> None:
    found = intervals(bare_clip(count, keyframes))
    assert [frame for i in found for frame in range(i.start, i.stop)] == list(range(count))
    for interval in found:
        assert interval.stop > interval.start
        assert set(interval.keyframes) <= set(keyframes)
        assert interval.keyframes
        for frame in range(interval.start, interval.stop):
            before = [a for a in keyframes if a <= frame]
            after = [a for a in keyframes if a >= frame]
            wanted = {before[-1] if before else None, after[0] if after else None} - {None}
            assert wanted <= set(interval.keyframes), frame
        first, last = interval.span
        assert 0 <= first <= interval.start
        assert interval.stop - 1 <= last < count
        assert not [a for a in keyframes if first < a < last and a not in interval.keyframes]


@pytest.mark.parametrize(
    ("count", "keyframes", "expected"),
    [
        (1, [0], [(0, 1, 0, None)]),
        (5, [0], [(0, 5, 0, None)]),
        (5, [2], [(0, 2, None, 2), (2, 5, 2, None)]),
        (6, [0, 5], [(0, 6, 0, 5)]),
        (6, [1, 3], [(0, 1, None, 1), (1, 3, 1, 3), (3, 6, 3, None)]),
        (3, [0, 1, 2], [(0, 1, 0, 1), (1, 3, 1, 2)]),
        (2, [0, 1], [(0, 2, 0, 1)]),
        (5, [], []),
    ],
)
def test_intervals_by_hand(count: int, keyframes: list[int], expected: list[tuple]) -> None:
    assert bounds(bare_clip(count, keyframes)) == expected


def test_a_single_keyframe_at_the_last_frame_forms_the_interval_before_it() -> None:
    assert bounds(bare_clip(5, [4])) == [(0, 5, None, 4)]


def test_only_labelled_frames_are_keyframes() -> None:
    frames = [Frame(str(i), Path(f"{i}.png"), Path("x") if i in (1, 3) else None) for i in range(5)]
    assert make_clip("c", iter(frames)) == Clip("c", tuple(frames), (1, 3), ())


@pytest.mark.parametrize(
    ("every", "offset", "keyframes"),
    [(1, 0, range(10)), (3, 0, (0, 3, 6, 9)), (3, 1, (1, 4, 7)), (20, 0, (0,)), (20, 9, (9,)), (3, 10, ())],
)
def test_every_so_many_labels_stay_and_the_others_are_hidden(every: int, offset: int, keyframes) -> None:
    clip = hold_out_labels(bare_clip(10, range(10)), every, offset)
    assert clip.keyframes == tuple(keyframes)
    assert sorted({*clip.keyframes, *clip.held_out}) == list(range(10))
    assert not {*clip.keyframes} & {*clip.held_out}


def test_labels_are_counted_and_not_frames() -> None:
    assert hold_out_labels(bare_clip(20, (1, 4, 9, 15)), 2).keyframes == (1, 9)


def test_hiding_again_starts_from_all_labels() -> None:
    once = hold_out_labels(bare_clip(10, range(10)), 5)
    assert hold_out_labels(once, 2) == hold_out_labels(bare_clip(10, range(10)), 2)


def test_hidden_labels_are_in_the_intervals_of_the_anchors_left() -> None:
    assert bounds(hold_out_labels(bare_clip(7, range(7)), 3)) == [(0, 3, 0, 3), (3, 7, 3, 6)]


def test_clips_are_chosen_by_name_in_the_order_of_the_data_set() -> None:
    index = index_of(*(bare_clip(3, (0,), name=name) for name in "abc"))
    assert [clip.name for clip in select_clips(index, SelectArgs(["c", "a"])).clips] == ["a", "c"]
    assert select_clips(index, SelectArgs(clips="c, a")) == select_clips(index, SelectArgs(["a", "c"]))
    assert select_clips(index, SelectArgs()) == index


def test_a_clip_without_labels_does_no_harm_unless_it_is_chosen() -> None:
    index = index_of(bare_clip(3, (0,), name="a"), bare_clip(4, (), name="b"))
    assert len(select_clips(index, SelectArgs(["a"])).clips) == 1
    with pytest.raises(DataError, match="clip b of somewhere has no labelled frame; label at least one of its 4"):
        select_clips(index, SelectArgs())


def test_an_unknown_clip_is_named_beside_the_known_ones() -> None:
    index = index_of(*(bare_clip(2, (0,), name=f"clip{i}") for i in range(11)))
    with pytest.raises(DataError, match="no clip 'clop'; its clips are clip0, .*clip7 and 3 more"):
        select_clips(index, SelectArgs(["clip1", "clop"]))


@pytest.mark.parametrize(
    ("every", "offset", "message"),
    [
        (0, 0, "label-every must be at least 1, got 0"),
        (-2, 0, "label-every must be at least 1, got -2"),
        (3, -1, "label-offset must be at least 0 and goes with label-every, got -1"),
        (None, 2, "label-offset must be at least 0 and goes with label-every, got 2"),
        (2, 5, "label-every 2 from 5 leaves none of 5"),
    ],
)
def test_numbers_out_of_range_are_refused(every: int | None, offset: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        select_clips(index_of(bare_clip(8, range(5))), SelectArgs(label_every=every, label_offset=offset))


def test_images_are_listed_by_name_and_nothing_else_is(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "c.JPEG", ".hidden.png"):
        save(tmp_path / name, picture(0, 4, 4))
    (tmp_path / "Thumbs.db").touch()
    (tmp_path / "notes.txt").touch()
    assert [path.name for path in list_images(tmp_path)] == ["a.jpg", "b.png", "c.JPEG"]


def test_two_images_of_one_name_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "a.jpg", picture(0, 4, 4))
    save(tmp_path / "a.png", picture(0, 4, 4))
    with pytest.raises(DataError, match=f"{tmp_path} holds two images named 'a'"):
        list_images(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"there is no folder {tmp_path / 'nowhere'}"):
        list_images(tmp_path / "nowhere")


def test_the_label_of_an_image_has_its_stem_and_is_a_png(tmp_path: Path) -> None:
    save(tmp_path / "a.png", picture(0, 4, 4))
    assert label_beside(tmp_path, Path("elsewhere/a.jpg")) == tmp_path / "a.png"
    assert label_beside(tmp_path, Path("elsewhere/b.jpg")) is None
    assert label_beside(tmp_path / "nowhere", Path("a.jpg")) is None


def test_a_list_says_which_labels_are_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = open_index(make_folder(tmp_path / "data", {"run": 3, "walk": 5}))
    listed = tmp_path / "keyframes.txt"
    listed.write_text("# by hand\nrun/00001\n\nwalk/00000\nwalk/00004\n")
    with caplog.at_level("INFO", "wrp"):
        run, walk = select_clips(index, SelectArgs(keyframes=str(listed))).clips
    assert (run.keyframes, run.held_out) == ((1,), (0, 2))
    assert (walk.keyframes, walk.held_out) == ((0, 4), (1, 2, 3))
    assert "3 entries, sha256 " in caplog.text
    (walk,) = select_clips(index, SelectArgs(["walk"], keyframes=str(listed))).clips
    assert walk.keyframes == (0, 4)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("run/00009", "which is no labelled frame"),
        ("walk/00000\nwalk/00000", "twice"),
        ("../walk/00000", "leads out"),
        ("/walk/00000", "leads out"),
        ("walk/00000", "clip run .* has no labelled frame"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path: Path, text: str, match: str) -> None:
    index = open_index(make_folder(tmp_path / "data", {"run": 3, "walk": 5}))
    listed = tmp_path / "keyframes.txt"
    listed.write_text(text)
    with pytest.raises(DataError, match=match):
        select_clips(index, SelectArgs(keyframes=str(listed)))
    with pytest.raises(DataError, match="exclude one another"):
        select_clips(index, SelectArgs(label_every=2, keyframes=str(listed)))
    with pytest.raises(DataError, match="cannot be read"):
        select_clips(index, SelectArgs(keyframes=str(tmp_path / "none.txt")))


def test_a_split_of_a_folder_is_a_list_of_clips(tmp_path: Path) -> None:
    root = make_folder(tmp_path, {"run": 3, "walk": 5})
    (root / "splits").mkdir()
    (root / "splits" / "train.txt").write_text("walk\n")
    assert [clip.name for clip in open_index(root, split="train").clips] == ["walk"]
    (root / "splits" / "val.txt").write_text("swim\n")
    with pytest.raises(DataError, match="names 'swim', which is no clip"):
        open_index(root, split="val")
