"""What the options of `lookalike export` can be set to."""

from enum import StrEnum


class Precision(StrEnum):
    """What an encoder computes in."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Int8Target(StrEnum):
    """CPUs that int8 is made for: with wide products of bytes, or with those that saturate."""

    AUTO = "auto"
    VNNI = "vnni"
    AVX2 = "avx2"


class Filter(StrEnum):
    """What resizes pictures."""

    BICUBIC = "bicubic"
    BILINEAR = "bilinear"
    LANCZOS = "lanczos"


class Axes(StrEnum):
    """Order of the axes of an ONNX file's input."""

    NCHW = "nchw"
    NHWC = "nhwc"


class Token(StrEnum):
    """What of an ONNX output of tokens [N,T,D] the features are."""

    CLS = "cls"
    MEAN = "mean"


class Projection(StrEnum):
    """What is done to the features of real pictures."""

    AUTO = "auto"
    NONE = "none"
    CENTER = "center"
    PCA = "pca"
    WHITEN = "whiten"
    NEIGHBORS = "neighbors"
