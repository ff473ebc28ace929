"""A model for lm-evaluation-harness (extra `eval`): its requests, answered by `lm.interop.scoring`.

results = lm_eval.simple_evaluate(model=HarnessModel(model), tasks=[...])
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from lm.interop.scoring import TextModel
from lm.strict import ConfigError

MAX_NEW = 256  # tokens, where a task does not say
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
IGNORED = {"do_sample", "until", "temperature", *LENGTHS}


class HarnessModel(LM):
    """Answer the harness's three kinds of requests with a model of text."""

    def __init__(self, model: TextModel):
        super().__init__()
        self.model = model

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Return log-probability and greediness of each (context, continuation)."""
        return [(score.logprob, score.greedy) for score in self.model.score([request.args for request in requests])]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Return the log-probability of each text."""
        return self.model.score_whole([request.args[0] for request in requests])

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the reply to each (context, settings); those with equal settings go through together."""
        groups: dict[str, list[int]] = defaultdict(list)
        for i, request in enumerate(requests):
            groups[repr(sorted(request.args[1].items()))].append(i)
        replies: dict[int, str] = {}
        for members in groups.values():
            settings = _settings(requests[members[0]].args[1])
            found = self.model.reply([requests[i].args[0] for i in members], **settings)
            replies |= zip(members, found, strict=True)
        return [replies[i] for i in range(len(requests))]


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Return what a task asks of generation; ConfigError for what is not done here."""
    if unknown := sorted(given.keys() - IGNORED):
        raise ConfigError(f"the task asks for {', '.join(unknown)} in generation, which is not done here")
    until = given.get("until") or []
    return {
        "max_new": next((int(given[name]) for name in LENGTHS if name in given), MAX_NEW),
        "until": [until] if isinstance(until, str) else until,
        "temperature": float(given.get("temperature", 0.0)) if given.get("do_sample") else 0.0,
    }
