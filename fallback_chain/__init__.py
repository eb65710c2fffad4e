"""The tiers that can answer a request, and what each answer means.

>>> chain = FallbackChain("http://localhost:8080", "http://localhost:11434", redis_client)
>>> result = await chain.generate("Explain quantum computing", max_tokens=200)
>>> result["text"], result["tier_used"]
"""

from fallback_chain.answers import Answer, degraded_answer, read_answer, text_of
from fallback_chain.cache import (
    AnswerCache,
    CachedAnswer,
    CacheTier,
    MemoryCache,
    RedisCache,
    cache_key,
)
from fallback_chain.chain import ChainOptions, FallbackChain, model_configs
from fallback_chain.classify import CONTEXT, LACKING, NO_SUCH_MODEL, Meaning, classify
from fallback_chain.errors import (
    FallbackError,
    NoFormError,
    RequestRefusedError,
    UnshowableError,
    UpstreamError,
)
from fallback_chain.http import LARGEST_REPLY, Http, PyreqwestHttp, Reply
from fallback_chain.needs import Need, Needs, parse_accepts
from fallback_chain.tier import BREAKER_NAMES, ChatTier, TierConfig, normalise_url
from fallback_chain.trial import (
    INTERRUPTED,
    LACKS,
    MISFIT,
    UNCHECKED,
    UNSHOWABLE,
    Attempt,
    Step,
    Tokens,
    Trial,
    Verdict,
    fit_of,
    next_step,
    outcome_of,
)

__all__ = [
    "BREAKER_NAMES",
    "CONTEXT",
    "INTERRUPTED",
    "LACKING",
    "LACKS",
    "LARGEST_REPLY",
    "MISFIT",
    "NO_SUCH_MODEL",
    "UNCHECKED",
    "UNSHOWABLE",
    "Answer",
    "AnswerCache",
    "Attempt",
    "CacheTier",
    "CachedAnswer",
    "ChainOptions",
    "ChatTier",
    "FallbackChain",
    "FallbackError",
    "Http",
    "Meaning",
    "MemoryCache",
    "Need",
    "Needs",
    "NoFormError",
    "PyreqwestHttp",
    "RedisCache",
    "Reply",
    "RequestRefusedError",
    "Step",
    "TierConfig",
    "Tokens",
    "Trial",
    "UnshowableError",
    "UpstreamError",
    "Verdict",
    "cache_key",
    "classify",
    "degraded_answer",
    "fit_of",
    "model_configs",
    "next_step",
    "normalise_url",
    "outcome_of",
    "parse_accepts",
    "read_answer",
    "text_of",
]
