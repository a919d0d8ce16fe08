"""What Prometheus is told of the operator itself."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The operator's figures, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reconciles = Counter(
            "octavo_operator_reconciles",
            "Reconciliations of a model, by what came of them: done, refused, failed.",
            ["result"],
            registry=self.registry,
        )
        self.duration = Histogram(
            "octavo_operator_reconcile_duration_seconds",
            "Time of one reconciliation.",
            buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30),
            registry=self.registry,
        )
        self.writes = Counter(
            "octavo_operator_writes",
            "Objects that were changed, by kind.",
            ["kind"],
            registry=self.registry,
        )
        self.leading = Gauge(
            "octavo_operator_leading", "1 while this operator holds the lease.", registry=self.registry
        )
        self.models = Gauge(
            "octavo_operator_models", "InferenceModels that there are.", registry=self.registry
        )
        self.desired = Gauge(
            "octavo_operator_desired_replicas",
            "Pods that a model should have.",
            ["namespace", "name"],
            registry=self.registry,
        )
