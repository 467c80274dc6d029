"""Collections in Milvus: the same interface, for more than one machine.

Milvus is the truth and the index at once. The differences from a collection in a folder:

- Durability and visibility are Milvus' own: searches and reads use its consistency level Strong, so
  that the next call of any client sees what an `add` or `remove` that has returned did.
- A batch is not a transaction. Should Milvus fail in the middle, some items may be in; adding the
  same batch again with `on_duplicate="replace"` completes it, because items are written by key.
- Several processes may write. "refuse" looks before it writes; of two processes that add the same
  new key at the same moment, the later one replaces.
- The recall is that of Milvus' index. `recall=1` makes the collection with FLAT, which compares
  every item; any other with HNSW. Another index can be made in Milvus; `exact=True` compares
  every item on this side, which means fetching them all.
"""

from serving.collection.milvus.collection import MilvusCollection
from serving.collection.milvus.creation import create, open_in_milvus

__all__ = ["MilvusCollection", "create", "open_in_milvus"]
