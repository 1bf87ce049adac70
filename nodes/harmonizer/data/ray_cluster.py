"""The same work on a Ray cluster (the optional extra `ray`): every task a remote call, so many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ...engine.errors import RegionStyleError, wrong_input
from .rpharmony import Made, Runner, Task, run_task

WAITING = 4  # tasks per processor that are handed out at once: the others' arguments need no memory yet


def ray_runner(address: str) -> Runner:
    """A runner on the cluster at an address; "local" starts one on this machine, "auto" finds the one it is part of.

    The cluster's machines must see the same folders and have this package. RegionStyleError without ray, and when no
    cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise wrong_input("--ray", "no ray", "the package ray", "Install it: pip install 'regionstyle[ray]'.") from None

    def run(todo: Sequence[Task]) -> Iterator[Made]:
        started = not ray.is_initialized()
        if started:
            _connect(ray, address)
        try:
            yield from _results(ray, todo)
        finally:
            if started:
                ray.shutdown()

    return run


def _connect(ray: Any, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, include_dashboard=False if address == "local" else None)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        got = f"{address!r} ({type(error).__name__})"
        raise wrong_input("--ray", got, "the address of a running Ray cluster, or 'local'", "Check it.") from error


def _results(ray: Any, todo: Sequence[Task]) -> Iterator[Made]:
    remote = ray.remote(_one_thread)
    limit = max(1, int(ray.cluster_resources().get("CPU", 1))) * WAITING
    left, running = iter(todo), []
    for task in left:
        running.append(remote.remote(task))
        if len(running) >= limit:
            done, running = ray.wait(running, num_returns=1)
            yield _got(ray, done[0])
    for each in running:
        yield _got(ray, each)


def _one_thread(task: Task) -> Made:
    """A task in a worker, which has one processor to itself."""
    import torch

    torch.set_num_threads(1)
    return run_task(task)


def _got(ray: Any, reference: Any) -> Made:
    """A worker's result; what it raised becomes one error."""
    try:
        made: Made = ray.get(reference)
    except ray.exceptions.RayError as error:
        raise RegionStyleError(f"--ray: a worker failed ({type(error).__name__}): {error}") from error
    return made
