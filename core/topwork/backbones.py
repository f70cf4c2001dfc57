"""The shipped backbones, for one that differs from one of them in little: other weights, another tokenizer.

Subclass a config, give it a kind and settings of its own, and change what ``build`` gives.
"""

from topwork_plugins.backbones.auto import AutoConfig as AutoConfig
from topwork_plugins.backbones.distilbert import DistilBertConfig as DistilBertConfig
from topwork_plugins.backbones.minilm import MiniLmConfig as MiniLmConfig
