import pytest
import torch

from wrp.propagation.calibration import Calibration, fit_calibration


def test_the_identity_changes_nothing_and_no_distance_neither() -> None:
    confidence = torch.linspace(0.01, 0.99, 20)
    torch.testing.assert_close(Calibration(0.0, 1.0, 10)(confidence, 10), confidence, atol=1e-6, rtol=0)
    torch.testing.assert_close(Calibration(2.0, 0.3, 10)(confidence, 0), confidence, atol=1e-6, rtol=0)


def test_what_is_unlabelled_stays_so_and_the_order_of_the_others_too() -> None:
    confidence = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0])
    calibrated = Calibration(-0.5, 0.4, 5)(confidence, 20)
    assert calibrated[0] == 0
    assert (calibrated[1:].diff() > 0).all()
    assert (calibrated <= 1).all()


@pytest.mark.parametrize(("shift", "slope"), [(0.0, 1.0), (0.5, 0.6), (-1.0, 0.4), (0.3, 1.7)])
def test_a_known_line_is_found(shift: float, slope: float) -> None:
    confidence = torch.linspace(0.05, 0.95, 19).double()
    counts = torch.full((19,), 1e8).double()
    right = counts * (shift + slope * confidence.logit()).sigmoid()
    found = fit_calibration(confidence, right, counts, 7)
    assert found.shift == pytest.approx(shift, abs=1e-3)
    assert found.slope == pytest.approx(slope, abs=1e-3)
    torch.testing.assert_close(found(confidence, 7), right / counts, atol=1e-4, rtol=0)


def test_few_pixels_change_little_and_extremes_do_not_break_the_fit() -> None:
    few = fit_calibration(torch.tensor([0.9]), torch.tensor([5]), torch.tensor([10]), 5)
    assert few.shift == pytest.approx(0, abs=0.01)
    assert few.slope == pytest.approx(1, abs=0.02)
    certain = fit_calibration(torch.tensor([0.3, 0.999]), torch.tensor([900, 10**7]), torch.tensor([1000, 10**7]), 5)
    assert 0 < certain.slope < 50
