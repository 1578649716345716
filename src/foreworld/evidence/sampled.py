"""Running jobs whose results become samples: those that were kept are read, the others run and are kept.

    for job, result in run_sampled(work, jobs, add, samples, identity=identity, kept=request.kept):
        request.tell(f"{job.arm}, seed {job.seed}: done")

Whatever a protocol needs of a result goes through the samples, so that a run that was kept is as good as one that ran.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from foreworld.evidence.kept import Kept
from foreworld.evidence.parallel import run_all
from foreworld.evidence.samples import Samples


class SeededJob(Protocol):
    """What is known of a job here."""

    @property
    def arm(self) -> str:
        """Whose run it is; of several arms, the one that `Kept` knows it by."""

    @property
    def seed(self) -> int:
        """Of everything in it."""


Job = TypeVar("Job", bound=SeededJob)
Result = TypeVar("Result")


def run_sampled(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    add: Callable[[Samples, Job, Result], object],
    into: Samples | Callable[[Job], Samples],
    *,
    identity: Callable[[Job], dict[str, Any]],
    kept: Kept | None,
    workers: int | None = None,
    report: Callable[[str], None] | None = None,
) -> Iterator[tuple[Job, Result]]:
    """Jobs that ran and what they gave, in order, each after its samples were added; of those kept, the samples alone.

    Samples are added in the order of the jobs, whichever of them were kept: intervals draw subjects by their order, and
    are the same to the last digit however often an evaluation was interrupted.

    Args:
        work: As in `run_all`.
        jobs: As in `run_all`.
        add: Puts what a job gave into samples.
        into: Takes them; a function where they depend on the job.
        identity: Everything that shapes what a job gives, but the source and the arm, as JSON values.
        kept: Finished runs; None keeps none.
        workers: As in `run_all`.
        report: Takes a line if runs were kept.

    Raises:
        FormatError: As `Kept.load`.
        InputError: As `Kept.save` and `Samples.add`.
        ForeworldError: As `run_all`.
    """

    def samples_of(job: Job) -> Samples:
        return into if isinstance(into, Samples) else into(job)

    parts = [Samples((job.seed,), samples_of(job).names) for job in jobs]
    there = [
        kept is not None and kept.load(job.arm, identity(job), part) for job, part in zip(jobs, parts, strict=True)
    ]
    if report is not None and any(there):
        report(f"{sum(there)} of {len(jobs)} runs were kept")
    results = iter(run_all(work, [job for job, found in zip(jobs, there, strict=True) if not found], workers))
    for job, part, found in zip(jobs, parts, there, strict=True):
        if found:
            samples_of(job).extend(part.parts())
            continue
        result = next(results)
        add(part, job, result)
        if kept is not None:
            kept.save(job.arm, identity(job), part)
        samples_of(job).extend(part.parts())
        yield job, result
