"""Bytes and other figures as people read them."""


def bytes_text(num_bytes: int) -> str:
    """Return a number of bytes in the largest of B, KiB, MiB, GiB and TiB that it has ten of, else in B."""
    for unit, exponent in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if num_bytes >= 10 * 2**exponent:
            return f"{num_bytes / 2**exponent:,.1f} {unit}"
    return f"{num_bytes} B"


def three_digits(value: float) -> str:
    """Return three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
