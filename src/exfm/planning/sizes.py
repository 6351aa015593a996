"""Bytes and other figures as text for people."""


def unit_of(num_bytes: int) -> tuple[str, int]:
    """Return the largest unit of which a number of bytes is at least ten, else B; and the bytes of that unit."""
    for unit, exponent in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if num_bytes >= 10 * 2**exponent:
            return unit, 2**exponent
    return "B", 1


def bytes_text(num_bytes: int) -> str:
    """Return a number of bytes in its `unit_of`."""
    unit, unit_bytes = unit_of(num_bytes)
    return f"{num_bytes} B" if unit_bytes == 1 else f"{num_bytes / unit_bytes:,.1f} {unit}"


def three_digits(value: float) -> str:
    """Return a value with three digits, or all digits before the decimal point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
