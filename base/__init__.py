"""Ground floor: what is about no room in particular.

The exception tree with its exit codes, atomic files, folder locks, progress of long commands, text
of messages, and what the system says of CPUs, memory and control groups. Needs only the standard
library, and rich where progress is shown; imports no other room.
"""
