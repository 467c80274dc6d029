"""`report.html` in the run folder: one page that needs no other file and no network."""

from training.report.page import State, write_report

__all__ = ["State", "write_report"]
