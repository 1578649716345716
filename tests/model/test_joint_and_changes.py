"""What actions do together, and changes as inputs: both are off unless asked for, and keep what a belief promises."""

import pytest
import torch
from tests.model.test_world_model import assert_close, history, meals, plans, predict
from tests.model.toy import CONFIG, SCHEMA, episode, make_model

from foreworld.errors import SchemaError
from foreworld.model.dynamics import HorizonGrid, ResponseDynamics
from foreworld.model.world_model import WorldModel

CHANGES = CONFIG.model_copy(update={"changes": True})


def dynamics(joint: int = 6, signs: torch.Tensor | None = None) -> ResponseDynamics:
    torch.manual_seed(0)
    return ResponseDynamics(
        context=5,
        quantities=2,
        latent=0,
        actions=2,
        exogenous=0,
        grid=HorizonGrid(points=(1, 2, 4)),
        signs=torch.zeros(2, 2) if signs is None else signs,
        members=3,
        width=7,
        curves=2,
        scales=(1.0, 3.0),
        joint=joint,
    )


def together(model: ResponseDynamics, actions: torch.Tensor) -> torch.Tensor:
    """What the actions change, [E, B, S, P, 2]."""
    context = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))
    prepared = model.prepare(context, None)
    nothing = model.respond(prepared, torch.zeros_like(actions))
    return (model.respond(prepared, actions) - nothing)[..., :2]


def test_no_action_has_no_joint_response():
    model = dynamics()
    prepared = model.prepare(torch.randn(4, 5), None)
    torch.testing.assert_close(
        model.respond(prepared, torch.zeros(4, 2, 3, 2))[..., :2],
        prepared.baseline[:, :, None, :, :2].expand(-1, -1, 2, -1, -1),
    )


def test_two_actions_together_need_not_be_the_sum_of_each():
    first, second = torch.zeros(4, 1, 3, 2), torch.zeros(4, 1, 3, 2)
    first[..., 0], second[..., 1] = 1.0, 1.0
    for joint, adds in ((6, False), (0, True)):
        model = dynamics(joint)
        with torch.no_grad():
            both, each = together(model, first + second), together(model, first) + together(model, second)
        assert torch.allclose(both, each, atol=1e-5) is adds


def test_a_joint_response_acts_no_earlier_than_its_actions():
    model = dynamics()
    early, late = torch.rand(4, 1, 3, 2), torch.rand(4, 1, 3, 2)
    late[:, :, :2] = early[:, :, :2]
    with torch.no_grad():
        a, b = together(model, early), together(model, late)
    torch.testing.assert_close(a[..., :2, :], b[..., :2, :])
    assert not torch.allclose(a[..., 2, :], b[..., 2, :])


def test_subjects_and_points_are_selected_alike_with_a_joint_response():
    model, actions = dynamics(), torch.rand(4, 2, 3, 2)
    context = torch.randn(4, 5)
    whole = model.respond(model.prepare(context, None), actions)
    index, points = torch.tensor([2, 0]), torch.tensor([1, 2])
    some = model.respond(model.prepare(context, None, points).select(index), actions[index])
    torch.testing.assert_close(some, whole[:, index][..., points, :], atol=1e-5, rtol=1e-4)


def test_a_joint_response_is_refused_where_a_sign_is_declared():
    with pytest.raises(SchemaError, match="sign"):
        dynamics(signs=torch.tensor([[-1.0, 0.0], [0.0, 0.0]]))
    with pytest.raises(SchemaError, match="sign"):
        WorldModel(SCHEMA, CONFIG.model_copy(update={"joint": 4}))


def test_update_equals_encode_with_changes():
    model = make_model(config=CHANGES)
    episodes = [episode(0, 15), episode(1, 15)]
    whole = history(*episodes)
    belief = model.encode(history(*(e.window(SCHEMA, 0, 1) for e in episodes)))
    for t in range(2, 16):
        seen = {name: whole.values[name][:, t] for name in ("glucose", "pulse", "meal")}
        done = {name: whole.values[name][:, t - 1] for name in ("insulin", "mode")}
        belief = model.update(belief, whole.times[:, t], seen, done)
        assert_close(belief, model.encode(history(*(e.window(SCHEMA, 0, t) for e in episodes))))


def test_changes_are_in_typical_units_and_zero_where_a_value_is_missing():
    features = make_model(config=CHANGES).features
    typical = SCHEMA.statistics["glucose"].change_after(1), SCHEMA.statistics["pulse"].change_after(1)
    # Two moments of (glucose, pulse) and their masks; the second pulse is missing.
    recent = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.7, 1.0, 0.0]])
    torch.testing.assert_close(features.changes(recent), torch.tensor([0.5 / typical[0], 0.0]))
    assert features.n_token == make_model().features.n_token + 2
    with pytest.raises(SchemaError, match="recent=2"):
        features.changes(recent[:1])


def test_a_model_with_changes_still_predicts(seed=0):
    model, belief = make_model(config=CHANGES), None
    belief = model.encode(history(episode(7, 20), episode(8, 12)))
    assert torch.isfinite(predict(model, belief, plans(0, 2), meals(0, 2))).all()
