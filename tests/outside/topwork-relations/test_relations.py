from topwork_relations import RelationConfig

from topwork.testing import HeadContract


class TestRelation(HeadContract):
    config = RelationConfig()
