"""The language model as lanes get it, put together once, in order: endpoint, token budget, limit, pinning.

Owns that order. Each link wraps the one before it, so the last one is asked first: 1. pinning refuses a model that is
not the version's before a token is spent; 2. the limit lets no more calls through than the endpoint bears; 3. the
budget is charged only for calls that are made; 4. the endpoint answers. Must not know who asks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from models.llm.backends import BACKENDS, Endpoint, connect
from models.llm.client import Completion, CompletionRequest, LanguageModel, WrappedModel
from models.llm.limits import AdaptiveLimit, BudgetedModel, LimitedModel
from streams.metrics import Metrics
from streams.settings import SettingError, Settings

Pin = Callable[[Mapping[str, str]], Awaitable[object]]
"""Makes components part of the version; raises where the version has others."""


class PinningModel(WrappedModel):
    """A `LanguageModel` that makes its name part of the version before anything is asked of it.

    `pin` raises where the version has another model's answers; transient errors of it are the caller's to retry.
    """

    def __init__(self, llm: LanguageModel, pin: Pin) -> None:
        super().__init__(llm)
        self._pin = pin
        self._pinned = ""

    async def served_model(self) -> str:
        """See `LanguageModel.served_model`."""
        name = await super().served_model()
        if name != self._pinned:
            await self._pin({"llm": name})
            self._pinned = name
        return name

    async def complete(self, request: CompletionRequest) -> Completion:
        """See `LanguageModel.complete`."""
        await self.served_model()
        return await super().complete(request)


def endpoint(settings: Settings) -> LanguageModel:
    """The language model at the endpoint; raises `SettingError` for an unknown back end."""
    s = settings
    if s.llm.backend not in BACKENDS:
        raise SettingError("llm.backend", s.llm.backend, f"one of {', '.join(BACKENDS)}")
    return connect(s.llm.backend, Endpoint(s.llm.url, s.llm.model, s.llm.timeout_s, 2 * s.llm.concurrency))


def language_model(
    llm: LanguageModel, settings: Settings, metrics: Metrics, redis: Callable[[], Any], pin: Pin | None
) -> LanguageModel:
    """`llm` within the token budget and the limit, and pinned by `pin` where one is given.

    `redis` gives the client, and is called only where there is a budget: it is kept there, for all workers.
    """
    s = settings
    if s.llm.tokens_per_hour:
        from store.token_budget import TokenBudget

        # A call that takes longer than its time-out is a dead worker's.
        lease_s = s.llm.timeout_s + 60
        budget = TokenBudget(redis(), s.key_prefix, limit=s.llm.tokens_per_hour, lease_s=lease_s)
        llm = BudgetedModel(
            llm,
            budget,
            deferred=metrics.llm_deferrals.inc,
            spent=lambda state: metrics.llm_budget_spent.set(state.spent),
        )
    llm = LimitedModel(llm, AdaptiveLimit(s.llm.concurrency, changed=metrics.llm_limit.set))
    return llm if pin is None else PinningModel(llm, pin)
