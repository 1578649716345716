"""Train a policy by TD3+BC (Fujimoto and Gu 2021, arXiv:2106.06860) with d3rlpy, from transitions that foreworld wrote.

    runs/peers/offline_rl/venv/bin/python benchmarks/peers/offline_rl/train.py transitions.npz settings.json OUT

It runs in an environment of its own (requirements.txt) and knows nothing of foreworld. `transitions.npz` holds states
[N, F], actions [N, 1] in -1..1, rewards [N], next_states [N, F], steps [N] between the two states, and terminals [N].
OUT gets policy.safetensors and policy.json, the description last, with some states and what d3rlpy does in them: so
whoever reads the weights can tell that they were read right. Nothing that runs is read or written.
"""

import argparse
import json
import os
from pathlib import Path

import d3rlpy
import numpy as np
import torch
from d3rlpy.algos import TD3PlusBCConfig
from d3rlpy.dataset import TransitionMiniBatch
from d3rlpy.models import VectorEncoderFactory
from safetensors.torch import save_file

FORMAT = 1
EXAMPLES = 8  # states whose actions are written down
FAR = 10.0  # standard deviations at which an input is clipped


def standardised(states, centre, spread):
    """[N, F] float32 inputs of the network."""
    return np.clip((states - centre) / spread, -FAR, FAR).astype(np.float32)


def train(data, settings):
    """The algorithm after its last step, and the normalisation of its states: centre and spread."""
    d3rlpy.seed(settings["seed"])
    states = data["states"]
    centre, spread = states.mean(0, dtype=np.float64), states.std(0, dtype=np.float64)
    spread = np.where(spread > 1e-6, spread, 1.0)
    columns = {name: data[name].astype(np.float32).reshape(-1, 1) for name in ("actions", "rewards", "terminals")}
    intervals = data["steps"].astype(np.float32).reshape(-1, 1)
    before, after = (standardised(data[name], centre, spread) for name in ("states", "next_states"))
    encoder = VectorEncoderFactory(hidden_units=list(settings["hidden"]))
    algorithm = TD3PlusBCConfig(
        actor_encoder_factory=encoder,
        critic_encoder_factory=encoder,
        actor_learning_rate=settings["lr"],
        critic_learning_rate=settings["lr"],
        batch_size=settings["batch"],
        gamma=settings["gamma"],
        alpha=settings["alpha"],
        target_smoothing_sigma=settings["smoothing"],
        target_smoothing_clip=2.5 * settings["smoothing"],
    ).create(device=False)
    algorithm.create_impl((states.shape[1],), 1)
    generator = np.random.default_rng(settings["seed"])
    for step in range(settings["steps"]):
        pick = generator.integers(len(before), size=settings["batch"])
        batch = {name: values[pick] for name, values in columns.items()}
        loss = algorithm.update(
            TransitionMiniBatch(
                observations=before[pick],
                next_observations=after[pick],
                next_actions=batch["actions"],  # TD3 does not read them
                intervals=intervals[pick],
                transitions=[],
                **batch,
            )
        )
        if (step + 1) % 5000 == 0:
            print(step + 1, {name: round(float(value), 4) for name, value in loss.items()}, flush=True)
    return algorithm, (centre, spread)


def layers_of(algorithm):
    """The linear layers of the policy, in order; d3rlpy puts a rectifier between them and tanh behind the last."""
    policy = algorithm.impl.policy
    return [layer for layer in policy.modules() if isinstance(layer, torch.nn.Linear)]


def write(out, algorithm, normalisation, settings, state, examples):
    """Weights as safetensors, the rest as JSON; the description appears last and whole."""
    out.mkdir(parents=True, exist_ok=True)
    centre, spread = normalisation
    actions = algorithm.predict(standardised(examples, centre, spread))[:, 0]
    layers = layers_of(algorithm)
    weights = {}
    for number, layer in enumerate(layers):
        weights[f"{number}.weight"] = layer.weight.detach().clone().contiguous()
        weights[f"{number}.bias"] = layer.bias.detach().clone().contiguous()
    save_file(weights, out / "policy.safetensors")
    content = {
        "format": FORMAT,
        "kind": "td3+bc",
        "state": state,
        "widths": [layers[0].in_features, *(layer.out_features for layer in layers)],
        "centre": centre.tolist(),
        "spread": spread.tolist(),
        "examples": {"states": examples.tolist(), "actions": actions.tolist()},
        "settings": {**settings, "d3rlpy": d3rlpy.__version__, "torch": torch.__version__},
    }
    temporary = out / ".policy.json"
    temporary.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
    os.replace(temporary, out / "policy.json")


def main():
    """Read, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("transitions", type=Path)
    parser.add_argument("settings", type=Path, help="JSON: `training`, and `state` to be handed through")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    asked = json.loads(arguments.settings.read_text(encoding="utf-8"))
    with np.load(arguments.transitions, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    algorithm, normalisation = train(data, asked["training"])
    write(arguments.out, algorithm, normalisation, asked["training"], asked["state"], data["states"][:EXAMPLES])


if __name__ == "__main__":
    main()
