"""The field `training` of an encoder's contract: how far the run was that made it.

It is part of the specification of the encoder file (`encoder_file.py`). Empty where the run is not
known, else with exactly these fields:

    step, steps               integers: finished and planned steps
    samples, samples_planned  integers: images seen and planned, counted each time one is seen
    finished                  boolean: step equals steps
    measured_at               object, name of a figure of `quality` -> integer, the step at which
                              it was measured, at most `step`
    verdict                   string, what came of it (`protocols/verdict.py`); MAY be empty
    verdict_reason            string, why; MAY be empty
"""

from typing import Any, TypeGuard

COUNTS = ("step", "steps", "samples", "samples_planned")
KEYS = {*COUNTS, "finished", "measured_at", "verdict", "verdict_reason"}
REQUIREMENT = (
    "empty, or an object of finished, step, steps, samples, samples_planned, measured_at, verdict "
    "and verdict_reason that agree with one another"
)


def is_training_state(value: object) -> TypeGuard[dict[str, Any]]:
    """Whether a value is what the specification allows."""
    if not isinstance(value, dict):
        return False
    if not value:
        return True
    if set(value) != KEYS or not all(_is_count(value[name]) for name in COUNTS):
        return False
    step, steps, measured_at = value["step"], value["steps"], value["measured_at"]
    if value["finished"] is not (step >= steps) or value["samples"] > value["samples_planned"]:
        return False
    if not isinstance(measured_at, dict):
        return False
    measured = all(_is_count(at) and at <= step for at in measured_at.values())
    texts = (value["verdict"], value["verdict_reason"])
    return step <= steps and measured and all(isinstance(text, str) for text in texts)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63
