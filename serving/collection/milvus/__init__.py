"""Collections in Milvus: the same interface, for more than one machine.

Milvus is the truth and the index at once. What is different from a collection in a folder:

- Durable and visible is what Milvus calls so: searches and reads ask for its consistency level
  Strong, so that what `add` or `remove` has returned is seen by the next call of any client.
- A batch is not a transaction. Should Milvus fail in the middle, a part may be in; adding the same
  batch again with `on_duplicate="replace"` completes it, because items are written by their keys.
- Several processes may write. "refuse" looks before it writes; of two processes that add the same
  new key at the same moment, the later one replaces.
- The recall is that of Milvus' index. `recall=1` makes the collection with FLAT, which compares
  every item; any other with HNSW. Another index can be made in Milvus; `exact=True` compares
  every item here, which means to fetch them all.
"""

from serving.collection.milvus.collection import MilvusCollection
from serving.collection.milvus.making import create, open_in_milvus

__all__ = ["MilvusCollection", "create", "open_in_milvus"]
