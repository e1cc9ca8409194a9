import hashlib

import cv2
import numpy as np
import pytest

from wrp.data.synthetic.scene import CLASSES, SyntheticClip, iterate_frames, render_clip

SEEDS = (0, 1, 2, 3)


@pytest.fixture(scope="module", params=SEEDS)
def clip(request: pytest.FixtureRequest) -> SyntheticClip:
    return render_clip(num_frames=12, height=128, width=224, num_classes=10, seed=request.param)


@pytest.fixture(scope="module")
def full_size() -> list[SyntheticClip]:
    return [render_clip(num_frames=5, seed=seed) for seed in SEEDS]


def digest(clip: SyntheticClip) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in vars(clip).values())).hexdigest()


def pairs(clip: SyntheticClip):
    """(frame, other frame, labels, other labels, flow, flow back, occlusion) of every pair in both directions."""
    for t in range(len(clip.flow_fw)):
        a, b = (clip.frames[t], clip.labels[t]), (clip.frames[t + 1], clip.labels[t + 1])
        yield a[0], b[0], a[1], b[1], clip.flow_fw[t], clip.flow_bw[t], clip.occlusion_fw[t]
        yield b[0], a[0], b[1], a[1], clip.flow_bw[t], clip.flow_fw[t], clip.occlusion_bw[t]


def queries(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    height, width = flow.shape[1:]
    return flow[0] + np.arange(width), flow[1] + np.arange(height)[:, None]


def sample_nearest(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    height, width = values.shape[:2]
    return values[np.clip(np.rint(y), 0, height - 1).astype(int), np.clip(np.rint(x), 0, width - 1).astype(int)]


def sample_bilinear(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values (H, W, C) at positions inside the picture, C last."""
    height, width = values.shape[:2]
    x, y = np.clip(x, 0, width - 1.001), np.clip(y, 0, height - 1.001)
    x0, y0 = x.astype(int), y.astype(int)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]
    top = values[y0, x0] * (1 - fx) + values[y0, x0 + 1] * fx
    return top * (1 - fy) + (values[y0 + 1, x0] * (1 - fx) + values[y0 + 1, x0 + 1] * fx) * fy


def away_from_borders(labels: np.ndarray) -> np.ndarray:
    """Pixels whose 3x3 surrounding has one label."""
    kernel = np.ones((3, 3), np.uint8)
    return cv2.erode(labels, kernel) == cv2.dilate(labels, kernel)


def smooth(flow: np.ndarray) -> np.ndarray:
    """Pixels around which (5x5) the flow has no step, so that it may be interpolated."""
    kernel = np.ones((5, 5), np.uint8)
    return np.all([cv2.dilate(part, kernel) - cv2.erode(part, kernel) < 0.5 for part in flow], axis=0)


def test_equal_arguments_give_equal_bytes_whatever_the_number_of_threads() -> None:
    arguments = {"num_frames": 3, "height": 64, "width": 96, "seed": 5}
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        single = digest(render_clip(**arguments))
        cv2.setNumThreads(4)
        several = digest(render_clip(**arguments))
    finally:
        cv2.setNumThreads(threads)
    assert single == several
    assert single != digest(render_clip(**{**arguments, "seed": 6}))


@pytest.mark.parametrize(
    ("num_frames", "height", "width", "num_classes"),
    [(1, 16, 16, 8), (2, 64, 96, 12), (3, 37, 130, 9), (2, 120, 50, 11)],
)
def test_shapes_dtypes_and_ranges(num_frames: int, height: int, width: int, num_classes: int) -> None:
    clip = render_clip(num_frames, height, width, num_classes, seed=1)
    pairs = num_frames - 1
    expected = {
        "frames": ((num_frames, height, width, 3), np.uint8),
        "labels": ((num_frames, height, width), np.uint8),
        "flow_fw": ((pairs, 2, height, width), np.float32),
        "flow_bw": ((pairs, 2, height, width), np.float32),
        "occlusion_fw": ((pairs, height, width), np.bool_),
        "occlusion_bw": ((pairs, height, width), np.bool_),
    }
    assert {name: (array.shape, array.dtype.type) for name, array in vars(clip).items()} == expected
    assert clip.labels.max() < num_classes
    assert np.isfinite(clip.flow_fw).all()
    assert np.isfinite(clip.flow_bw).all()


def test_iterating_gives_the_same_as_rendering_at_once() -> None:
    arguments = {"num_frames": 4, "height": 48, "width": 80, "seed": 2}
    clip, steps = render_clip(**arguments), list(iterate_frames(**arguments))
    assert len(steps) == 4
    assert steps[-1].forward is None
    assert steps[-1].backward is None
    for t, step in enumerate(steps):
        np.testing.assert_array_equal(step.image, clip.frames[t])
        np.testing.assert_array_equal(step.labels, clip.labels[t])
    for t, step in enumerate(steps[:-1]):
        assert step.forward is not None
        assert step.backward is not None
        np.testing.assert_array_equal(step.forward.flow, clip.flow_fw[t])
        np.testing.assert_array_equal(step.backward.occlusion, clip.occlusion_bw[t])


def test_classes_are_named_and_coloured_once() -> None:
    assert len(CLASSES) >= 10
    assert len({name for name, _ in CLASSES}) == len({colour for _, colour in CLASSES}) == len(CLASSES)
    first = {name for name, _ in CLASSES[:8]}
    assert first == {"road", "building", "sky", "pavement", "tree", "pole", "car", "person"}


@pytest.mark.parametrize("num_classes", [8, 12])
def test_all_selected_classes_occur(num_classes: int) -> None:
    for seed in range(4):
        clip = render_clip(num_frames=24, height=96, width=168, num_classes=num_classes, seed=seed)
        shares = np.bincount(clip.labels.ravel(), minlength=num_classes) / clip.labels.size
        assert len(shares) == num_classes
        assert (shares > 0.0005).sum() >= num_classes - 1, shares.round(4)
        assert shares.max() < 0.6


def test_ground_lies_below_the_horizon_and_sky_above(clip: SyntheticClip) -> None:
    names = [name for name, _ in CLASSES]
    horizon = int(0.45 * clip.labels.shape[1])
    above, below = clip.labels[:, : horizon - 6], clip.labels[:, horizon + 12 :]
    assert not np.isin(above, [names.index("road"), names.index("pavement")]).any()
    assert (above == names.index("sky")).mean() > 0.1
    assert not (below == names.index("sky")).any()


def test_labels_follow_the_flow_outside_occlusions(clip: SyntheticClip) -> None:
    for _, _, labels, other, flow, _, occlusion in pairs(clip):
        counted = ~occlusion & away_from_borders(labels)
        assert counted.mean() > 0.5
        agreement = (sample_nearest(other, *queries(flow)) == labels)[counted].mean()
        assert agreement >= 0.995
    # The same comparison without the flow fails, or it would say nothing.
    assert (clip.labels[0] == clip.labels[6])[away_from_borders(clip.labels[0])].mean() < 0.98


def test_flow_there_and_back_returns_to_the_start(full_size: list[SyntheticClip]) -> None:
    for _, _, labels, _, flow, flow_back, occlusion in (pair for clip in full_size for pair in pairs(clip)):
        x, y = queries(flow)
        counted = ~occlusion & away_from_borders(labels) & smooth(flow)
        counted &= sample_nearest(smooth(flow_back), x, y)
        assert counted.mean() > 0.4
        residual = flow.transpose(1, 2, 0) + sample_bilinear(flow_back.transpose(1, 2, 0), x, y)
        residual = np.abs(residual[counted]).max(1)
        # The rest are pixels where two planes meet whose motions differ too little to show as a step.
        assert np.quantile(residual, 0.99) < 1e-2


def test_frames_agree_along_the_flow_better_than_in_place(clip: SyntheticClip) -> None:
    moved, still = [], []
    for frame, other, _, _, flow, _, occlusion in pairs(clip):
        warped = sample_bilinear(other.astype(np.float32), *queries(flow))
        moved.append(np.abs(warped - frame)[~occlusion].mean())
        still.append(np.abs(other.astype(np.float32) - frame)[~occlusion].mean())
    assert np.mean(moved) < 0.75 * np.mean(still)


def test_occluded_pixels_are_hidden_or_leave_the_picture(clip: SyntheticClip) -> None:
    height, width = clip.labels.shape[1:]
    for _, _, _, _, flow, _, occlusion in pairs(clip):
        x, y = (np.rint(part) for part in queries(flow))
        leaves = (x < 0) | (x >= width) | (y < 0) | (y >= height)
        assert occlusion[leaves].all()
        assert 0.001 < (occlusion & ~leaves).mean() < 0.3


def test_what_is_occluded_backwards_is_not_reached_forwards(full_size: list[SyntheticClip]) -> None:
    for clip in full_size:
        x, y = (np.rint(part).astype(int) for part in queries(clip.flow_fw[0]))
        seen, reached = ~clip.occlusion_fw[0], np.zeros(clip.labels.shape[1:], bool)
        reached[y[seen], x[seen]] = True
        assert reached[~clip.occlusion_bw[0]].mean() > 0.9
        assert reached[clip.occlusion_bw[0]].mean() < 0.2


def test_objects_enter_and_leave() -> None:
    """Some pixels of the middle frame show nothing of the first or the last one, and the share of cars changes."""
    clip = render_clip(num_frames=40, height=64, width=112, seed=1)
    car = [name for name, _ in CLASSES].index("car")
    shares = (clip.labels == car).mean((1, 2))
    assert np.ptp(shares) > 0.02
    for side in (np.s_[:, :, :2], np.s_[:, :, -2:]):
        touching = (clip.labels[side] == car).any((1, 2))
        assert np.count_nonzero(np.diff(touching.astype(int))) >= 1
    assert (clip.labels[20] != clip.labels[0]).mean() > 0.1


def test_apparent_motion_is_that_of_a_driving_video(full_size: list[SyntheticClip]) -> None:
    lengths = np.concatenate([np.linalg.norm(clip.flow_fw, axis=1).ravel() for clip in full_size])
    assert 0.5 < np.median(lengths) < 6
    assert 3 < np.quantile(lengths, 0.95) < 15
    assert lengths.max() < 60


def test_dis_flow_is_good_on_visible_pixels_and_bad_on_hidden_ones(full_size: list[SyntheticClip]) -> None:
    estimator = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    for clip in full_size:
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip.frames]
        flows = np.stack([estimator.calc(a, b, None) for a, b in zip(grey, grey[1:], strict=False)])
        errors = np.linalg.norm(flows.transpose(0, 3, 1, 2) - clip.flow_fw, axis=1)
        assert np.median(errors[~clip.occlusion_fw]) < 1
        assert errors[clip.occlusion_fw].mean() > 2 * errors[~clip.occlusion_fw].mean()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_frames": 0}, "num_frames must be at least 1, got 0"),
        ({"height": 15}, "at least 16 pixels, got 15x448"),
        ({"width": 8}, "at least 16 pixels, got 256x8"),
        ({"num_classes": 7}, "num_classes must be in 8 … 12, got 7"),
        ({"num_classes": 13}, "num_classes must be in 8 … 12, got 13"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_clip(**arguments)
    with pytest.raises(ValueError, match=message):
        iterate_frames(**arguments)
