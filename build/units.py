"""Write sizes in the units that log lines, reports and error messages use."""

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30


def mebibytes(size_bytes: int) -> str:
    """Return a size such as `1,234.5 MiB`."""
    return f"{size_bytes / MEBIBYTE:,.1f} MiB"


def gibibytes(size_bytes: int) -> str:
    """Return a size such as `4.0 GiB`."""
    return f"{size_bytes / GIBIBYTE:.1f} GiB"
