"""The scaler's formula, and that the thresholds which ship are the ones that its simulation justifies."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import autoscale
from tests.deploy.rendering import OVERLAYS, find


@pytest.mark.parametrize(
    ("lag", "current", "desired"),
    [
        (0, 3, 0),
        (960, 1, 10),
        (105, 1, 1),  # within the HPA's tolerance
        (111, 1, 2),
        (10_000, 4, 12),  # no more than there are partitions
    ],
)
def test_desired_replicas_follow_the_lag_within_partitions_and_tolerance(lag: int, current: int, desired: int) -> None:
    """A lagThreshold of 100 is what one replica stands for."""
    spread = np.full((1, 12), lag / 12)
    assert autoscale.desired_replicas(spread, np.array([100.0]), np.array([current])).tolist() == [desired]


@pytest.mark.parametrize(("lag", "desired"), [(100, 1), (150, 2), (199, 2), (200, 1), (10_000, 1)])
def test_desired_replicas_with_lag_on_one_partition_are_one_beyond_two_thresholds(lag: int, desired: int) -> None:
    """A partition has one consumer, but KEDA compares whole thresholds: one and a half are not more than one to it."""
    spread = np.zeros((1, 12))
    spread[0, 3] = lag
    assert autoscale.desired_replicas(spread, np.array([100.0]), np.array([4])).tolist() == [desired]


def test_fleet_that_never_scales_serves_what_it_can() -> None:
    """A day of less work than one replica's waits for nothing; twice as much leaves half of it behind."""
    arrivals = np.full((autoscale.DAY_S // autoscale.STEP_S, 12), 500 * autoscale.STEP_S / 12)
    policy = autoscale.Policy(1.0, 1, autoscale.SYNC_S, 0)
    light, heavy = (
        autoscale.live(arrivals * share, autoscale.Fleet([policy], 500.0, np.array([1])))[0] for share in (0.9, 2.0)
    )
    assert light.wait_max_s <= autoscale.STEP_S
    assert heavy.wait_max_s > autoscale.DAY_S / 3
    assert light.replica_hours == pytest.approx(24)


@pytest.mark.slow
def test_thresholds_that_ship_are_the_ones_the_simulation_justifies() -> None:
    """Of both overlays: each for the speed that its replicas are assumed to have, which the traffic is scaled to."""
    grid, fleets = autoscale.over_days(autoscale.DAYS, 500.0)
    chosen = autoscale.justified(grid, autoscale.TARGET_S)
    fixed = next(size for size, day in enumerate(fleets, 1) if autoscale.holds(day, autoscale.TARGET_S))
    assert min(autoscale.WORK_S) < chosen.work_s < max(autoscale.WORK_S), "the grid ends beyond what it justifies"
    rates = {"cpu": 100, "gpu": 500}  # events/s; assumed
    for overlay in OVERLAYS:
        spec = find(overlay, "ScaledObject")["spec"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert int(spec["triggers"][0]["metadata"]["lagThreshold"]) == chosen.work_s * rates[overlay]
        assert spec["minReplicaCount"] == chosen.floor
        assert spec["fallback"]["replicas"] == fixed
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] == chosen.window_s
        (slow,) = behavior["scaleDown"]["policies"]
        assert slow == {"type": "Pods", "value": 1, "periodSeconds": autoscale.SCALE_IN_PERIOD_S}
