"""The expression for a filter, once the items that Milvus cannot judge are judged here."""

from collections.abc import Mapping
from typing import Any

from serving.collection.contract.filters import unusable_filter
from serving.collection.milvus import schema
from serving.collection.milvus.connection import Connection
from serving.collection.milvus.expressions import among, condition, facts_of

MOST_JUDGED = 50_000  # items of one search
PAGE = 1000  # of them read at a time


def expression_of(query_filter: Mapping[str, Any], connection: Connection) -> str:
    """Return the expression for exactly the items that match a filter now.

    Raises:
        UsageError: the filter is unusable, or more items than MOST_JUDGED are to be judged here.
    """
    translated = condition(query_filter)
    if not translated.unsure:
        return translated.expression
    candidates = f"({translated.expression}) and {translated.any_unsure}"
    judged = 0
    passed = []
    for page in connection.pages(candidates, schema.WITHOUT_VECTOR, PAGE):
        judged += len(page)
        if judged > MOST_JUDGED:
            raise unusable_filter(
                f"more than {MOST_JUDGED} items have lists, long texts or very large "
                "numbers in a field that a range or prefix tests: too many to judge outside "
                "Milvus. Use $in with values, or keep a plain field for it"
            )
        for one in page:
            hit = schema.hit(one, 0.0)
            if translated.holds(facts_of(hit.label, hit.metadata)):
                passed.append(str(one["id"]))
    if not judged:
        return translated.expression
    sure = f"({translated.expression}) and not {translated.any_unsure}"
    return f"({sure}) or {among(passed)}" if passed else sure
