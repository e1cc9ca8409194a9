"""Colours and sizes that all pictures of a run share."""

from __future__ import annotations

CAPTION_HEIGHT = 18
"""Height in pixels of the line of text above a picture."""

CONFIDENCE = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""RGB colours of confidence from 0 (dark) to 1 (bright), as the grey of the files in ``confidence/``."""

PROVENANCE_PALETTE = [255 * (source >> bit & 1) for source in range(8) for bit in range(3)]
"""Palette of the files in ``provenance/``: red is the earlier keyframe, green the later one, blue the teacher.

Where several of them agree with a label, their colours are mixed.
"""
