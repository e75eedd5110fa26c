"""How many files and connections this process may have open. Imports no torch."""

try:
    import resource
except ImportError:  # a system without such limits
    resource = None

MANY = 65_536


def allow_files(wanted: int = MANY) -> int:
    """Raise what the process allows itself, as far as the system lets it; what it is then.

    Args:
        wanted: files at once; more is left as it is.
    """
    if resource is None:
        return wanted
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    allowed = wanted if hard == unlimited else min(wanted, hard)
    if soft == unlimited or soft >= allowed:
        return wanted if soft == unlimited else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):  # a kernel may allow less than it says
        return soft
    return allowed
