import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foreworld.errors import InputError
from foreworld.model.dynamics import HorizonGrid
from foreworld.planning.space import ActionSpace

GRID = HorizonGrid(points=(1, 2, 4, 8))


def space(lower, upper, warp=1.0, levels=(), blocks=(1, 4)):
    ends = [
        torch.as_tensor(end, dtype=torch.float32).reshape(-1, 1, 1).repeat(1, len(blocks), 1) for end in (lower, upper)
    ]
    return ActionSpace(GRID, blocks, ends[0], ends[1], ("dose",), warp=warp, levels=levels)


bounds = st.floats(-1e4, 1e4, width=32)


@given(low=bounds, width=st.floats(0, 1e4, width=32), warp=st.sampled_from([0.5, 1.0, 2.0]), x=st.floats(-0.5, 1.5))
def test_whatever_is_decoded_lies_within_the_bounds_to_the_last_bit(low, width, warp, x):
    low = torch.tensor(low)
    high = torch.maximum(low + torch.tensor(width), low)
    s = space([low], [high], warp)
    for point in (x, 0.0, 1.0):
        raw = s.decode(torch.full((1, 1, 2, 1), point, dtype=torch.float32))
        assert (raw >= s.lower).all() and (raw <= s.upper).all()


@given(x=st.floats(0, 1, width=32), warp=st.sampled_from([1.0, 2.0]))
def test_encode_undoes_decode(x, warp):
    s = space([-1.0, 0.0], [3.0, 0.5], warp)
    points = torch.full((2, 1, 2, 1), x)
    raw = s.decode(points)
    torch.testing.assert_close(s.decode(s.encode(raw)), raw, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("level", [1, 2, 3, 7])
def test_categories_share_the_unit_interval_equally_and_come_back(level):
    s = space([0.0], [level - 1.0], warp=2.0, levels=(level,))
    x = ((torch.arange(7000) + 0.5) / 7000).reshape(1, -1, 1, 1).expand(1, -1, 2, 1)
    raw = s.decode(x)
    counts = torch.bincount(raw[0, :, 0, 0].long())
    assert len(counts) == level
    assert (counts.float() / 7000 - 1 / level).abs().max() < 1e-3
    assert torch.equal(s.decode(s.encode(raw)), raw)
    # Exhaustive search asks for evenly spaced points and must meet every category once.
    even = s.decode(torch.linspace(0, 1, level).reshape(1, -1, 1, 1).expand(1, -1, 2, 1))
    assert even[0, :, 0, 0].tolist() == list(range(level))


def test_blocks_are_held_over_their_intervals():
    s = space([0.0], [9.0])
    raw = torch.tensor([2.0, 7.0]).reshape(1, 1, 2, 1)
    assert s.expand(raw).flatten().tolist() == [2.0, 7.0, 7.0, 7.0]


def test_nan_is_not_hidden_by_clipping():
    s = space([0.0], [1.0])
    assert torch.isnan(s.clip(torch.full((1, 1, 2, 1), torch.nan))).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"blocks": (1, 3)}, "end at the grid"),
        ({"blocks": (2, 1, 4)}, "must increase"),
        ({"lower": [2.0], "upper": [1.0]}, "above its upper"),
        ({"upper": [float("nan")]}, "not finite"),
        ({"upper": [2.5], "levels": (4,)}, "whole"),
        ({"upper": [4.0], "levels": (4,)}, "0..3"),
        ({"levels": (4, 4)}, "one entry"),
    ],
)
def test_bounds_that_make_no_space_are_refused(change, words):
    with pytest.raises(InputError, match=words):
        space(**{"lower": [0.0], "upper": [1.0], **change})


def test_bounds_of_the_wrong_shape_are_refused():
    with pytest.raises(InputError, match="expected"):
        ActionSpace(GRID, (4,), torch.zeros(1, 2, 1), torch.ones(1, 2, 1), ("dose",))
