"""The tables of the domain rooms as a page, from the evidence that `foreworld evaluate rooms/... --json` wrote.

    python benchmarks/rooms_tables.py [--results benchmarks/results] [--out docs/rooms-figures.md]

No figure of that page is typed by hand. A protocol may have a second file, `...-flat.json`, with arms that were run in
fewer scenes because each of their episodes takes as long as the budget allows.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evidence_tables import Table, section
from foreworld.domains.rooms.floors import FLOORS
from foreworld.domains.rooms.no_go import GROUPS
from foreworld.domains.rooms.protocols import PROTOCOLS
from foreworld.domains.rooms.variation import FACTORS
from foreworld.evidence.protocol import Evidence
from track_tables import RESULTS

HEAD = """\
# Figures of rooms

Written by `python benchmarks/rooms_tables.py` from `benchmarks/results`; no figure here was typed. Shares are in %; in
brackets 95 % intervals, Wilson's for shares of episodes and for AUROC (over episodes with what cannot be; the usual
ones are taken as given), Newcombe's for differences of such shares, and otherwise resampling episodes. A seed is
layouts, recorded episodes, initialisation and evaluation at once. What is solved at its start is counted and left out.
CPU time is of one core; of training it includes recording, and is that of the slowest seed. What was tried on the way:
[rooms](rooms.md). Research software; nothing here was shown on a real robot or camera.
"""
REACHING = (
    Table(
        "Reaching goals", "arm",
        ("success", "solved_at_start", "steps_to_goal", "refusals", "cpu_ms_per_decision", "train_cpu_seconds",
         "success_above_foreworld_flat"), seeds="success",
    ),
)  # fmt: skip
TABLES: dict[str, tuple[Table, ...]] = {
    **{
        f"rooms/{name}": REACHING
        for name in ("two-room", "two-room-far", "cross-room", "random-layout", "distractor", "maze")
    },
    "rooms/no-go": tuple(
        Table(
            f"Scenes in which {'a way is left' if group == 'open' else 'none is'}", "arm",
            ("success", "solved_at_start", "entered", "refused_throughout", "refusals", "steps_to_goal"),
            group=group, seeds="success" if group == "open" else "refused_throughout",
        )
        for group in GROUPS
    ),
    "rooms/expectation": (
        Table("What cannot be", "arm", ("auroc_teleport", "auroc_crossing", "false_alarms"), seeds="auroc_crossing"),
        *(
            Table(f"Another colour is called {told}", "arm",
                  tuple(f"{what}_{colour}" for colour in ("agent_blue", "agent_orange", "walls_grey", "floor_blue")))
            for what, told in (("broken_law", "a broken law of motion"), ("unfamiliar", "unfamiliar"))
        ),
    ),
    "rooms/variation": tuple(
        Table(f"By what is another than in training, {told}", "group",
              ("success", "solved_at_start", *(("flagged", "refusals") if arm not in FLOORS else ("steps_to_goal",))),
              rows=tuple(FACTORS), arm=arm)
        for arm, told in (
            ("foreworld_ungated", "the model as it is"), ("foreworld", "refusing what is unfamiliar"),
            *((floor, f"{floor} as a floor") for floor in FLOORS),
        )
    ),
    "rooms/fast-mode": (
        Table("Success", "arm", ("success", "success_share", "solved_at_start", "steps_to_goal", "refusals",
                                 "searched"), seeds="success"),
        Table("CPU time", "arm", ("cpu_ms_one_scene", "planning_ms_one_scene", "planning_share", "cpu_ms_per_decision",
                                  "train_cpu_seconds", "distil_cpu_seconds")),
    ),
    "rooms/speed": (
        Table("Deciding", "arm", ("cpu_ms_one_scene", "planning_ms_one_scene", "cpu_ms_per_decision",
                                  "start_ms_a_scene", "cpu_ms_with_start")),
        Table("The search", "arm", ("evaluations_a_plan", "evaluations_per_second", "matmul_gflops", "planning_gflops",
                                    "planning_of_peak")),
        Table("Training", "arm", ("frames_per_cpu_second", "training_gflops", "training_of_peak", "speedup_threads",
                                  "speedup_processes", "speedup_apart")),
        Table("A step of training", "arm", ("step_ms", "step_ms_read", "step_ms_encode", "step_ms_predict",
                                            "step_ms_regular", "step_ms_rest")),
    ),
    "rooms/ablation": (
        Table("Success and what is in the latent", "arm",
              ("success", "solved_at_start", "probe_linear", "probe_perceptron", "variance", "dead", "rank"),
              seeds="success"),
        Table("What is foreseen, and what it took", "arm",
              ("sensitivity", "error_1", "error_4", "persistence_1", "steps_trained", "train_cpu_seconds")),
    ),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=Path("docs/rooms-figures.md"))
    options = parser.parse_args()
    parts = [HEAD]
    for name, tables in TABLES.items():
        for kind, more in (("", ""), ("-flat", ", slow arms in fewer scenes")):
            path = options.results / f"{name.replace('/', '-')}{kind}.json"
            if name in PROTOCOLS and path.is_file():
                evidence = Evidence.load(path, PROTOCOLS[name].names)
                title = f"{name.partition('/')[2]}{more}"
                ran = list(dict.fromkeys(row.arm for row in evidence.rows))
                arms = [] if set(ran) == set(PROTOCOLS[name].arms) else ran
                parts.append("\n".join(section(PROTOCOLS[name], evidence, tables, title, arms)))
    options.out.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")
    print(options.out)


if __name__ == "__main__":
    main()
