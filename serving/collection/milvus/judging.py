"""What is asked of Milvus for a filter, once this side has judged the items that Milvus cannot."""

from collections.abc import Mapping
from typing import Any

from base.errors import UsageError
from serving.collection.milvus import schema
from serving.collection.milvus.connecting import Connection
from serving.collection.milvus.expressions import among, condition, facts_of

MOST_JUDGED = 50_000  # items of one search
PAGE = 1000  # of them read at a time


def expression_of(wanted: Mapping[str, Any], connection: Connection) -> str:
    """Return the expression for exactly the items that a filter holds for now.

    Raises:
        UsageError: the filter is unusable, or more items than MOST_JUDGED are to be judged here.
    """
    asked = condition(wanted)
    if not asked.unsure:
        return asked.expression
    candidates = f"({asked.expression}) and {asked.any_unsure}"
    judged = 0
    passed = []
    for page in connection.pages(candidates, schema.WITHOUT_VECTOR, PAGE):
        judged += len(page)
        if judged > MOST_JUDGED:
            raise UsageError(
                f"filter: more than {MOST_JUDGED} items have lists, long texts or very large "
                "numbers in a field that is asked for a range or prefix: too many to judge outside "
                "Milvus. Ask for values with $in, or keep a plain field for it"
            )
        for one in page:
            hit = schema.hit(one, 0.0)
            if asked.holds(facts_of(hit.label, hit.metadata)):
                passed.append(str(one["id"]))
    if not judged:
        return asked.expression
    sure = f"({asked.expression}) and not {asked.any_unsure}"
    return f"({sure}) or {among(passed)}" if passed else sure
