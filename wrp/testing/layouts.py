"""Tests of a layout."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from wrp.data.index import ClipIndex
from wrp.data.layouts.base import Layout
from wrp.data.layouts.registry import summary
from wrp.errors import DataError
from wrp.io.images import read_image, read_label


class LayoutTester(ABC):
    """What every layout has to fulfil, as tests for pytest.

    Subclass it under a name that pytest collects, name the layout, and write a small data set of its shape, with at
    least one labelled frame in a clip of several frames::

        class TestDashcam(LayoutTester):
            layout = dashcam

            def write(self, root: Path) -> None:
                ...

    Attributes:
        layout: The layout: a module or an object with ``matches`` and ``read_index``.
        split: A split that the written data set has; None if the layout has no splits.
    """

    layout: Layout
    split: str | None = None

    @abstractmethod
    def write(self, root: Path) -> None:
        """Write a small data set into a folder that exists and is empty."""

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        """Give the folder of the data set."""
        folder = tmp_path / "data set"
        folder.mkdir()
        self.write(folder)
        return folder

    @pytest.fixture
    def index(self, root: Path) -> ClipIndex:
        """Give its index."""
        return self.layout.read_index(root, self.split)

    def test_it_describes_itself(self) -> None:
        """Check that its docstring has a first line for messages."""
        assert summary(self.layout)

    def test_it_is_told_from_other_folders(self, root: Path, tmp_path: Path) -> None:
        """Check that it matches its data set, and neither an empty folder nor one with a text file."""
        assert self.layout.matches(root)
        other = tmp_path / "other"
        other.mkdir()
        assert not self.layout.matches(other)
        (other / "notes.txt").write_text("nothing\n")
        assert not self.layout.matches(other)

    def test_clips_and_frames_have_names_of_their_own(self, index: ClipIndex) -> None:
        """Check that there are clips, that no two have one name, nor two frames of one clip."""
        assert index.clips
        assert len({clip.name for clip in index.clips}) == len(index.clips)
        for clip in index.clips:
            assert clip.frames
            assert len({frame.stem for frame in clip.frames}) == len(clip.frames)

    def test_labelled_frames_are_keyframes(self, index: ClipIndex) -> None:
        """Check that exactly the frames with a label are keyframes, and that there is one."""
        for clip in index.clips:
            assert clip.keyframes == tuple(i for i, frame in enumerate(clip.frames) if frame.label is not None)
            assert clip.held_out == ()
        assert any(clip.keyframes for clip in index.clips)

    def test_frames_and_labels_can_be_read(self, index: ClipIndex) -> None:
        """Check that every label has the size of its frame and no value outside of the label map."""
        for clip in index.clips:
            for frame in clip.frames:
                image = read_image(frame.image)
                if frame.label is not None:
                    label = read_label(frame.label, index.label_map)
                    assert label.shape == image.shape[1:]

    def test_it_reads_the_same_every_time(self, root: Path, index: ClipIndex) -> None:
        """Check that the order of clips and frames does not depend on the file system."""
        assert self.layout.read_index(root, self.split) == index

    def test_unknown_splits_are_refused(self, root: Path) -> None:
        """Check the error for a split that there is not."""
        with pytest.raises(DataError):
            self.layout.read_index(root, "no-such-split")
