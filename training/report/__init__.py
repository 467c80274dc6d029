"""`report.html` in the run folder: one page that needs no other file and no network.

In: the metrics of a run and what `monitor.py` measured. Out: the page (`page.py`).
"""
