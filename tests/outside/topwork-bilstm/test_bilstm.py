from typing import ClassVar

from topwork_bilstm import BiLstmConfig

import topwork
from topwork.testing import HeadContract


class TestBiLstm(HeadContract):
    config = BiLstmConfig()
    labels: ClassVar[topwork.WordLabels] = topwork.WordLabels(("O", "B-x", "I-x"))
