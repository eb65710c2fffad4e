"""What a caller may choose: when the cache is asked, and what happens when nobody can answer."""

from typing import Literal

CachePolicy = Literal["fallback", "first", "off"]
ExhaustedPolicy = Literal["degraded", "wait", "fail"]
