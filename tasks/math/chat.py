"""One call to a chat endpoint in the manner of OpenAI, with patience: what may pass is tried again, the rest is said.

Chat.open(lesson).ask([{"role": "user", "content": "..."}], Random(0)).text
"""

from __future__ import annotations

import email.utils
import json
import os
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException
from random import Random
from typing import Any, NamedTuple

from lm.exits import UserError

LARGEST_REPLY = 1 << 24  # bytes
LONGEST_WAIT = 60.0  # seconds between attempts, unless the server asks for more
LONGEST_ASKED_WAIT = 600.0  # seconds; a server that asks for more is left alone


class Answer(NamedTuple):
    """What the model said, the tokens that it read and wrote by the server's count, why attempts before failed."""

    text: str
    input_tokens: int
    output_tokens: int
    retries: tuple[str, ...] = ()


class NoAnswerError(Exception):
    """All attempts failed; the text is the last cause."""


class _PassingError(Exception):
    """An attempt failed in a way that may pass; `wait` is what the server asks for, in seconds."""

    def __init__(self, cause: str, wait: float = 0.0):
        super().__init__(cause)
        self.wait = wait


@dataclass(frozen=True)
class Chat:
    """An endpoint and how it is asked. The key is in memory alone: no text that leaves this object holds it."""

    settings: Any  # tasks.math.teacher.Lesson
    key: str = field(repr=False)
    stopped: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def open(cls, settings: Any) -> Chat:
        """Return the chat with the key of the environment variable that the settings name, if it is set."""
        key = os.environ.get(settings.key_variable, "").strip()
        if not key.isascii() or not key.isprintable():
            raise UserError(f"the environment variable {settings.key_variable} does not hold a key: odd characters")
        return cls(settings, key)

    def ask(self, messages: list[dict[str, str]], jitter: Random) -> Answer:
        """Return the answer; NoAnswerError after the last attempt, UserError where no attempt can help."""
        retries: list[str] = []
        for attempt in range(self.settings.attempts):
            try:
                return self._attempt(messages)._replace(retries=tuple(retries))
            except _PassingError as error:
                failure = error
            if self.stopped.is_set() or attempt + 1 == self.settings.attempts:
                break
            retries.append(str(failure))
            backoff = min(LONGEST_WAIT, self.settings.first_wait * 2**attempt) * jitter.uniform(0.5, 1.0)
            if self.stopped.wait(max(backoff, failure.wait)):
                break
        if str(failure).startswith("unreachable"):
            raise UserError(f"{self.settings.url} is {failure}; what was answered is kept, the same command goes on")
        raise NoAnswerError(str(failure))

    def _attempt(self, messages: list[dict[str, str]]) -> Answer:
        try:
            with urllib.request.urlopen(self._request(messages), timeout=self.settings.timeout) as response:
                return _read(response.read(LARGEST_REPLY))
        except urllib.error.HTTPError as error:
            with error:
                raise self._refusal(error) from None
        except TimeoutError:
            raise _PassingError("timeout") from None
        except urllib.error.URLError as error:
            timed_out = isinstance(error.reason, TimeoutError)
            raise _PassingError("timeout" if timed_out else f"unreachable: {error.reason}") from None
        except (OSError, HTTPException):
            raise _PassingError("connection broken") from None

    def _request(self, messages: list[dict[str, str]]) -> urllib.request.Request:
        s = self.settings
        body = {"model": s.model, "messages": messages, "temperature": s.temperature, "max_tokens": s.max_tokens}
        url = s.url.rstrip("/") + "/chat/completions"
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        if self.key:
            # A redirect to another host does not take the key along.
            request.add_unredirected_header("Authorization", f"Bearer {self.key}")
        return request

    def _refusal(self, error: urllib.error.HTTPError) -> Exception:
        if error.code in (408, 409, 425, 429) or error.code >= 500:
            wait = _asked_wait(error.headers.get("Retry-After"))
            if wait > LONGEST_ASKED_WAIT:
                return UserError(f"{self.settings.url} asks to wait {wait:.0f} seconds; the same command goes on then")
            return _PassingError(f"HTTP {error.code}", wait)
        said = f"HTTP {error.code} {error.reason}: {error.read(4096).decode('utf-8', 'replace')}"
        if self.key:
            said = said.replace(self.key, "[key]")
        return UserError(f"{self.settings.url} refuses the request: {said[:400]}")


def _read(body: bytes) -> Answer:
    """Return the answer in a response; what is not one may pass, as when a proxy answers in its place."""
    try:
        content = json.loads(body)
        text = content["choices"][0]["message"]["content"] or ""
        usage = content.get("usage") or {}
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        # What cannot be written as UTF-8 could not be read again.
        return Answer(text.encode("utf-8", "replace").decode(), *tokens)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise _PassingError("malformed answer") from None


def _asked_wait(value: str | None) -> float:
    """Return the seconds of a Retry-After header, a number or a date, or 0."""
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
