"""Conformance checks for third parties: each tells what is wrong with *your* part, and how to repair it.

from foreworld.conformance import check_planner
print(check_planner(MyPlanner()))     # a report, or ConformanceError with every finding

In the manner of scikit-learn's `check_estimator` and Stable-Baselines3's `check_env`.
"""

from foreworld.conformance.dataset import check_dataset
from foreworld.conformance.domain import check_domain
from foreworld.conformance.guardrail import check_guardrail
from foreworld.conformance.planner import check_planner
from foreworld.conformance.report import Report
from foreworld.conformance.world_model import check_world_model

__all__ = ["Report", "check_dataset", "check_domain", "check_guardrail", "check_planner", "check_world_model"]
