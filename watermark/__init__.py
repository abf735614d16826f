"""Tree-ring watermarks: keys, marked noise, detection and verdicts.

The names are loaded when they are first used, so that the command line starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from watermark.calibration import Calibration
    from watermark.detection import Detection, detect
    from watermark.keys import Pattern, RingKey
    from watermark.keystore.store import KeyStore
    from watermark.noise import watermarked_noise
    from watermark.nulls import calibrate
    from watermark.verdict import Verdict
    from watermark.verify import Verifier, with_calibration

__all__ = [
    "Calibration",
    "Detection",
    "KeyStore",
    "Pattern",
    "RingKey",
    "Verdict",
    "Verifier",
    "calibrate",
    "detect",
    "watermarked_noise",
    "with_calibration",
]

_HOMES = {
    "Calibration": "calibration",
    "Detection": "detection",
    "KeyStore": "keystore.store",
    "Pattern": "keys",
    "RingKey": "keys",
    "Verdict": "verdict",
    "Verifier": "verify",
    "calibrate": "nulls",
    "detect": "detection",
    "watermarked_noise": "noise",
    "with_calibration": "verify",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
