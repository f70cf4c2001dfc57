"""The contract that topwork ships, held against this weighting."""

from topwork_geometric import GeometricConfig

from topwork.testing import LossWeightingContract


class TestGeometric(LossWeightingContract):
    config = GeometricConfig()
