"""The former place of `clipsonic.packages`."""

from clipsonic.packages import DEFAULT_CACHE, fetch_debian, fetch_wheel

__all__ = ["DEFAULT_CACHE", "fetch_debian", "fetch_wheel"]
