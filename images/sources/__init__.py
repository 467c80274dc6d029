"""Any SOURCE in, a list of items with keys, labels and bytes out.

One file per format (folder, tar, zip, Parquet, npz, IDX, path list, named sets) and `open_source`,
which tells them apart.
"""
