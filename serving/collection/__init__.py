"""Collections: what is searched, kept safe on the disk and bound to one encoder."""

from serving.collection.collection import Collection
from serving.collection.contract.errors import (
    CollectionBusy,
    CollectionMissing,
    CollectionRebuilt,
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
