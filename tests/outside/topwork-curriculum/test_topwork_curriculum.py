"""The contract that topwork ships, held against this sampler."""

from topwork_curriculum import CurriculumConfig

from topwork.testing import SamplerContract


class TestCurriculum(SamplerContract):
    config = CurriculumConfig()
