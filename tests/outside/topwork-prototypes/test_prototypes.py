from topwork_prototypes import PrototypesConfig

from topwork.testing import HeadContract


class TestPrototypes(HeadContract):
    config = PrototypesConfig()
