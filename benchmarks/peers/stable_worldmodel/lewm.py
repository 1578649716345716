"""LeWM at the published sizes, and small, with random weights: what a plan costs does not depend on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

BLOCK, HORIZON = 5, 5  # steps a block, blocks a plan; the next plan is made when all of it is done
SAMPLES, ITERATIONS, ELITES = 300, 30, 30
GATES = 0.02  # spread of the adaLN gates, which start at zero and would switch the blocks off


@dataclass(frozen=True)
class Sizes:
    """Of encoder (a ViT), predictor (a transformer over three frames with adaLN), and projectors."""

    name: str
    frame: int
    patch: int
    width: int
    layers: int
    heads: int
    depth: int
    predictor_heads: int
    head: int
    hidden: int
    projector: int


# `config/train/model/lewm.yaml` of the authors' repository: ViT-tiny/14 at 224 px, 6 x 16 heads of 64.
PUBLISHED = Sizes("published", 224, 14, 192, 12, 3, 6, 16, 64, 2048, 2048)
# A reduced model of a million parameters for 64 px; its sizes are ours and not published anywhere.
REDUCED = Sizes("reduced", 64, 8, 96, 4, 3, 3, 4, 32, 192, 96)


def build(sizes: Sizes, seed: int = 0) -> Any:
    """The peer's own classes at these sizes, for inference.

    Args:
        sizes: What to build.
        seed: Of the weights.
    """
    import torch
    from stable_worldmodel.wm.lewm import LeWM
    from stable_worldmodel.wm.lewm.module import MLP, ConditionalBlock, Embedder, Predictor
    from torch import nn
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(seed)
    vit = ViTConfig(
        hidden_size=sizes.width, num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width, image_size=sizes.frame, patch_size=sizes.patch,
    )  # fmt: skip
    width = sizes.width
    model = LeWM(
        encoder=ViTModel(vit, add_pooling_layer=False, use_mask_token=False),
        predictor=Predictor(
            num_frames=3, depth=sizes.depth, heads=sizes.predictor_heads, mlp_dim=sizes.hidden, input_dim=width,
            hidden_dim=width, output_dim=width, dim_head=sizes.head, dropout=0.1,
        ),
        action_encoder=Embedder(input_dim=2 * BLOCK, emb_dim=width),
        projector=MLP(width, sizes.projector, width, norm_fn=nn.BatchNorm1d),
        pred_proj=MLP(width, sizes.projector, width, norm_fn=nn.BatchNorm1d),
    )  # fmt: skip
    for block in model.modules():
        if isinstance(block, ConditionalBlock):
            nn.init.normal_(block.adaLN_modulation[-1].weight, std=GATES)
            nn.init.normal_(block.adaLN_modulation[-1].bias, std=GATES)
    return model.eval().requires_grad_(False)


def parameters(model: Any) -> int:
    """How many it has."""
    return sum(parameter.numel() for parameter in model.parameters())


def solver_of(model: Any, iterations: int = ITERATIONS) -> Any:
    """Their CEM at the published settings, which are its defaults."""
    from stable_worldmodel.solver import CEMSolver

    return CEMSolver(model, batch_size=1, num_samples=SAMPLES, n_steps=iterations, topk=ELITES, device="cpu")


def plan_config() -> Any:
    """Five blocks of five steps, all of them done before the next plan."""
    import stable_worldmodel as swm

    return swm.PlanConfig(horizon=HORIZON, receding_horizon=HORIZON, action_block=BLOCK)


def transform_of(size: int) -> Any:
    """What the authors' evaluation does to a frame."""
    import torch
    from torchvision.transforms import v2

    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    return v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std), v2.Resize(size)])
