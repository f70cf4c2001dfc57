"""Contracts for plugin authors: subclass one in your tests, set ``config``, and pytest does the rest.

    from topwork.testing import HeadContract

    class TestMyHead(HeadContract):
        config = MyHeadConfig()

For readable failures put ``pytest.register_assert_rewrite("topwork.testing")`` into your conftest.py.
"""

from topwork.testing.backbone import BackboneContract as BackboneContract
from topwork.testing.freeze_strategy import FreezeStrategyContract as FreezeStrategyContract
from topwork.testing.head import HeadContract as HeadContract
from topwork.testing.loss_weighting import LossWeightingContract as LossWeightingContract
from topwork.testing.optimizer_grouping import OptimizerGroupingContract as OptimizerGroupingContract
from topwork.testing.plugin import PluginContract as PluginContract
from topwork.testing.pooling import PoolingContract as PoolingContract
from topwork.testing.sampler import SamplerContract as SamplerContract
from topwork.testing.tiny import TinyBackboneConfig as TinyBackboneConfig
from topwork.testing.tiny import tiny_model as tiny_model
