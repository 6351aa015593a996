"""Bytes and other figures as people read them."""


def unit_of(num_bytes: int) -> tuple[str, int]:
    """Return the largest of B, KiB, MiB, GiB and TiB that a number of bytes has ten of, else B; and its bytes."""
    for unit, exponent in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if num_bytes >= 10 * 2**exponent:
            return unit, 2**exponent
    return "B", 1


def bytes_text(num_bytes: int) -> str:
    """Return a number of bytes in its `unit_of`."""
    unit, unit_bytes = unit_of(num_bytes)
    return f"{num_bytes} B" if unit_bytes == 1 else f"{num_bytes / unit_bytes:,.1f} {unit}"


def three_digits(value: float) -> str:
    """Return three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
