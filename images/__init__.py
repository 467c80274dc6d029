"""Any collection of images in, uint8 arrays out: the one room that lists, reads and decodes.

`sources/` lists a SOURCE (folder, archive, array file, list, URL, name) as items; `pixels/` decodes
an item's content and makes of it what an encoder sees. `items.py` holds what both speak of: `Item`,
`Source`, `RefusedImage`. Needs only numpy and Pillow; other formats' packages are imported when
such a file comes.
"""
