"""An OpenAI-compatible endpoint: where it is, whose model, how fast it may be asked and how much it may cost."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import ConfigDict, Field, field_validator, model_validator

from radpo.clients.dialect import SamplingOptions, TokenLimit
from radpo.clients.serving import KINDS, Serving
from radpo.core.errors import ConfigError
from radpo.core.messages import looks_like_key
from radpo.core.served import address_of

Positive = Annotated[float, Field(gt=0)]
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

# A chat format's own tokens for one message (role, separators): no format in use has as many.
_PER_MESSAGE = 16
BATCH_PRICE = 0.5
"""What a request in a batch costs, as a share of the price, at those who offer batches."""
# What of a request's options is billed as a part of its prompt.
_READ_BY_THE_MODEL = ("tools", "functions", "response_format", "chat_template_kwargs")
_SETTINGS = {
    "model": "model", "messages": "what is asked", "stream": "nothing: answers come whole", "n": "nothing: one is read",
    "max_tokens": "the sampling's or the judge's own", "max_completion_tokens": "the sampling's or the judge's own",
    "reasoning_effort": "reasoning_effort", "chat_template_kwargs": "chat_template_kwargs",
}  # fmt: skip
"""What of a request's body has a setting of its own, or none."""


def _is_none(value: object) -> bool:
    return value is None


class Endpoint(Serving):
    """Where chat completions come from. The key itself is read from the environment when needed, and kept nowhere.

    Args:
        version: which checkpoint that name stands for, in your own words. A judge's answers are cached by the model's
            name and address in any case; those of a model under test only where this says which model it is.
        api_key_env: the name of the environment variable that holds the key; a local server may need none.
        concurrency: requests under way at once.
        requests_per_minute: no more than this are sent, evenly spaced; None sends as fast as answers come.
        timeout: seconds until an answer counts as lost. What is lost may still be billed, so be generous.
        attempts: how often one request is sent at most, after 429, 5xx, time-outs and answers that cannot be read.
        token_limit: what the endpoint calls the limit of an answer's tokens; `auto` begins with max_tokens and takes up
            what the endpoint's own error says.
        sampling_options: whether to send temperature, top_p, seed and penalties; `auto` leaves out those that the
            endpoint says it takes no values of, and the notes then say so; `omit` leaves out all.
        reasoning_effort: how much a model is to reason, in the API's words, such as `low`.
        chat_template_kwargs: variables of the model's chat template, such as `{enable_thinking: false}`, as vLLM's,
            SGLang's and transformers' servers take them.
        extra_body: whatever else every request's body is to hold, such as `{top_k: 20}`; what it names goes over the
            request's own.
        batch: ask through the API's batch endpoint: prices count half, and answers may take a day. The first request
            goes by itself, at the full price, so that wrong settings show at once.
        max_unanswered: the share of requests that may stay without an answer (refused, failing each time, or answered
            without a text); single ones always may.
        price_in, price_out: dollars for a million tokens of prompt and of answer.
        max_cost: dollars that one call (of a matrix, one stage with all its tries) may spend; checked before each
            request is sent, at the most it could cost. A matrix has a limit of its own for the whole run.
        max_requests: requests that one call (or stage) may send, repeated ones counted.

    What it has of `radpo.clients.serving` besides are the model, its address, or what starts a server at none.
    """

    # A key given in the wrong place must not come back in an error.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    version: str | None = Field(None, min_length=1)
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = Field(32, ge=1)
    requests_per_minute: Positive | None = None
    timeout: Positive = 600.0
    attempts: int = Field(8, ge=1)
    token_limit: TokenLimit = "auto"
    sampling_options: SamplingOptions = "auto"
    reasoning_effort: str | None = Field(None, min_length=1, exclude_if=_is_none)
    chat_template_kwargs: dict[str, Any] | None = Field(None, exclude_if=_is_none)
    extra_body: dict[str, Any] | None = Field(None, exclude_if=_is_none)
    batch: bool = Field(False, exclude_if=operator.not_)
    max_unanswered: Annotated[float, Field(ge=0, le=1)] = 0.05
    price_in: Annotated[float, Field(ge=0)] | None = None
    price_out: Annotated[float, Field(ge=0)] | None = None
    max_cost: Positive | None = None
    max_requests: Annotated[int, Field(ge=1)] | None = None

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be a URL such as https://api.openai.com/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError("must hold no user, password or query; the key is read from the environment")
        return url.rstrip("/")

    @field_validator("api_key_env")
    @classmethod
    def _is_name(cls, name: str) -> str:
        if looks_like_key(name):
            raise ValueError(
                "must be the name of an environment variable, such as OPENAI_API_KEY; what is given looks like a key "
                "itself. Put the key into the environment, and consider this one as seen by others"
            )
        return name

    @field_validator("extra_body")
    @classmethod
    def _is_free(cls, body: dict[str, Any] | None) -> dict[str, Any] | None:
        for name, value in (body or {}).items():
            if name in _SETTINGS:
                raise ValueError(f"{name}: is set by {_SETTINGS[name]}")
            if isinstance(value, str) and looks_like_key(value):
                raise ValueError(f"{name}: looks like a key, which goes into the environment (api_key_env)")
        json.dumps(body)
        return body

    @model_validator(mode="after")
    def _limit_has_prices(self) -> Endpoint:
        if self.max_cost is not None and not self.has_prices:
            raise ValueError("max_cost needs price_in and price_out, in dollars for a million tokens")
        return self

    def options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A request's options with those that every request to this endpoint has."""
        found = dict(asked)
        if self.reasoning_effort is not None:
            found["reasoning_effort"] = self.reasoning_effort
        if self.chat_template_kwargs:
            found["chat_template_kwargs"] = {**self.chat_template_kwargs, **asked.get("chat_template_kwargs", {})}
        return {**found, **(self.extra_body or {})}

    def identity(self) -> dict[str, Any]:
        """The settings that can change an answer (`RESULT_FIELDS`); those that came later only where they are given."""
        return self.model_dump(mode="json", include=set(RESULT_FIELDS))

    @property
    def address(self) -> str:
        """Where it is now, up to and with `/v1`.

        Raises:
            RadpoError: radpo has to start its server, and has not.
        """
        return address_of(self.server()) if self.is_served else self.base_url

    @property
    def asked_for(self) -> str:
        """What requests call the model."""
        named = self.serve is None or KINDS[self.serve].takes_name
        return self.model if named else self.weights or self.model

    @property
    def is_local(self) -> bool:
        """Whether the endpoint is on this machine."""
        return urlsplit(self.base_url).hostname in LOOPBACK

    def api_key(self) -> str | None:
        """The key, None where the variable is not set and the endpoint is on this machine.

        Raises:
            ConfigError: a remote endpoint's key is not in the environment.
        """
        key = os.environ.get(self.api_key_env)
        if not key and not self.is_local:
            raise ConfigError(f"{self.base_url} needs a key: set the environment variable {self.api_key_env}")
        return key or None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Dollars for so many tokens, 0 where there are no prices; of a batch half the price."""
        share = BATCH_PRICE if self.batch else 1.0
        return share * ((self.price_in or 0.0) * prompt_tokens + (self.price_out or 0.0) * completion_tokens) / 1e6

    @property
    def has_prices(self) -> bool:
        """Whether it is known what tokens cost."""
        return self.price_in is not None and self.price_out is not None

    def highest_cost(
        self, messages: Sequence[Mapping[str, str]], options: Mapping[str, Any], *, limited: bool = False
    ) -> float:
        """The most dollars that a request could cost: no tokeniser makes more tokens of a text than it has bytes.

        Args:
            options: what else the request's body holds.
            limited: whether there is a spending limit besides the endpoint's own.

        Raises:
            ConfigError: there is a spending limit, and prices are not known or nothing bounds the answer's length.
        """
        limited |= self.max_cost is not None
        max_tokens = options.get("max_tokens", options.get("max_completion_tokens"))
        if limited and not self.has_prices:
            raise ConfigError(
                f"{self.model}: a spending limit needs price_in and price_out, in dollars for a million tokens (0 "
                "where asking costs nothing)"
            )
        if max_tokens is None:
            if limited:
                raise ConfigError("a spending limit needs requests with max_tokens, which bounds what one can cost")
            return 0.0
        texts = [message["content"] for message in messages]
        read = {*_READ_BY_THE_MODEL, *(self.extra_body or ())}
        texts += [json.dumps(value) for name, value in options.items() if name in read]
        prompt = sum(len(text.encode("utf-8", "replace")) + _PER_MESSAGE for text in texts)
        return self.cost(prompt, max_tokens)


RESULT_FIELDS = frozenset(
    {
        "model", "base_url", "version", "sampling_options", "reasoning_effort", "chat_template_kwargs", "extra_body",
    }
)  # fmt: skip
"""The endpoint's settings that can change an answer; the others are no part of a key."""
