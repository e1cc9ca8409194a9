"""Values that are not finite are counted, whatever the shape."""

import math

import pytest
import torch

from wrp.geometry.finite import NotFinite


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("shape", "dim"), [((3,), 0), ((2, 5), 0), ((1, 2, 3, 4), 1), ((4, 3, 2), -1)])
def test_pixels_that_are_not_finite_are_counted(shape: tuple[int, ...], dim: int, dtype: torch.dtype) -> None:
    count = NotFinite()
    values = torch.ones(shape, dtype=dtype)
    assert count.known(values, dim).all()
    values.view(-1)[0] = math.nan
    known = count.known(values, dim)
    assert known.shape == values.sum(dim).shape
    assert known.dtype == torch.bool
    assert int((~known).sum()) == 1
    assert count.take() == (1, 1 / (2 * known.numel()))
    assert count.take() == (0, 0.0)
