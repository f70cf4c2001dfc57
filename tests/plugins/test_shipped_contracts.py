"""Shipped plugins keep the contracts that outsiders are offered."""

from typing import ClassVar

import topwork
from topwork.testing import (
    BackboneContract,
    FreezeStrategyContract,
    HeadContract,
    LossWeightingContract,
    OptimizerGroupingContract,
    PoolingContract,
    SamplerContract,
)
from topwork_plugins.backbones.minilm import MiniLmConfig
from topwork_plugins.freeze_strategies.all import AllConfig
from topwork_plugins.freeze_strategies.all_except import AllExceptConfig
from topwork_plugins.freeze_strategies.bitfit import BitfitConfig
from topwork_plugins.freeze_strategies.embeddings_only_frozen import EmbeddingsOnlyFrozenConfig
from topwork_plugins.freeze_strategies.gradual import GradualConfig
from topwork_plugins.freeze_strategies.last_layers import LastLayersConfig
from topwork_plugins.freeze_strategies.layer_norms import LayerNormsConfig
from topwork_plugins.freeze_strategies.lora import LoraConfig
from topwork_plugins.freeze_strategies.none import NoneConfig
from topwork_plugins.heads.binary import BinaryConfig
from topwork_plugins.heads.classification import ClassificationConfig
from topwork_plugins.heads.multilabel import MultilabelConfig
from topwork_plugins.heads.ordinal import OrdinalConfig
from topwork_plugins.heads.regression import RegressionConfig
from topwork_plugins.heads.similarity import SimilarityConfig
from topwork_plugins.heads.tagging import TaggingConfig
from topwork_plugins.loss_weightings.dynamic_average import DynamicAverageConfig
from topwork_plugins.loss_weightings.fixed import FixedConfig
from topwork_plugins.loss_weightings.uncertainty import UncertaintyConfig
from topwork_plugins.optimizer_groupings.by_pattern import ByPatternConfig
from topwork_plugins.optimizer_groupings.heads_and_backbone import HeadsAndBackboneConfig
from topwork_plugins.optimizer_groupings.layerwise_decay import LayerwiseDecayConfig
from topwork_plugins.optimizer_groupings.uniform import UniformConfig
from topwork_plugins.poolings.attention import AttentionConfig
from topwork_plugins.poolings.cls import ClsConfig
from topwork_plugins.poolings.concat_layers import ConcatLayersConfig
from topwork_plugins.poolings.last import LastConfig
from topwork_plugins.poolings.layer_mix import LayerMixConfig
from topwork_plugins.poolings.max import MaxConfig
from topwork_plugins.poolings.mean import MeanConfig
from topwork_plugins.poolings.weighted_mean import WeightedMeanConfig
from topwork_plugins.samplers.proportional import ProportionalConfig
from topwork_plugins.samplers.round_robin import RoundRobinConfig
from topwork_plugins.samplers.temperature import TemperatureConfig
from topwork_plugins.samplers.uniform import UniformConfig as UniformSamplerConfig
from topwork_plugins.samplers.weighted import WeightedConfig


class TestMiniLm(BackboneContract):
    config = MiniLmConfig()


class TestCls(PoolingContract):
    config = ClsConfig()


class TestMean(PoolingContract):
    config = MeanConfig()


class TestMax(PoolingContract):
    config = MaxConfig()


class TestLast(PoolingContract):
    config = LastConfig()


class TestWeightedMean(PoolingContract):
    config = WeightedMeanConfig()


class TestAttention(PoolingContract):
    config = AttentionConfig()


class TestClsOfALayer(PoolingContract):
    config = ClsConfig(layer=1)


class TestLayerMix(PoolingContract):
    config = LayerMixConfig(layers=("embeddings", 0, -1), each="mean")


class TestConcatLayers(PoolingContract):
    config = ConcatLayersConfig()


class TestClassification(HeadContract):
    config = ClassificationConfig(hidden=(8,), dropout=0.1)
    labels: ClassVar[topwork.Classes] = topwork.Classes(("a", "b", "c"))


class TestWeightedClassification(HeadContract):
    config = ClassificationConfig(hidden=(8,), class_weights="balanced", label_smoothing=0.1)
    labels: ClassVar[topwork.Classes] = topwork.Classes(("a", "b", "c"), counts=(50, 20, 5))


class TestClassificationOfShares(HeadContract):
    config = ClassificationConfig(hidden=(8,))
    labels: ClassVar[topwork.Distribution] = topwork.Distribution(("a", "b", "c"))


class TestBinary(HeadContract):
    config = BinaryConfig(hidden=())


class TestMultilabel(HeadContract):
    config = MultilabelConfig(hidden=(8,))
    labels: ClassVar[topwork.LabelSet] = topwork.LabelSet(("a", "b", "c", "d"))


class TestRegression(HeadContract):
    config = RegressionConfig(hidden=(8,), loss="huber")
    labels: ClassVar[topwork.Numbers] = topwork.Numbers(("score",), mean=(2.5,), scale=(1.5,))


class TestRegressionOfSeveral(HeadContract):
    config = RegressionConfig(hidden=(8,))
    labels: ClassVar[topwork.Numbers] = topwork.Numbers(("x", "y"), mean=(2.5, -300.0), scale=(1.5, 40.0))


class TestSimilarity(HeadContract):
    config = SimilarityConfig(projection=8)
    labels: ClassVar[topwork.Numbers] = topwork.Numbers(("score",), mean=(2.5,), scale=(1.5,))


class TestTagging(HeadContract):
    config = TaggingConfig(hidden=(8,))
    labels: ClassVar[topwork.WordLabels] = topwork.WordLabels(("NOUN", "VERB", "ADJ"))


class TestTaggingOfSpans(HeadContract):
    config = TaggingConfig(hidden=(8,))
    labels: ClassVar[topwork.WordLabels] = topwork.WordLabels(("O", "B-x", "I-x", "B-y"))


class TestOrdinal(HeadContract):
    config = OrdinalConfig(hidden=(8,))
    labels: ClassVar[topwork.Classes] = topwork.Classes(("bad", "so so", "good"), ordered=True)


class TestBitfit(FreezeStrategyContract):
    config = BitfitConfig(layers=1)


class TestLayerNorms(FreezeStrategyContract):
    config = LayerNormsConfig()


class TestLora(FreezeStrategyContract):
    config = LoraConfig(rank=2)


class TestEmbeddingsOnlyFrozen(FreezeStrategyContract):
    config = EmbeddingsOnlyFrozenConfig()


class TestAll(FreezeStrategyContract):
    config = AllConfig()


class TestNone(FreezeStrategyContract):
    config = NoneConfig()


class TestAllExcept(FreezeStrategyContract):
    config = AllExceptConfig(patterns=("layer.1.ffn", "layer.*.output_layer_norm"))


class TestGradual(FreezeStrategyContract):
    config = GradualConfig(start=1)


class TestLastLayers(FreezeStrategyContract):
    config = LastLayersConfig(count=1)


class TestByPattern(OptimizerGroupingContract):
    config = ByPatternConfig(no_decay=True)


class TestLayerwiseDecay(OptimizerGroupingContract):
    config = LayerwiseDecayConfig(decay=0.5)


class TestHeadsAndBackbone(OptimizerGroupingContract):
    config = HeadsAndBackboneConfig()


class TestUniform(OptimizerGroupingContract):
    config = UniformConfig()


class TestProportional(SamplerContract):
    config = ProportionalConfig(batches="single")


class TestRoundRobin(SamplerContract):
    config = RoundRobinConfig()


class TestTemperature(SamplerContract):
    config = TemperatureConfig(temperature=5.0, cooldown=10)


class TestUniformSampler(SamplerContract):
    config = UniformSamplerConfig()


class TestWeighted(SamplerContract):
    config = WeightedConfig(weights={"reviews": 1.0, "questions": 0.5, "pairs": 3.0})


class TestFixed(LossWeightingContract):
    config = FixedConfig(weights={"slots": 0.5})


class TestUncertainty(LossWeightingContract):
    config = UncertaintyConfig(learning_rate=0.01)


class TestDynamicAverage(LossWeightingContract):
    config = DynamicAverageConfig(temperature=1.0)
