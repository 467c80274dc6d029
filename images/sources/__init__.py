"""Any SOURCE in, its items out: a key, a uri, a label and a way to read the content of each image.

`open_source` tells the formats apart, one file per format (folder, tar, zip, Parquet, npz, IDX,
path list, named sets); `read_uri` finds one item again. Nothing is decoded here.
"""
