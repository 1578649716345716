"""Divisions of subjects into parts that share nobody: a model is never tested on whom it was trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from foreworld.errors import InputError


def divide_subjects(subjects: Sequence[str], fractions: Mapping[str, float], seed: int) -> dict[str, list[str]]:
    """Divide subjects at random, whatever the order in which they come.

    Args:
        subjects: Distinct subjects.
        fractions: Share by part; each above 0, together at most 1.
        seed: Seed of the draw.

    Returns:
        Sorted subjects by part.

    Raises:
        InputError: A share is not in 0..1, they exceed 1 together, or a part would be empty.
    """
    for part, share in fractions.items():
        if not 0 < share <= 1:
            raise InputError(f"split part {part!r} has share {share}; give a share above 0 and at most 1")
    total = sum(fractions.values())
    if not fractions or total > 1 + 1e-9:
        raise InputError(f"the shares of a split sum to {total:g}; they must sum to at most 1")
    order = np.random.default_rng(seed).permutation(len(subjects))
    drawn = [sorted(subjects)[int(i)] for i in order]
    ends = np.rint(np.cumsum(list(fractions.values())) * len(subjects)).astype(int)
    parts = {}
    begin = 0
    for part, end in zip(fractions, ends, strict=True):
        parts[part] = sorted(drawn[begin:end])
        begin = int(end)
        if not parts[part]:
            raise InputError(
                f"split part {part!r} ({fractions[part]:g} of {len(subjects)} subjects) would be empty; "
                "give it a larger share or record more subjects"
            )
    return parts


def check_parts(name: str, parts: Mapping[str, Sequence[str]], subjects: Sequence[str]) -> dict[str, list[str]]:
    """The parts as lists, after checking that they are parts of these subjects and disjoint.

    Raises:
        InputError: A name is empty or has a slash, or a subject is unknown or in two parts.
    """
    if not name or not parts or any(not word or "/" in word for word in (name, *parts)):
        raise InputError(f"split {name!r} needs a name and parts, none of them empty or with a slash")
    known = set(subjects)
    owner: dict[str, str] = {}
    for part, members in parts.items():
        for subject in members:
            if subject not in known:
                raise InputError(f"split {name}/{part}: subject {subject!r} is not in the store")
            if subject in owner:
                raise InputError(f"split {name}: subject {subject!r} is in both {owner[subject]!r} and {part!r}")
            owner[subject] = part
    return {part: list(members) for part, members in parts.items()}
