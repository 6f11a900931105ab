"""Which lag should one replica stand for, and how many replicas should always run?

    python benchmarks/autoscale.py                      the grid, what it justifies, the fixed fleet beside it
    python benchmarks/autoscale.py --events-per-s 60    replicas of another speed
    python benchmarks/autoscale.py --days 5             more days

Replays days of traffic (a wave, and imports of up to 90 minutes of one replica's work within minutes) through the
formulas of KEDA's Kafka scaler and of the HorizontalPodAutoscaler, with replicas that are ready 30 to 180 s after they
were asked for and a group that stands still while it rebalances. Every policy of the grid lives through the same days.
Chosen is the one that costs the fewest replica hours among those whose wait (publication to outcome, over events)
holds both targets, median and 99th percentile, on each day and with every cold start. On nodes with one GPU, replica
hours are GPU hours.

Traffic is scaled to the replicas' speed: what is chosen is seconds of one replica's work, and thresholds follow
from it. It is a model: no Kubernetes runs here, and the 500 events/s of a replica on a GPU, as the 100 of one on a CPU
that the overlays take, are assumed, not measured.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

PARTITIONS = 12
STEP_S = 5
SYNC_S = 15  # of the HPA. Source: kube-controller-manager --horizontal-pod-autoscaler-sync-period
TOLERANCE = 0.1  # Source: kube-controller-manager --horizontal-pod-autoscaler-tolerance
DAY_S = 86_400
DAYS = 3
TARGET_S = 600.0
MEDIAN_TARGET_S = 5.0
REBALANCE_S = 10  # the group stands still: everybody's drain, and the state of moved partitions
COMMITTED_AFTER_S = 2.0  # an event counts as lag until its outcome is committed, also when nothing waits
COLD_STARTS_S = (30, 60, 120, 180)
WORK_S = (8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
FLOORS = (1, 2, 3, 4)
WINDOWS_S = (300, 900)
SCALE_IN_PERIOD_S = 60  # at most one replica less in each


@dataclass(frozen=True)
class Policy:
    """What a ScaledObject says: seconds of one replica's work that its lagThreshold is, floor, scale-in window."""

    work_s: float
    floor: int
    window_s: int
    cold_start_s: int


@dataclass(frozen=True)
class Day:
    """What a policy led to: percentiles of wait and of lag, and replica hours."""

    wait_p50_s: float
    wait_p99_s: float
    wait_max_s: float
    lag_p50: float
    lag_p90: float
    lag_p99: float
    replica_hours: float
    scalings: int


def traffic(seed: int, events_per_s: float) -> Floats:
    """Return events that arrive in each step on each partition, [DAY_S / STEP_S, PARTITIONS].

    A wave between 0.3 and 2.7 replicas' work, and twelve imports of 1 to 30 minutes of three replicas' work.
    """
    generator = np.random.default_rng(seed)
    steps = DAY_S // STEP_S
    load = 1.5 - 1.2 * np.cos(2 * np.pi * np.arange(steps) / steps)
    for _ in range(12):
        start, length = generator.integers(steps), int(generator.integers(12, 120))
        load[start : start + length] += 3 * generator.uniform(60, 1800) / (length * STEP_S)
    shares = generator.dirichlet(np.full(PARTITIONS, 200.0))
    arrivals: Floats = generator.poisson(load[:, None] * shares * events_per_s * STEP_S).astype(np.float64)
    return arrivals


def desired_replicas(lag: Floats, threshold: Floats, current: Ints) -> Ints:
    """Return what KEDA's metric makes the HPA ask for, before its behavior rules.

    Args:
        lag: events, [policies, partitions].
        threshold: lagThreshold, [policies].
        current: replicas, [policies].

    Source: `getTotalLag` of KEDA's Kafka scaler with limitToPartitionsWithLag, and `GetExternalPerPodMetricReplicas`
    of the HPA's replica calculator.
    """
    total, partitions = lag.sum(axis=1), np.count_nonzero(lag >= 1, axis=1)
    # Of integers, so nothing is capped below one threshold more than there are partitions with lag.
    metric = np.where(total // threshold > partitions, partitions * threshold, total)
    ratio = metric / (threshold * np.maximum(current, 1))
    wanted: Ints = np.ceil(metric / threshold).astype(np.int64)
    return np.where(np.abs(ratio - 1) <= TOLERANCE, current, wanted)


class Fleet:
    """The replicas of every policy at once, as arrays over policies.

    Args:
        policies: one for each row.
        events_per_s: of one replica.
        fixed: replicas that never scale, one for each row; None: scaled by the policies.
    """

    def __init__(self, policies: list[Policy], events_per_s: float, fixed: Ints | None = None) -> None:
        self._threshold = np.array([policy.work_s * events_per_s for policy in policies])
        self._floor = np.array([policy.floor for policy in policies])
        self._cold_s = np.array([policy.cold_start_s for policy in policies])
        window = np.array([policy.window_s // SYNC_S for policy in policies])
        self._remembered = np.arange(window.max())[:, None] < window  # [syncs ago, policies]
        self.replicas = self._floor.copy() if fixed is None else fixed
        self._fixed = fixed is not None
        self._advice = np.tile(self.replicas, (window.max(), 1))
        self._ready_at = np.zeros((len(policies), PARTITIONS))  # of each replica by its index
        self._last_in = np.full(len(policies), -np.inf)
        self._serving = self.replicas.copy()
        self._standing_until = np.zeros(len(policies))
        self.scalings = np.zeros(len(policies), dtype=np.int64)
        owners = [np.arange(PARTITIONS) % max(1, ready) for ready in range(PARTITIONS + 1)]
        self._capacity = np.array([events_per_s * STEP_S / np.bincount(owner)[owner] for owner in owners])
        self._capacity[0] = 0.0

    def capacity(self, now: float) -> Floats:
        """Return how many events each partition's replica can take in this step, [policies, PARTITIONS]."""
        index = np.arange(PARTITIONS)
        ready = np.count_nonzero((index < self.replicas[:, None]) & (self._ready_at <= now), axis=1)
        self._standing_until = np.where(ready != self._serving, now + REBALANCE_S, self._standing_until)
        self._serving = ready
        return np.where((now < self._standing_until)[:, None], 0.0, self._capacity[ready])

    def sync(self, now: float, lag: Floats) -> None:
        """Let the HPA look once."""
        if self._fixed:
            return
        advice = np.clip(desired_replicas(lag, self._threshold, self.replicas), self._floor, PARTITIONS)
        self._advice = np.vstack([advice, self._advice[:-1]])
        stabilised = np.where(self._remembered, self._advice, 0).max(axis=0)
        up = np.minimum(advice, np.maximum(2 * self.replicas, self.replicas + 4))  # the HPA's default policies
        may_leave = (stabilised < self.replicas) & (now - self._last_in >= SCALE_IN_PERIOD_S)
        after = np.where(advice > self.replicas, up, self.replicas - may_leave)
        self._last_in = np.where(after < self.replicas, now, self._last_in)
        index = np.arange(PARTITIONS)
        new = (index >= self.replicas[:, None]) & (index < after[:, None])
        self._ready_at = np.where(new, (now + self._cold_s)[:, None], self._ready_at)
        self.scalings += after != self.replicas
        self.replicas = after


def live(arrivals: Floats, fleet: Fleet) -> list[Day]:
    """Return what the day was for each row of the fleet."""
    rows = len(fleet.replicas)
    lag = np.zeros((rows, PARTITIONS))
    served = np.zeros((len(arrivals), rows, PARTITIONS))
    replica_s, lags = np.zeros(rows), np.zeros((len(arrivals), rows))
    for step, arriving in enumerate(arrivals):
        now = step * STEP_S
        lag += arriving
        served[step] = np.minimum(lag, fleet.capacity(now))
        lag -= served[step]
        seen = lag + served[step] * (COMMITTED_AFTER_S / STEP_S)
        lags[step] = seen.sum(axis=1)
        if now % SYNC_S == 0:
            fleet.sync(now, seen)
        replica_s += fleet.replicas * STEP_S
    return [
        Day(*_waits(arrivals, served[:, row]), *_lags(lags[:, row]), float(replica_s[row]) / 3600, n)
        for row, n in enumerate(fleet.scalings.tolist())
    ]


def _waits(arrivals: Floats, served: Floats) -> tuple[float, float, float]:
    """Return the median, the 99th percentile and the largest wait in s, over events, first in first out."""
    times = np.arange(len(arrivals)) * float(STEP_S)
    came, went = arrivals.cumsum(axis=0), served.cumsum(axis=0)
    done = np.stack(
        [times[np.minimum(np.searchsorted(w, c - 1e-6), len(times) - 1)] for c, w in zip(came.T, went.T, strict=True)],
        axis=1,
    )
    waits = (done - times[:, None]).ravel()
    order = np.argsort(waits)
    shares = arrivals.ravel()[order].cumsum() / arrivals.sum()
    p50, p99 = waits[order][np.searchsorted(shares, (0.5, 0.99))]
    return float(p50), float(p99), float(waits.max())


def _lags(lags: Floats) -> tuple[float, float, float]:
    """Return the median, the 90th and the 99th percentile of lag in events, over time."""
    p50, p90, p99 = np.percentile(lags, (50, 90, 99))
    return float(p50), float(p90), float(p99)


def simulate(seed: int, events_per_s: float) -> dict[Policy, Day]:
    """Return the day of every policy of the grid."""
    policies = [Policy(*values) for values in itertools.product(WORK_S, FLOORS, WINDOWS_S, COLD_STARTS_S)]
    days = live(traffic(seed, events_per_s), Fleet(policies, events_per_s))
    return dict(zip(policies, days, strict=True))


def fixed_fleets(seed: int, events_per_s: float) -> list[Day]:
    """Return the day of fleets of 1, 2, … PARTITIONS replicas that never scale."""
    sizes = np.arange(1, PARTITIONS + 1)
    policies = [Policy(1.0, replicas, SYNC_S, 0) for replicas in sizes.tolist()]
    return live(traffic(seed, events_per_s), Fleet(policies, events_per_s, sizes))


def worst(days: list[Day]) -> Day:
    """Return the worst of each figure, and the mean of the hours."""
    figures = {name: max(getattr(day, name) for day in days) for name in Day.__dataclass_fields__}
    return Day(**figures | {"replica_hours": sum(day.replica_hours for day in days) / len(days)})


def holds(day: Day, target_s: float) -> bool:
    """Return whether the day holds both targets."""
    return day.wait_p99_s <= target_s and day.wait_p50_s <= MEDIAN_TARGET_S


def justified(days: dict[Policy, Day], target_s: float) -> Policy:
    """Return the cheapest policy that holds the targets with every cold start, at the longest of them.

    Raises:
        ValueError: none holds them.
    """
    hours: dict[Policy, list[float]] = {}
    for policy, day in days.items():
        if holds(day, target_s):
            hours.setdefault(replace(policy, cold_start_s=max(COLD_STARTS_S)), []).append(day.replica_hours)
    held = {policy: sum(each) for policy, each in hours.items() if len(each) == len(COLD_STARTS_S)}
    if not held:
        raise ValueError(f"no policy of the grid holds {target_s} s")
    return min(held, key=held.__getitem__)


def over_days(days: int, events_per_s: float) -> tuple[dict[Policy, Day], list[Day]]:
    """Return the worst of several days: of each policy of the grid, and of each fixed fleet."""
    grids = [simulate(seed, events_per_s) for seed in range(1, days + 1)]
    fleets = [fixed_fleets(seed, events_per_s) for seed in range(1, days + 1)]
    return (
        {policy: worst([grid[policy] for grid in grids]) for policy in grids[0]},
        [worst(list(each)) for each in zip(*fleets, strict=True)],
    )


def main(
    events_per_s: Annotated[float, typer.Option(help="of one replica")] = 500.0,
    target_s: Annotated[float, typer.Option(help="99th percentile of wait")] = TARGET_S,
    price: Annotated[float, typer.Option(help="of one replica hour")] = 1.0,
    days: Annotated[int, typer.Option(min=1, help="each of its own seed")] = DAYS,
) -> None:
    """Print the grid, the fixed fleet that holds the same targets, and the policy that is justified."""
    grid, fleets = over_days(days, events_per_s)
    chosen = justified(grid, target_s)
    replicas, fixed = next((n, day) for n, day in enumerate(fleets, 1) if holds(day, target_s))
    waits, lags = ("wait p50, s", "p99", "max"), ("lag p50", "p90", "p99")
    table = Table("lagThreshold", "floor", "window, s", "cold, s", *waits, *lags, "hours", "cost")
    for policy, day in grid.items():
        values = (policy.work_s * events_per_s, policy.floor, policy.window_s, policy.cold_start_s)
        figures = (day.wait_p50_s, day.wait_p99_s, day.wait_max_s, day.lag_p50, day.lag_p90, day.lag_p99)
        cost = f"{day.replica_hours * price:.1f} ({day.replica_hours / fixed.replica_hours:.0%})"
        style = "bold" if replace(policy, cold_start_s=chosen.cold_start_s) == chosen else None
        table.add_row(*(f"{value:.0f}" for value in (*values, *figures)), f"{day.replica_hours:.1f}", cost, style=style)
    Console(stderr=True, width=140).print(table)
    figures_of = {
        "chosen": asdict(chosen) | {"lag_threshold": round(chosen.work_s * events_per_s)},
        "day": asdict(grid[chosen]) | {"cost": grid[chosen].replica_hours * price},
        "fixed": asdict(fixed) | {"cost": fixed.replica_hours * price, "replicas": replicas},
    }
    print(json.dumps(figures_of))


if __name__ == "__main__":
    typer.run(main)
