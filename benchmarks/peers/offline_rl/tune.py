"""How good the learned policies are on people of the `tune` cohort, for choosing their settings.

    python benchmarks/peers/offline_rl/tune.py --arm clone --seeds 6,7
    python benchmarks/peers/offline_rl/tune.py --arm offline_rl --seeds 6,7 \
        --set '{"alpha": 10, "state": {"insulin": "boluses"}}'

Nobody of the tracks' 21 unseen patients is met. `--arm logged` gives the therapy that they learn from, and `bb_error`,
`fallback` and `nothing` what it stands beside. A line holds time in range, below 70 and below 54 mg/dL in percent.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import torch

from foreworld.domains.treatment.collect import HABITS, CollectConfig, LoggedTherapy, cohort
from foreworld.domains.treatment.controllers import BasalBolus, BasalOnly, Fallback
from foreworld.domains.treatment.metrics import time_below, time_in_range
from foreworld.domains.treatment.policies.made import POLICY_ARMS, load_controller, make_policy, policy_config
from foreworld.domains.treatment.prepare import FULL, collected
from foreworld.domains.treatment.prepared import models_folder
from foreworld.domains.treatment.scenario import Scenario, ScenarioConfig
from foreworld.domains.treatment.simulator import Simulator
from foreworld.evidence.protocol import cpu_seconds, machine

BURN_IN = 288
RULES = {"bb_error": BasalBolus, "fallback": Fallback, "nothing": BasalOnly}
HABIT = {"A": HABITS[0], "B": HABITS[3]}  # of the logged therapy


def trained(arm, seed, change, folder):
    """The folder of a policy with settings of its own, and the CPU seconds that it took."""
    config = policy_config(arm, FULL, seed)
    asked = json.loads(change)
    state = config.state.model_dump() | asked.pop("state", {})
    config = type(config).model_validate(config.model_dump() | asked | {"state": state})
    data, began = collected(models_folder() / FULL.key(seed), FULL, seed=seed), cpu_seconds()
    make_policy(config, data, folder)
    return folder, cpu_seconds() - began


def score(make, people, seed, days):
    """By track: time in range, below 70, below 54, in percent of the days after the first."""
    found = {}
    for track in ("A", "B"):
        scenario = ScenarioConfig(days=days + 1, announced=track == "A")
        simulator, controller = Simulator(people, Scenario.draw(people, scenario, seed=seed)), make(track)
        controller.reset(people)
        bg = simulator.run(controller.act).bg[:, BURN_IN:]
        shares = (time_in_range(bg), time_below(bg, 70.0), time_below(bg, 54.0))
        found[track] = [round(100.0 * float(share.mean()), 1) for share in shares]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arm", choices=(*POLICY_ARMS, "logged", *RULES), default="clone")
    parser.add_argument("--seeds", default="6,7")
    parser.add_argument("--people", type=int, default=60)
    parser.add_argument("--days", type=int, default=4, help="after one of burn-in")
    parser.add_argument("--set", default="{}", help="settings that differ from the defaults, as JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for seed in map(int, arguments.seeds.split(",")):
        began = time.process_time()
        people, note = cohort("tune", arguments.people, seed), ""
        with tempfile.TemporaryDirectory() as place:
            if arguments.arm in POLICY_ARMS:
                folder, spent = trained(arguments.arm, seed, arguments.set, Path(place) / "policy")
                note = f", {spent:.0f} CPU s to train"

                def make(track, folder=folder):
                    return load_controller(arguments.arm, folder)
            elif arguments.arm == "logged":

                def make(track, seed=seed):
                    return LoggedTherapy(CollectConfig(), seed, HABIT[track])
            else:

                def make(track):
                    return RULES[arguments.arm]()

            found = score(make, people, seed, arguments.days)
        text = "; ".join(f"{track} {'/'.join(map(str, shares))}" for track, shares in found.items())
        print(
            f"{arguments.arm} {arguments.set}, seed {seed}: {text}{note}, {time.process_time() - began:.0f} CPU s here"
        )
    print(f"n={arguments.people} people of the tune cohort a seed, {arguments.days} days; {machine()}")


if __name__ == "__main__":
    main()
