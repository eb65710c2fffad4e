"""The tiers that can answer a request, and what each answer means.

>>> chain = FallbackChain("http://localhost:8080", "http://localhost:11434", redis_client)
>>> result = await chain.generate("Explain quantum computing", max_tokens=200)
>>> result["text"], result["tier_used"]
"""

from fallback_chain.answers import Answer, degraded_answer, read_answer, text_of
from fallback_chain.body import Body, Endpoint
from fallback_chain.cache import (
    AnswerCache,
    CachedAnswer,
    CacheTier,
    MemoryCache,
    RedisCache,
    cache_key,
)
from fallback_chain.chain import (
    ChainOptions,
    FallbackChain,
    breaker_names,
    build_tier,
)
from fallback_chain.classify import CONTEXT, LACKING, NO_SUCH_MODEL, Meaning, classify
from fallback_chain.diagnosis import Fault, Finding, check_tier
from fallback_chain.endpoints import TierOfEndpoints
from fallback_chain.errors import (
    FallbackError,
    NoFormError,
    RequestRefusedError,
    UnshowableError,
    UpstreamError,
)
from fallback_chain.http import (
    LARGEST_REPLY,
    TIMER_SECONDS,
    Http,
    Reply,
    StreamedReply,
    read_authorities,
)
from fallback_chain.httptools_http import HttptoolsHttp
from fallback_chain.needs import Need, Needs, parse_accepts
from fallback_chain.streams import Chunks, Sink, chunks_of, head_of, joined
from fallback_chain.tier import (
    BREAKER_NAMES,
    ChatTier,
    Tier,
    TierConfig,
    breaker_name,
    normalise_url,
    split_urls,
)
from fallback_chain.trial import (
    INTERRUPTED,
    LACKS,
    MISFIT,
    ONLY_EMBEDS,
    UNCHECKED,
    UNSHOWABLE,
    Attempt,
    Pace,
    Step,
    Tokens,
    Trial,
    Verdict,
    fit_of,
    next_step,
    outcome_of,
)
from fallback_chain.urgency import Urgency
from fallback_chain.vectors import LARGEST_ID, MOST_INPUTS, InputFault, count_of, fault_of

__all__ = [
    "BREAKER_NAMES",
    "CONTEXT",
    "INTERRUPTED",
    "LACKING",
    "LACKS",
    "LARGEST_ID",
    "LARGEST_REPLY",
    "MISFIT",
    "MOST_INPUTS",
    "NO_SUCH_MODEL",
    "ONLY_EMBEDS",
    "TIMER_SECONDS",
    "UNCHECKED",
    "UNSHOWABLE",
    "Answer",
    "AnswerCache",
    "Attempt",
    "Body",
    "CacheTier",
    "CachedAnswer",
    "ChainOptions",
    "ChatTier",
    "Chunks",
    "Endpoint",
    "FallbackChain",
    "FallbackError",
    "Fault",
    "Finding",
    "Http",
    "HttptoolsHttp",
    "InputFault",
    "Meaning",
    "MemoryCache",
    "Need",
    "Needs",
    "NoFormError",
    "Pace",
    "RedisCache",
    "Reply",
    "RequestRefusedError",
    "Sink",
    "Step",
    "StreamedReply",
    "Tier",
    "TierConfig",
    "TierOfEndpoints",
    "Tokens",
    "Trial",
    "UnshowableError",
    "UpstreamError",
    "Urgency",
    "Verdict",
    "breaker_name",
    "breaker_names",
    "build_tier",
    "cache_key",
    "check_tier",
    "chunks_of",
    "classify",
    "count_of",
    "degraded_answer",
    "fault_of",
    "fit_of",
    "head_of",
    "joined",
    "next_step",
    "normalise_url",
    "outcome_of",
    "parse_accepts",
    "read_answer",
    "read_authorities",
    "split_urls",
    "text_of",
]
