"""Frames that encoders of video learn from, and encode, in a CPU-second: convolutions, points, vision transformers.

    python benchmarks/encoder_speed.py [--quick]

At 64 px in bfloat16 on one thread, as the recipes of the domain rooms train: a step is a batch of 128 clips of 4 frames
through encoder, predictor, SIGReg, gradients and AdamW. Encoders take turns; figures are medians over the turns with
the least and the greatest, in CPU time of the process. Random frames: cost does not depend on what is seen. A camera
frame counts once, so that of two cameras and depth each counts. Writes results/encoder_speed.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from foreworld.episodes import Channel, Schema
from foreworld.evidence.protocol import machine
from foreworld.model.eyes import Seen
from foreworld.model.latent_config import LatentConfig
from foreworld.model.latent_loss import Clips, LatentLearner, LatentLossConfig
from foreworld.model.latent_model import LatentModel
from foreworld.model.vit import VitConfig

RESULT = Path(__file__).parent / "results" / "encoder_speed.json"
SIDE, CLIPS, FRAMES = 64, 128, 4
VIDEO = {"role": "observation", "kind": "video", "dtype": "uint8", "shape": (SIDE, SIDE, 3)}
SCHEMA = Schema(
    name="speed",
    step=1.0,
    channels=(
        Channel(name="frame", **VIDEO),
        Channel(name="other", **VIDEO),
        Channel(name="range", role="observation", kind="depth", shape=(SIDE, SIDE), unit="m", low=0, high=4),
        Channel(name="right", role="action", low=-1, high=1),
        Channel(name="down", role="action", low=-1, high=1),
    ),
)
ENCODERS = {
    "conv": LatentConfig(),
    "points": LatentConfig(kind="points", width=8),
    "two cameras and depth (conv)": LatentConfig(frames=("frame", "other"), depth=("range",)),
    "vit, 4 layers of 128 (default)": LatentConfig(kind="vit"),
    "vit, 12 layers of 192 (ViT-Ti)": LatentConfig(kind="vit", vit=VitConfig(width=192, layers=12, heads=3)),
}


class Turn:
    """One encoder and what it is given."""

    def __init__(self, config: LatentConfig, clips: int) -> None:
        torch.manual_seed(0)
        model = LatentModel(SCHEMA, config)
        self.learner = LatentLearner(model, LatentLossConfig())
        self.optimizer = torch.optim.AdamW(self.learner.parameters(), lr=1e-3)
        draw = np.random.default_rng(0)
        frames: Any = {
            name: torch.from_numpy(draw.integers(0, 256, (clips, FRAMES, 1, SIDE, SIDE, 3), dtype=np.uint8))
            for name in config.cameras
        }
        for name in config.depth:
            frames[name] = torch.rand(clips, FRAMES, 1, SIDE, SIDE) * 4.0
        seen = Seen(frames) if config.fused else frames["frame"][:, :, 0]
        self.clips = Clips(seen, torch.rand(clips, FRAMES - 1, model.block, 2) * 2.0 - 1.0)
        self.count = clips * FRAMES * len(frames)
        model.fit_pixels(seen[:, 0])

    def learn(self) -> float:
        """Frames a CPU-second of one step."""
        began = time.process_time()
        self.optimizer.zero_grad()
        self.learner.loss(self.clips, torch.Generator().manual_seed(0))["loss"].backward()
        self.optimizer.step()
        return self.count / (time.process_time() - began)

    @torch.no_grad()
    def encode(self) -> float:
        """Frames a CPU-second that are encoded, without gradients."""
        began = time.process_time()
        self.learner.model.embed(self.clips.frames)
        return self.count / (time.process_time() - began)


def main() -> None:
    """Take turns, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run, which writes nothing")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    turns = {name: Turn(config, 8 if quick else CLIPS) for name, config in ENCODERS.items()}
    found: dict[str, dict[str, list[float]]] = {name: {"learn": [], "encode": []} for name in turns}
    for repetition in range(2 if quick else 6):
        for name, turn in turns.items():
            rates = {"learn": turn.learn(), "encode": turn.encode()}
            if repetition:  # the first one warms up
                for what, rate in rates.items():
                    found[name][what].append(rate)
    rows = []
    for name, kinds in found.items():
        row: dict[str, Any] = {"encoder": name, "n": len(kinds["learn"])}
        for what, rates in kinds.items():
            row[what] = {"median": float(np.median(rates)), "least": min(rates), "greatest": max(rates)}
        row["parameters"] = sum(p.numel() for p in turns[name].learner.model.encoder.parameters())
        rows.append(row)
    content = {"side": SIDE, "clips": CLIPS, "frames": FRAMES, "unit": "frames a CPU-second", "rows": rows}
    if not quick:
        RESULT.write_text(json.dumps({**content, "machine": machine()}, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        told = "   ".join(
            f"{what} {row[what]['median']:8,.0f} ({row[what]['least']:,.0f} to {row[what]['greatest']:,.0f})"
            for what in ("learn", "encode")
        )
        print(f"{row['encoder']:32} {told}   {row['parameters']:9,} parameters")
    print(f"frames a CPU-second, n = {rows[0]['n']} turns, 1 thread, {machine()}")


if __name__ == "__main__":
    main()
