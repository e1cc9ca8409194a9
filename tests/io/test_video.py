"""Real video files, made and read with PyAV."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tests.clips import CLASSES_YAML, id_picture, save
from tests.io.videos import (
    HEIGHT,
    WIDTH,
    copy_packets,
    decoded,
    edit,
    encode,
    index_first,
    number_of,
    pack_frames,
    rotate_metadata,
    shade,
    write_plainly,
    write_video,
    write_with_cover,
)
from wrp.data.items import FrameItems, IntervalItems
from wrp.data.layouts.registry import open_index
from wrp.errors import DataError
from wrp.io.images import read_image
from wrp.io.video import TRIED, VIDEO_SUFFIXES, Video, is_video
from wrp.structures import VideoFrame


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov"])
def test_frames_come_back_under_their_numbers_in_any_order(tmp_path: Path, suffix: str) -> None:
    video = Video(write_video(tmp_path / f"clip{suffix}", 60))
    assert len(video) == 60
    order = [*range(60), 59, 0, 31, 30, 32, 12, 11, 47, 3]
    assert [number_of(video.read(number)) for number in order] == order


def test_frames_at_uneven_times_keep_their_numbers(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(0).integers(5, 90, 40)).tolist()
    video = Video(write_video(tmp_path / "clip.mkv", 40, times))
    order = [39, 0, 20, 21, 5, 38]
    assert [number_of(video.read(number)) for number in order] == order


def check_frames(path: Path, numbers: list[int] | None = None) -> Video:
    """Every frame, read in any order, has the very pixels of the frame that a decoder yields from the start."""
    video, whole = Video(path), decoded(path)
    assert len(video) == len(whole) > 0
    order = [*range(len(video)), *np.random.default_rng(0).permutation(len(video)).tolist(), *range(len(video))[::-1]]
    assert [number for number in order if not np.array_equal(video.read(number), whole[number])] == []
    if numbers is not None:
        assert [number_of(frame) for frame in whole] == numbers
    return video


NO_B = {"g": "12", "bf": "0"}
X265 = {"x265-params": "keyint=12:bframes=2:log-level=0"}
ALT_REF = {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "20"}

EVERY: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264-fragments.mp4": {"movflags": "frag_keyframe+empty_moov"},
    "h264-open.mp4": {"codec_options": {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:scenecut=0"}},
    "h264-without-key-frames.mp4": {"codec_options": {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}},
    "h264-10bit.mkv": {"pixels": "yuv420p10le"},
    "h264-without-cues.mkv": {"live": "1"},
    "h264-odd.mkv": {"pixels": "yuv444p", "size": (49, 65)},
    "h264-uneven.mkv": {"times": [0, 1, 2, 5, 6, 9, 15, 16, 17, 18, 30, 31, 32, 33, 40, 41, 42, 60, 61]},
    "h264.avi": {},
    "h264.flv": {},
    "h264.nut": {},
    "h264.ts": {},
    "h264-camcorder.m2ts": {"mpegts_m2ts_mode": "1"},
    "h264-uneven.ts": {"times": [0, 1, 2, 5, 6, 9, 15, 16, 17, 18, 30, 31, 32, 33, 40, 41, 42, 60, 61]},
    "h264-raw.h264": {"kind": "h264"},
    "h265.mp4": {"codec": "libx265", "codec_options": X265},
    "h265.ts": {"codec": "libx265", "codec_options": X265},
    "h265-raw.hevc": {"codec": "libx265", "codec_options": X265, "kind": "hevc"},
    "av1.mkv": {"codec": "libsvtav1", "codec_options": {}, "size": (64, 64)},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "mpeg2-large.mpg": {"codec": "mpeg2video", "size": (240, 320), "codec_options": {"g": "6", "bf": "2", "b": "8M"}},
    "mpeg2-intra.mpg": {"codec": "mpeg2video", "codec_options": {"g": "1"}},
    "mpeg1.mpg": {"codec": "mpeg1video"},
    "mpeg2.vob": {"codec": "mpeg2video", "kind": "vob"},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "mpeg2.mxf": {"codec": "mpeg2video"},
    "mpeg2-raw.m2v": {"codec": "mpeg2video", "kind": "mpeg2video"},
    "mpeg1-raw.m1v": {"codec": "mpeg1video", "kind": "mpeg1video"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4-plain.avi": {"codec": "mpeg4", "codec_options": NO_B},
    "mpeg4.3gp": {"codec": "mpeg4", "codec_options": NO_B},
    "mpeg4-raw.m4v": {"codec": "mpeg4", "kind": "m4v"},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p", "codec_options": {}},
    "mjpeg-gaps.avi": {"codec": "mjpeg", "pixels": "yuvj420p", "codec_options": {}, "times": [0, 1, 4, 5, 9, 20]},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p", "codec_options": {}},
    "mjpeg-raw.mjpeg": {"codec": "mjpeg", "pixels": "yuvj420p", "codec_options": {}, "kind": "mjpeg"},
    "grey.mkv": {"codec": "ffv1", "pixels": "gray"},
    "grey-16bit.avi": {"codec": "ffv1", "pixels": "gray16le"},
    "prores.mov": {"codec": "prores", "pixels": "yuv422p10le", "codec_options": {}},
    "vp9.webm": {"codec": "libvpx-vp9", "count": 60, "codec_options": ALT_REF},
    "vp8.webm": {"codec": "libvpx", "count": 60, "codec_options": ALT_REF},
    "vp9.ivf": {"codec": "libvpx-vp9", "kind": "ivf", "codec_options": {}},
    "windows.wmv": {"codec": "wmv2", "codec_options": NO_B},
    "windows.asf": {"codec": "msmpeg4", "codec_options": NO_B},
    "flash.flv": {"codec": "flv", "codec_options": NO_B},
    "still.gif": {"codec": "gif", "pixels": "rgb8", "codec_options": {}},
    "png.apng": {"codec": "apng", "pixels": "rgb24", "codec_options": {}},
    "raw.y4m": {"codec": "wrapped_avframe", "kind": "yuv4mpegpipe", "codec_options": {}},
    "one.mp4": {"count": 1},
    "one.ts": {"count": 1},
    "one.mpg": {"codec": "mpeg2video", "count": 1},
    "one.avi": {"codec": "mpeg4", "count": 1, "codec_options": NO_B},
    "one.gif": {"codec": "gif", "pixels": "rgb8", "codec_options": {}, "count": 1},
}


@pytest.mark.parametrize("name", EVERY)
def test_frames_of_every_format_are_those_that_a_decoder_yields(tmp_path: Path, name: str) -> None:
    """Whatever the file is called."""
    options = dict(EVERY[name])
    if options.get("codec", "libx264") not in av.codecs_available:
        pytest.skip(f"no encoder {options['codec']}")
    path = encode(tmp_path / name, **options)
    count = len(options["times"]) if "times" in options else options.get("count", 30)
    check_frames(path, list(range(count)))
    assert is_video(path)
    for other in ("clip.dat", "clip", "10:30.txt"):
        path = path.rename(path.with_name(other))
        assert is_video(path)
        assert number_of(Video(path).read(count - 1)) == count - 1


def begin_later(source: Path, path: Path, lost: int) -> Path:
    return copy_packets(source, path, lambda number, _: number >= lost)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_recording_that_begins_between_key_frames_begins_at_the_next(tmp_path: Path, suffix: str) -> None:
    path = begin_later(encode(tmp_path / "whole.mp4", 40), tmp_path / f"clip{suffix}", 4)
    check_frames(path, list(range(12, 40)))


@pytest.mark.parametrize(
    ("codec", "options", "whole", "part", "first"),
    [
        ("mpeg2video", None, "whole.mpg", "clip.mpg", 12),
        ("mpeg2video", None, "whole.ts", "clip.ts", 12),
        ("libx265", X265, "whole.mp4", "clip.mp4", 12),
        ("libvpx-vp9", NO_B, "whole.webm", "clip.webm", 12),
        ("libvpx", NO_B, "whole.webm", "clip.webm", 12),
        ("libx264", EVERY["h264-open.mp4"]["codec_options"], "whole.mp4", "clip.mkv", 10),
    ],
)
def test_other_recordings_that_begin_between_key_frames(
    tmp_path: Path, codec: str, options: dict[str, str] | None, whole: str, part: str, first: int
) -> None:
    path = begin_later(encode(tmp_path / whole, 40, codec, codec_options=options), tmp_path / part, 4)
    check_frames(path, list(range(first, 40)))


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts"])
@pytest.mark.parametrize(("codec", "options"), [("libx265", X265), ("mpeg2video", None)])
def test_what_a_first_key_frame_leaves_out_of_the_group_before_has_no_number(
    tmp_path: Path, suffix: str, codec: str, options: dict[str, str] | None
) -> None:
    """B-frames that are stored behind the key frame, and shown before it."""
    whole, keys = encode(tmp_path / "whole.mp4", 40, codec, codec_options=options), list[int]()

    def kept(number: int, packet: Any) -> bool:
        keys.extend([number] if packet.is_keyframe else [])
        return len(keys) > 1

    check_frames(copy_packets(whole, tmp_path / f"clip{suffix}", kept), list(range(12, 40)))


def test_frames_that_a_decoder_makes_up_before_the_first_key_frame_are_refused(tmp_path: Path) -> None:
    path = begin_later(encode(tmp_path / "whole.mp4", 40, "mpeg4"), tmp_path / "clip.mp4", 4)
    with pytest.raises(DataError, match=r"clip\.mp4 begins between two key frames.* cut them off"):
        Video(path)


def test_a_recording_without_any_key_frame_is_refused(tmp_path: Path) -> None:
    path = copy_packets(encode(tmp_path / "whole.mp4", 10), tmp_path / "clip.mkv", lambda number, _: number > 0)
    with pytest.raises(DataError, match=r"clip\.mkv cannot be read as a video: "):
        Video(path)


def test_a_clip_that_was_trimmed_without_encoding_begins_where_it_is_shown(tmp_path: Path) -> None:
    """What its frames are predicted from stays in the file, before time 0."""
    whole = encode(tmp_path / "whole.mp4", 40)
    with av.open(str(whole)) as container:
        frame = round(1 / (25 * container.streams.video[0].time_base))
    path = copy_packets(whole, tmp_path / "clip.mp4", lambda _, p: p.pts >= 12 * frame, shift=17 * frame)
    check_frames(path, list(range(17, 40)))


@pytest.mark.parametrize(
    ("edits", "numbers"),
    [
        ([(800, 1024 + 10 * 512)], [*range(10, 30)]),  # the end is trimmed as well
        ([(400, 1024), (400, 1024 + 20 * 512)], [*range(10), *range(20, 30)]),  # something is cut out
        ([(400, 1024 + 20 * 512), (400, 1024)], [*range(20, 30), *range(10)]),  # the order is another
        ([(1000, -1), (1600, 1024)], [*range(40)]),  # it begins later
    ],
)
def test_edit_lists_say_what_is_shown(tmp_path: Path, edits: list[tuple[int, int]], numbers: list[int]) -> None:
    path = edit(encode(tmp_path / "clip.mp4", 40), edits)
    check_frames(path, numbers)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(DataError, match="a part of it is cut short"):
        Video(path)


def test_b_frames_that_are_packed_with_the_frame_behind_them_are_shown(tmp_path: Path) -> None:
    check_frames(pack_frames(tmp_path / "clip.avi"), list(range(30)))


@pytest.mark.parametrize("name", ["h264.ts", "mpeg2.ts", "mpeg2.mpg"])
def test_recordings_that_are_joined_are_one(tmp_path: Path, name: str) -> None:
    """Time begins anew in the second one."""
    path = encode(tmp_path / name, **EVERY[name])
    path.write_bytes(2 * path.read_bytes())
    check_frames(path, [*range(30), *range(30)])


def test_a_part_that_is_missing_in_a_stream_is_noticed(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.ts", size=(96, 128), codec_options={"g": "12", "bf": "2", "qp": "4"})
    content = path.read_bytes()
    of_video = [at for at in range(0, len(content), 188) if content[at + 1 : at + 3] in (b"\x01\0", b"\x41\0")]
    for at in of_video[10:-10:5]:
        path.write_bytes(content[:at] + content[at + 188 :])
        with pytest.raises(DataError, match=r"clip\.ts"):  # noqa: PT012
            video = Video(path)
            for number in range(len(video)):
                video.read(number)


def test_a_cover_is_no_video(tmp_path: Path) -> None:
    check_frames(write_with_cover(tmp_path / "clip.mp4", 10), list(range(10)))
    song = write_with_cover(tmp_path / "song", 0)
    assert not is_video(song)
    with pytest.raises(DataError, match="song holds no video"):
        Video(song)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts", ".avi"])
def test_the_first_of_two_videos_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for number in range(20):
            for more, stream in enumerate(streams):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(shade(number + 100 * more), format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    check_frames(path, list(range(20)))


@pytest.fixture
def packets(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is handed to decoders."""
    found, decode = list[Any](), Video._decode

    def noted(video: Video, packet: Any, **options: Any) -> list[Any]:
        found.append(packet.pts)
        return decode(video, packet, **options)

    monkeypatch.setattr(Video, "_decode", noted)
    return found


@pytest.mark.parametrize(
    ("name", "passes"), [("h264.mp4", 1), ("h264.ts", 1), ("mpeg2.mpg", 1), ("h264.avi", 2), ("h264-raw.h264", 2)]
)
def test_frames_in_order_are_decoded_once(tmp_path: Path, packets: list[Any], name: str, passes: int) -> None:
    """And once more when the video is opened, where its packets do not tell how many frames there are."""
    video = Video(encode(tmp_path / name, 400, **EVERY[name]))
    assert [number_of(video.read(number)) for number in range(len(video))] == list(range(400))
    assert len(packets) <= passes * 401 + TRIED + 4


def test_trimmed_clips_and_late_beginnings_are_not_decoded_to_count_their_frames(
    tmp_path: Path, packets: list[Any]
) -> None:
    whole = encode(tmp_path / "whole.mp4", 100)
    assert len(Video(begin_later(whole, tmp_path / "late.mkv", 4))) == 88
    assert len(Video(edit(whole, [(2400, 1024 + 10 * 512)]))) == 60
    assert len(packets) < 80


@pytest.mark.parametrize("name", ["h264.mp4", "h264-10bit.mkv", "h264.ts", "mpeg2-large.mpg", "vp9.webm", "h264.flv"])
def test_a_distant_frame_is_reached_without_those_before_it(tmp_path: Path, packets: list[Any], name: str) -> None:
    video = Video(encode(tmp_path / name, **{**EVERY[name], "count": 200}))
    packets.clear()
    assert [number_of(video.read(number)) for number in (190, 70, 130)] == [190, 70, 130]
    assert len(packets) < 120


def test_a_damaged_frame_is_refused_whenever_it_is_read(tmp_path: Path) -> None:
    """FFmpeg's log leaves out a message that is the same as the last one."""
    path = encode(tmp_path / "clip.mkv", 40, size=(96, 128), codec_options={"g": "1", "qp": "10"})
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content, damaged = bytearray(path.read_bytes()), {10, 11, 25}
    for number in damaged:
        middle = packets[number][0] + packets[number][1] // 2
        content[middle : middle + 20] = 20 * b"\xff"
    path.write_bytes(content)
    video = Video(path)
    for number in [*range(40), 10, 10, 11, 10, 25, 11, *range(40)[::-1]]:
        if number in damaged:
            with pytest.raises(DataError, match=f"frame {number} cannot be decoded"):
                video.read(number)
        else:
            assert number_of(video.read(number)) == number


@pytest.mark.parametrize("size", [(47, 63), (49, 80), (17, 33)])
def test_odd_sizes_are_read_as_they_are(tmp_path: Path, size: tuple[int, int]) -> None:
    video = Video(write_video(tmp_path / "clip.mkv", 3, size=size))
    assert video.read(2).shape == (*size, 3)


@pytest.mark.parametrize(("quarter", "matrix"), [(1, (0, -1, 1, 0)), (2, (-1, 0, 0, -1)), (3, (0, 1, -1, 0))])
def test_rotation_that_the_file_asks_for_is_applied_as_opencv_does(
    tmp_path: Path, quarter: int, matrix: tuple[int, int, int, int]
) -> None:
    path = write_video(tmp_path / "clip.mp4", 3)
    plain = Video(path).read(1)
    one, (a, b, c, d) = 1 << 16, matrix
    rotate_metadata(path, (a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30))
    turned = Video(path).read(1)
    assert turned.shape == ((WIDTH, HEIGHT, 3) if quarter % 2 else (HEIGHT, WIDTH, 3))
    cv2 = pytest.importorskip("cv2")
    reader = cv2.VideoCapture(str(path))
    reader.read()
    done, reference = reader.read()
    assert done
    assert np.abs(turned.astype(int) - reference[..., ::-1].astype(int)).mean() < 6
    assert sorted([np.array_equal(turned, np.rot90(plain, k)) for k in range(4)]) == [False] * 3 + [True]


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = index_first(write_video(tmp_path / "clip.mp4", 60))
    content = path.read_bytes()
    for missing in (1, 20, 100, len(content) // 3, len(content) - 50):
        path.write_bytes(content[:-missing])
        with pytest.raises(DataError, match="cannot be read as a video|is it whole|holds no video"):
            Video(path)


@pytest.mark.parametrize(
    "name",
    ["h264.mp4", "grey.mkv", "vp9.webm", "mpeg4.avi", "still.gif", "png.apng", "mjpeg-raw.mjpeg"],
)
def test_a_file_that_is_cut_anywhere_is_refused(tmp_path: Path, name: str) -> None:
    path = encode(tmp_path / name, **EVERY[name])
    content = path.read_bytes()
    for kept in (*range(len(content) - 40, len(content)), *range(0, len(content) - 40, len(content) // 30)):
        path.write_bytes(content[:kept])
        with pytest.raises(DataError, match=path.name):
            Video(path)


def test_a_fragmented_file_that_is_cut_is_refused_but_between_its_fragments(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mp4", 40, **EVERY["h264-fragments.mp4"])
    content, whole, refused = path.read_bytes(), decoded(path), 0
    for kept in range(0, len(content), 7):
        path.write_bytes(content[:kept])
        try:
            video = Video(path)
        except DataError:
            refused += 1
            continue
        assert len(video) in (12, 24, 36, 40)
        assert np.array_equal([video.read(number) for number in range(len(video))], whole[: len(video)])
    assert refused > len(content) / 7 - 6


@pytest.mark.parametrize("missing", [1, 3, 50])
def test_a_last_frame_that_is_cut_short_is_refused(tmp_path: Path, missing: int) -> None:
    """Decoders of some codecs make pixels up, without a word."""
    path = index_first(write_plainly(tmp_path / "clip.mp4", 5, "mjpeg"))
    assert len(Video(path)) == 5
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(DataError, match="a part of it is cut short"):
        Video(path)


def test_damaged_frames_are_refused_and_never_guessed(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mkv", 60)
    content = bytearray(path.read_bytes())
    draw = np.random.default_rng(0)
    for at in draw.integers(len(content) // 3, len(content) * 2 // 3, 200):
        content[at] = draw.integers(256)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"clip\.mkv"):  # noqa: PT012
        video = Video(path)
        for number in range(len(video)):
            assert number_of(video.read(number)) == number


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nother.mkv\n#EXT-X-ENDLIST\n"),
        ("list.txt", "ffconcat version 1.0\nfile other.mkv\n"),
        ("list.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
        ("list.mpd", '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>\n'),
        ("notes.txt", "Frames of the drive, in order.\n"),
        ("frame%03d.png", shade(0)),
        ("frame.jpg", shade(0)),
        ("weights", bytes(range(256)) * 40),
        ("nothing", b""),
    ],
)
def test_what_names_other_files_or_is_something_else_is_no_video(
    tmp_path: Path, name: str, content: str | bytes | np.ndarray
) -> None:
    write_video(tmp_path / "other.mkv", 3)
    path = tmp_path / name
    if isinstance(content, np.ndarray):
        save(path, content)
        save(tmp_path / "frame001.png", content)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    assert not is_video(path)
    with pytest.raises(DataError, match=name.split(".")[0]):
        Video(path)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "MPO", "BMP", "TIFF", "WEBP", "PDF", "AVIF", "PPM", "ICO", "JPEG2000"])
def test_pictures_are_no_videos(tmp_path: Path, kind: str) -> None:
    """FFmpeg takes some for videos of one frame, and finds a stream of JPEGs in a PDF."""
    try:
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 80, 3), np.uint8)).save(tmp_path / "a", kind)
    except (KeyError, OSError):
        pytest.skip(f"Pillow writes no {kind} here")
    assert not is_video(tmp_path / "a")


def test_suffixes_tell_videos_from_other_files(tmp_path: Path) -> None:
    assert all(is_video(tmp_path / f"CLIP{suffix.upper()}") for suffix in VIDEO_SUFFIXES)
    assert not is_video(tmp_path)
    assert not is_video(tmp_path / "missing")


@pytest.mark.parametrize("content", [b"", b"no video at all", bytes(range(256)) * 50])
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"clip\.mp4"):
        Video(path)


def test_numbers_beyond_the_end_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.mp4", 3)
    with pytest.raises(DataError, match=r"has the frames 0 … 2, got 3"):
        read_image(VideoFrame(path, 3))


def test_a_video_with_labels_named_by_frame_number_is_a_clip(tmp_path: Path) -> None:
    write_video(tmp_path / "frames" / "drive.mp4", 20)
    for name in ("0", "7", "000019"):
        save(tmp_path / "labels" / "drive" / f"{name}.png", id_picture(0, height=HEIGHT, width=WIDTH))
    (tmp_path / "classes.yaml").write_text(CLASSES_YAML)
    index = open_index(tmp_path)
    (clip,) = index.clips
    assert (clip.name, len(clip.frames), clip.keyframes) == ("drive", 20, (0, 7, 19))
    items = IntervalItems(index.clips, index.label_map)
    for i in range(len(items)):
        batch = items[i]
        numbers = [number_of(frame.permute(1, 2, 0).numpy()) for frame in batch.frames]
        assert numbers == list(range(batch.first, batch.first + len(numbers)))
        assert all(isinstance(frame, torch.Tensor) for frame in batch.frames)


def test_labels_of_a_video_have_the_number_of_a_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "frames" / "drive.mp4", 5)
    (tmp_path / "classes.yaml").write_text(CLASSES_YAML)
    wrong = save(tmp_path / "labels" / "drive" / "first.png", id_picture(0))
    with pytest.raises(DataError, match=r"expected the frame's number"):
        open_index(tmp_path)
    wrong.rename(wrong.with_name("5.png"))
    with pytest.raises(DataError, match=r"5\.png is the label of no frame"):
        open_index(tmp_path)


def test_a_clip_is_a_folder_or_a_video_and_not_both(tmp_path: Path) -> None:
    write_video(tmp_path / "frames" / "drive.mp4", 2)
    save(tmp_path / "frames" / "drive" / "0.png", shade(0))
    with pytest.raises(DataError, match="two clips named 'drive'"):
        open_index(tmp_path)


def test_workers_read_videos_that_the_main_process_has_open(tmp_path: Path) -> None:
    """A forked process may neither use nor free the decoders of its parent, more of them than it keeps open."""
    for number in range(6):
        write_video(tmp_path / "frames" / f"clip{number}.mp4", 4)
        save(tmp_path / "labels" / f"clip{number}" / "0.png", id_picture(0, height=HEIGHT, width=WIDTH))
    (tmp_path / "classes.yaml").write_text(CLASSES_YAML)
    index = open_index(tmp_path)
    frames = [(clip.name, i, frame) for clip in index.clips for i, frame in enumerate(clip.frames)]
    for _, _, frame in frames:
        read_image(frame.image)
    gc.collect()  # encoders of these tests have threads, which a worker that frees them would wait for
    loader = DataLoader(FrameItems(frames, index.label_map), None, num_workers=2, timeout=60)
    numbers = [number_of(batch.images[0].permute(1, 2, 0).numpy()) for batch in loader]
    assert numbers == [0, 1, 2, 3] * 6
