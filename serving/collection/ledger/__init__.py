"""The ledger: one SQLite file that holds the truth of a collection in a folder."""
