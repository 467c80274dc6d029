"""Create a collection in Milvus and open an existing one."""

from datetime import UTC, datetime
from typing import Any

from base.errors import LookalikeError, UsageError
from serving.collection.contract.errors import CollectionMissing
from serving.collection.contract.locations import MilvusLocation
from serving.collection.milvus.collection import MilvusCollection
from serving.collection.milvus.connection import STRONG, Connection
from serving.collection.milvus.schema import HNSW, PROPERTY, Binding, binding_of, fields


def create(
    location: MilvusLocation,
    encoder_digest: str,
    dim: int,
    *,
    encoder_path: str | None,
    recall: float,
) -> MilvusCollection:
    """Make a new, empty collection and open it, as `opening.create_collection`.

    With a recall of 1 its index is FLAT, which compares every item; with any other HNSW.

    Raises:
        UsageError: it exists already.
    """
    if location.file is not None and not location.file.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {location.file.parent} to make {location.file} in")
    connection = Connection(location)
    try:
        _refuse(connection, there=True)
        binding = Binding(
            encoder_sha256=encoder_digest,
            dim=dim,
            encoder_path=encoder_path,
            created=datetime.now(UTC).isoformat("T", "seconds"),
        )
        connection.call(
            "create_collection",
            schema=_schema(dim, binding.to_json()),
            consistency_level=STRONG,
            properties={PROPERTY: binding.to_json()},
        )
        _make_index(connection, exact=recall == 1)
        return MilvusCollection(connection, binding, _index_kind(connection))
    except BaseException:
        connection.close()
        raise


def open_in_milvus(location: MilvusLocation, *, encoder_digest: str | None) -> MilvusCollection:
    """Open a collection in Milvus and have it loaded.

    Raises:
        CollectionMissing: it is not there.
        ArtifactError: it is not one of ours, or of another encoder.
    """
    if location.file is not None and not location.file.exists():
        raise CollectionMissing(location.text)
    connection = Connection(location)
    try:
        _refuse(connection, there=False)
        binding = binding_of(connection.call("describe_collection"), location.text)
        # Loaded with several replicas, it would be brought back to one by loading it again.
        if connection.call("get_load_state")["state"].name != "Loaded":
            connection.call("load_collection")
        collection = MilvusCollection(connection, binding, _index_kind(connection))
        if encoder_digest is not None:
            collection.check_encoder(encoder_digest)
    except BaseException:
        connection.close()
        raise
    return collection


def _refuse(connection: Connection, *, there: bool) -> None:
    """Refuse a collection that exists (`there`), or one that does not."""
    location = connection.location
    if bool(connection.call("has_collection")) is not there:
        return
    if there:
        raise UsageError(f"{location.text} is there already; give the name of a new collection")
    raise CollectionMissing(location.text)


def _schema(dim: int, description: str) -> Any:
    from pymilvus import DataType, MilvusClient

    schema = MilvusClient.create_schema(
        auto_id=False, enable_dynamic_field=False, description=description
    )
    for name, kind, parameters in fields(dim):
        if "element_type" in parameters:
            parameters |= {"element_type": DataType[parameters["element_type"]]}
        schema.add_field(name, DataType[kind], **parameters)
    return schema


def _make_index(connection: Connection, *, exact: bool) -> None:
    """Make the indexes of a new collection, or drop it again if that fails."""
    from pymilvus import MilvusClient

    index = MilvusClient.prepare_index_params()
    index.add_index(
        "vector",
        index_type="FLAT" if exact else "HNSW",
        metric_type="IP",
        params={} if exact else HNSW,
    )
    if not connection.version().startswith("milvus_lite"):  # it has none for arrays
        index.add_index("terms", index_type="INVERTED")
    try:
        connection.call("create_index", index_params=index, sync=False)  # it is empty: no waiting
        connection.call("load_collection")
    except BaseException:
        connection.call("drop_collection")
        raise


def _index_kind(connection: Connection) -> str:
    """Return the type of the index on the vectors, which may have been changed in Milvus."""
    for name in connection.call("list_indexes"):
        description = connection.call("describe_index", index_name=name)
        if description["field_name"] != "vector":
            continue
        if description["metric_type"] != "IP":
            raise LookalikeError(
                f"{connection.location.text}: the index on its vectors has the metric "
                f"{description['metric_type']}; make it anew in Milvus with IP"
            )
        return str(description["index_type"])
    raise LookalikeError(
        f"{connection.location.text} has no index on its vectors; make one in Milvus, metric IP"
    )
