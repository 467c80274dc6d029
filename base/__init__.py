"""Ground floor: what is about no room in particular.

Errors with exit codes, atomic files, locks, CPUs, progress and text helpers. Needs only the
standard library, numpy and rich; imports no other room.
"""
