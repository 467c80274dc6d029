"""Images to a run folder: SimCLR pretraining (Chen et al. 2020).

In: a source of images (`images.sources`) and a recipe. Out: a run folder (`run_folder/`), which
`export` turns into an encoder file. `train.py` is the whole of it; `loop.py` moves `trainer.py`
step by step.
"""
