"""Values become tokens and come back."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from foreworld.domains.treatment.error_growth.tokens import Bins

BINS = Bins()


@given(st.floats(20.0, 600.0))
def test_a_reading_comes_back_within_half_a_bin(value):
    back = BINS.glucose_value(BINS.glucose(torch.tensor([value], dtype=torch.float64)))
    assert abs(float(back) - value) <= BINS.step / 2 + 1e-9


@given(st.floats(0.02, 40.0))
def test_a_dose_comes_back_within_its_bins_ratio(value):
    back = float(BINS.dose_value(BINS.doses(torch.tensor([value]))))
    ratio = (40.0 / 0.02) ** (0.5 / (BINS.insulin - 1))
    assert value / ratio / 1.001 <= back <= value * ratio * 1.001


@given(st.floats(0.02, 5.0))
def test_an_entry_comes_back_within_its_bins_ratio(value):
    back = float(BINS.entry_value(BINS.entries(torch.tensor([value]))))
    ratio = (5.0 / 0.02) ** (0.5 / (BINS.carbs - 1))
    assert value / ratio / 1.001 <= back <= value * ratio * 1.001


def test_every_token_comes_back_as_itself():
    for encode, decode, count in (
        (BINS.glucose, BINS.glucose_value, BINS.readings),
        (BINS.doses, BINS.dose_value, BINS.insulin),
        (BINS.entries, BINS.entry_value, BINS.carbs),
    ):
        tokens = torch.arange(count)
        torch.testing.assert_close(encode(decode(tokens)), tokens)


def test_missing_none_and_out_of_bounds_have_tokens_of_their_own_or_the_nearest():
    tokens = BINS.glucose(torch.tensor([float("nan"), 5.0, 900.0]))
    assert tokens.tolist() == [BINS.readings, 0, BINS.readings - 1]
    assert torch.isnan(BINS.glucose_value(tokens)).tolist() == [True, False, False]
    assert BINS.doses(torch.tensor([0.0, 100.0])).tolist() == [0, BINS.insulin - 1]
    assert BINS.entries(torch.tensor([0.0, 0.001])).tolist() == [0, 0]
    assert BINS.times(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 24, 47]
