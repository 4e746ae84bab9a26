"""Does synthetic data help this image classifier, how much, and which design choice matters?"""
__version__ = "0.1.0"


def __getattr__(name: str):
    "`from synthnb import Study`, imported only when it is asked for."
    if name not in ("Study", "run_all"): raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .interface import api
    return getattr(api, name)
