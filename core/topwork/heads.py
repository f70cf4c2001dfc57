"""The shipped heads, for a head that differs from one of them in little.

Subclass a config, give it a kind of its own, and change what ``build`` gives with ``dataclasses.replace``: a metric
more, another loss, a figure. Its settings stay those of the shipped head, and may become more.
"""

from topwork_plugins.heads.binary import BinaryConfig as BinaryConfig
from topwork_plugins.heads.classification import ClassificationConfig as ClassificationConfig
from topwork_plugins.heads.multilabel import MultilabelConfig as MultilabelConfig
from topwork_plugins.heads.ordinal import OrdinalConfig as OrdinalConfig
from topwork_plugins.heads.regression import RegressionConfig as RegressionConfig
from topwork_plugins.heads.similarity import SimilarityConfig as SimilarityConfig
from topwork_plugins.heads.tagging import TaggingConfig as TaggingConfig
