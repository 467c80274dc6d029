"""Collections: items with vectors, stored safely, bound to one encoder and searched.

In come records (a key, a vector, metadata); out come neighbors. `contract` is what every collection
has in common; a collection in a folder has a `ledger` (the truth), an `index` (in memory) and its
`upkeep` (build, tune, save); `milvus` keeps one in Milvus. Imports run contract <- ledger <- index
<- upkeep <- the modules here, and contract <- milvus.
"""

from serving.collection.collection import Collection
from serving.collection.contract.errors import (
    CollectionBusy,
    CollectionMissing,
    CollectionRebuilt,
    CollectionReplaced,
    KeyExists,
    KeyUnknown,
)
from serving.collection.contract.interface import AnyCollection
from serving.collection.contract.records import AddReport, Hit, OnDuplicate, Record
from serving.collection.contract.voting import LabelShare, Suggestion
from serving.collection.opening import create_collection, describe, open_collection

__all__ = [
    "AddReport",
    "AnyCollection",
    "Collection",
    "CollectionBusy",
    "CollectionMissing",
    "CollectionRebuilt",
    "CollectionReplaced",
    "Hit",
    "KeyExists",
    "KeyUnknown",
    "LabelShare",
    "OnDuplicate",
    "Record",
    "Suggestion",
    "create_collection",
    "describe",
    "open_collection",
]
