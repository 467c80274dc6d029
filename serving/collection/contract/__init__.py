"""The contract of every collection: records, filters, errors, locations and the interface.

Shared by the collection in a folder and the one in Milvus; imports neither.
"""
