"""Plans of a few amounts, answered the short way: what the long way gives."""

import pytest
import torch

from foreworld.model.dynamics import HorizonGrid, ResponseDynamics
from foreworld.model.held import summed
from foreworld.model.interface import Holding

GRID = HorizonGrid.geometric(fine=6, last=24)
BLOCKS = (1, 4, len(GRID))


def dynamics(quantities, actions, curves=4, **options):
    torch.manual_seed(quantities + 10 * actions)
    signs = torch.zeros(quantities, actions) if options else -torch.ones(quantities, actions)
    return ResponseDynamics(
        context=12, quantities=quantities, latent=5, actions=actions, exogenous=1, grid=GRID, signs=signs, members=3,
        width=16, curves=curves, scales=(2.0, 4.0, 8.0), **options,
    ).eval()  # fmt: skip


def prepared(part, outputs, batch=5):
    found = part.prepare(torch.randn(batch, 12), torch.rand(batch, len(GRID), 1)).readable(outputs)
    sizes = torch.rand(len(GRID), part.quantities) + 0.5
    return found.__class__(**{**vars(found), "sizes": sizes, "last": torch.randn(batch, part.quantities)})


def the_long_way(part, ready, amounts):
    counts = torch.tensor([stop - start for start, stop in zip((0, *BLOCKS[:-1]), BLOCKS, strict=True)])
    out, q = part.respond(ready, amounts.repeat_interleave(counts, dim=2)), part.quantities
    mean = out[..., :q] * ready.sizes + ready.last[:, None, None]
    return torch.cat([mean, out[..., q : 2 * q] + ready.sizes.log()], dim=-1)


@pytest.mark.parametrize(("quantities", "actions", "curves"), [(1, 1, 4), (2, 3, 5), (3, 2, 1)])
@torch.no_grad()
def test_amounts_that_are_held_give_what_the_expanded_plan_gives(quantities, actions, curves):
    part = dynamics(quantities, actions, curves)
    ready = prepared(part, 2 * quantities)
    amounts = 5.0 * torch.rand(5, 7, len(BLOCKS), actions)
    wanted = the_long_way(part, ready, amounts)
    held = ready.hold(BLOCKS)
    assert isinstance(ready, Holding) and held.held is not None
    torch.testing.assert_close(held.held.respond(amounts), wanted, rtol=1e-5, atol=1e-5)
    assert wanted[..., :quantities].std(2).min() > 1e-3  # candidates differ, so a comparison says something
    some = torch.tensor([3, 0])
    torch.testing.assert_close(
        held.select(some).held.respond(amounts[some]), held.held.respond(amounts)[:, some], rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_what_predicts_more_than_quantities_is_answered_the_long_way_from_amounts():
    part = dynamics(1, 2, joint=8)
    ready = prepared(part, 2)
    amounts = torch.rand(5, 7, len(BLOCKS), 2)
    held = ready.hold(BLOCKS)
    assert held.held is None
    counts = torch.tensor([1, 3, len(GRID) - 4])
    wanted = part.respond(ready, amounts.repeat_interleave(counts, dim=2))
    torch.testing.assert_close(part.respond(held, amounts), wanted, rtol=1e-5, atol=1e-5)


def test_a_block_responds_as_all_its_intervals_do():
    responses = torch.rand(4, 6, len(GRID))
    found = summed(responses, BLOCKS)
    torch.testing.assert_close(found[..., 1], responses[..., 1:4].sum(-1))
    torch.testing.assert_close(found.sum(-1), responses.sum(-1))
