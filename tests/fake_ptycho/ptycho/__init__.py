"""A stand-in for PtychoPINN's TensorFlow package; see the README beside it."""

import os


def wrong(what: str) -> bool:
    return what in os.environ.get("FAKE_PTYCHO", "").split(",")
