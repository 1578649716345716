"""Recording: run a policy in a Gymnasium environment or a batch simulator and keep every episode in a store.

record(gymnasium.make("CartPole-v1"), None, "runs/cartpole", episodes=100, seed=0)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np

from foreworld.episodes.episode import Episode
from foreworld.episodes.schema import Channel, Role, Schema
from foreworld.episodes.spaces import GymAdapter
from foreworld.episodes.store import EpisodeStore
from foreworld.errors import InputError, SchemaError

Policy = Callable[[Any], Any]
_EPISODES_PER_COMMIT = 256


@runtime_checkable
class BatchSource(Protocol):
    """A simulator of B subjects at once.

    Arrays are by channel with the batch first, [B, *shape], in the unit of the channel. What `reset` and `step`
    return holds every observation and exogenous channel of the schema, NaN where an observation is missing.
    A source carries its own seed; each `reset` begins the next episode of every subject.
    """

    @property
    def subjects(self) -> list[str]:
        """Names of the B subjects."""
        ...

    def reset(self) -> Mapping[str, np.ndarray]:
        """Begin an episode; observations and exogenous values at step 0."""
        ...

    def step(self, actions: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Apply actions chosen at step t; observations and exogenous values at step t+1.

        The result may hold `done` [B] bool: the subject's episode ends with these observations.
        """
        ...

    def statics(self) -> Mapping[str, np.ndarray]:
        """Static channels of the present episode."""
        ...


def record(
    source: gymnasium.Env[Any, Any] | BatchSource,
    policy: Policy | None,
    out: str | Path | EpisodeStore,
    *,
    seed: int,
    episodes: int = 1,
    steps: int | None = None,
    schema: Schema | None = None,
) -> EpisodeStore:
    """Run a policy and append what happened to a store.

    `action[t]` is what the policy answered to `observation[t]`, and `observation[t+1]` is what followed.

    With a Gymnasium environment each episode is a subject of its own, `seed<seed>-<number>`, and depends only on
    the seed and its number. Episodes are committed in groups, and those already in the store are not run again:
    the same call goes on where an interrupted one stopped. Reward is kept as the observation channel `reward`
    (missing at step 0) if the schema has it; how an episode ended is in its `info`. With a batch source each
    `reset` gives one episode a subject, committed together.

    Args:
        source: A Gymnasium environment (observations Box, Discrete, or a Dict of them; actions Box or Discrete)
            or a batch source.
        policy: From the environment's observation to its action, or from arrays by channel [B, *shape] to
            arrays by action channel [B, *shape]; None draws uniformly at random.
        out: A store, or the path of one; made if it is not there.
        seed: Seed of the environment's resets and of the random policy.
        episodes: Number of episodes (of resets, for a batch source).
        steps: Greatest number of actions an episode; None leaves the end to the source.
        schema: Schema of the store; inferred from the environment's spaces if None.

    Returns:
        The store.

    Raises:
        InputError: An option is wrong, a space is not supported, or the source gave a wrong value.
        SchemaError: The store or the source does not fit the schema.
    """
    if episodes < 1 or (steps is not None and steps < 1):
        raise InputError(f"record needs episodes >= 1 and steps >= 1, got {episodes} and {steps}")
    if isinstance(source, gymnasium.Env):
        adapter = GymAdapter(source, schema)
        store = _store(out, adapter.schema)
        have = set(store.subjects)
        todo = [i for i in range(episodes) if _name(seed, i) not in have]
        runs = (_run_environment(source, adapter, policy, seed, i, steps) for i in todo)
        while group := list(islice(runs, _EPISODES_PER_COMMIT)):
            store.append(group)
        return store
    if schema is None and not isinstance(out, EpisodeStore):
        raise InputError("a batch source needs a schema; give schema=")
    store = _store(out, schema)
    act = policy or _random_policy(store.schema, len(source.subjects), seed)
    for number in range(episodes):
        store.append(_run_batch(source, act, store.schema, {"seed": seed, "episode": number}, steps))
    return store


def _store(out: str | Path | EpisodeStore, schema: Schema | None) -> EpisodeStore:
    if isinstance(out, EpisodeStore):
        if schema is not None and not schema.same_channels(out.schema):
            raise SchemaError(f"{out.path} has another schema: {schema.differences(out.schema)}")
        return out
    if (Path(out) / "zarr.json").is_file():
        return EpisodeStore.open(out, schema=schema)
    assert schema is not None
    return EpisodeStore.create(out, schema)


def _name(seed: int, number: int) -> str:
    return f"seed{seed}-{number:06d}"


def _run_environment(
    environment: gymnasium.Env[Any, Any],
    adapter: GymAdapter,
    policy: Policy | None,
    seed: int,
    number: int,
    steps: int | None,
) -> Episode:
    """One episode; its randomness comes from the seed and its number alone."""
    reset_seed, policy_seed = (int(word) for word in np.random.SeedSequence([seed, number]).generate_state(2))
    environment.action_space.seed(policy_seed)
    raw, _ = environment.reset(seed=reset_seed)
    seen = [adapter.observation(raw, reward=np.nan)]
    done: list[np.ndarray] = []
    terminated = truncated = False
    while not (terminated or truncated) and len(done) != steps:
        action = environment.action_space.sample() if policy is None else policy(raw)
        # Before the step: an environment may alter its argument in place.
        done.append(adapter.action(action))
        raw, reward, terminated, truncated, _ = environment.step(action)
        seen.append(adapter.observation(raw, reward=float(reward)))
    values = {name: np.stack([one[name] for one in seen]) for name in seen[0]}
    values[adapter.action_channel.name] = np.stack(done)
    return Episode(
        subject=_name(seed, number),
        times=np.arange(len(seen)) * adapter.schema.step,
        values=values,
        info={
            "source": environment.spec.id if environment.spec else type(environment.unwrapped).__name__,
            "seed": reset_seed,
            "terminated": bool(terminated),
            "truncated": bool(truncated),
        },
    )


def _run_batch(
    source: BatchSource, policy: Policy, schema: Schema, info: dict[str, Any], steps: int | None
) -> Iterator[Episode]:
    """One episode a subject; a subject's rows end where it is done."""
    subjects = list(source.subjects)
    size = len(subjects)
    given = schema.names(Role.observation) + schema.names(Role.exogenous)
    wanted = schema.by_role(Role.action)
    seen = [_rows(source.reset(), given, size, "reset()")]
    statics = _rows(source.statics(), schema.names(Role.static), size, "statics()")
    acted: list[dict[str, np.ndarray]] = []
    length = np.zeros(size, dtype=np.int64)
    running = np.ones(size, dtype=bool)
    while running.any() and len(acted) != steps:
        # Copies throughout: a simulator or a policy may reuse its buffers.
        shown = {name: array.copy() for name, array in seen[-1].items()}
        actions = _rows(policy(shown), tuple(c.name for c in wanted), size, "the policy")
        acted.append({name: array.copy() for name, array in actions.items()})
        result = source.step(actions)
        if steps is None and "done" not in result:
            raise InputError("the batch source never says `done`; give steps= to end its episodes")
        seen.append(_rows(result, given, size, "step()"))
        length += running
        running &= ~np.asarray(result.get("done", np.zeros(size)), dtype=bool)
    for b, subject in enumerate(subjects):
        n = int(length[b])
        values = {name: np.stack([one[name][b] for one in seen[: n + 1]]) for name in given}
        values |= {c.name: np.stack([one[c.name][b] for one in acted[:n]]) for c in wanted}
        values |= {name: np.asarray(array[b]) for name, array in statics.items()}
        ended = {"terminated": not running[b], "truncated": bool(running[b])}
        yield Episode(subject, np.arange(n + 1) * schema.step, values, info={**info, **ended})


def _rows(arrays: Mapping[str, Any], names: tuple[str, ...], size: int, origin: str) -> dict[str, np.ndarray]:
    """Copies of the named channels, each with B rows."""
    rows = {}
    for name in names:
        if name not in arrays:
            raise SchemaError(f"channel {name} is missing from what {origin} gave; the schema needs it")
        rows[name] = np.array(arrays[name])
        if rows[name].shape[:1] != (size,):
            raise SchemaError(f"channel {name} from {origin} has shape {rows[name].shape}, expected {size} rows")
    return rows


def _random_policy(schema: Schema, size: int, seed: int) -> Policy:
    """Uniform draws between the bounds, or over the categories, of every action channel."""
    generator = np.random.default_rng(seed)
    actions = schema.by_role(Role.action)
    for channel in actions:
        if not channel.discrete and (channel.low is None or channel.high is None):
            raise InputError(f"channel {channel.name} has no bounds to draw from at random; give a policy")

    def draw(channel: Channel) -> np.ndarray:
        shape = (size, *channel.shape)
        if channel.discrete:
            return generator.integers(0, len(channel.categories), shape)
        assert channel.low is not None and channel.high is not None
        if np.dtype(channel.dtype).kind in "iu":
            return generator.integers(int(channel.low), int(channel.high) + 1, shape)
        return generator.uniform(channel.low, channel.high, shape)

    return lambda _: {channel.name: draw(channel) for channel in actions}
