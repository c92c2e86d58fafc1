"""What GPUs can do at most in dense 16-bit products, from their makers' data sheets: the P of "MFU"."""

from __future__ import annotations

# FLOP per second; the first name that is part of the device's counts
PEAKS = {
    "H200": 989.4e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989.4e12,
    "H20": 148e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10G": 70e12,
    "RTX 4090": 165.2e12,
}


def peak(name: str) -> float | None:
    """FLOP per second of the device with this name (as `nvidia-smi` prints it), None if it is not in the table."""
    return next((rate for known, rate in PEAKS.items() if known in name), None)


def utilization(flop: float, seconds: float, name: str) -> float | None:
    """Percent of the peak (MFU): `flop` are those the model needs, whatever was recomputed."""
    rate = peak(name)
    return None if rate is None else 100 * flop / seconds / rate
