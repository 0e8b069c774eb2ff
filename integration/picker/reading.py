"""From a body to an ask: length, limit, prefix."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from integration.picker.asks import BAD_REQUEST, Ask, Refused
from integration.picker.bodies import COMPLETIONS, BodyError, kind_of, read_body
from integration.picker.events import Ended, Refusal
from integration.picker.lengths import Lengths, units
from integration.routing.prefixes import block_hashes

if TYPE_CHECKING:
    from collections.abc import Collection

    from integration.picker.bodies import Body, Prompt
    from integration.picker.events import Event
    from integration.picker.params import PickerParams
    from integration.picker.sampling import Watched
    from integration.picker.unread import Unread

_MOST_KEPT = 65_536


class Reader:
    """Reads requests, and learns from their ends how long prompts are: a listener of the core.

    Parameters
    ----------
    params : PickerParams
    folder : Path, optional
        What a relative path of the tokenizer is seen from.
    adapters : collection of str, optional
        Names of LoRA adapters, which may become more, where engines tell what they have cached:
        blocks are then of token ids as theirs are. None keeps prompts apart by model.
    watched : Watched, optional
        Chooses streams that the proxy tells of while they run; by default there are none.
    unread : Unread, optional
        Chooses streams out of which the proxy need not read what they took; by default it reads
        all.

    Raises
    ------
    ParameterError, MissingExtraError
        The tokenizer cannot be read.
    """

    def __init__(
        self,
        params: PickerParams,
        folder: Path = Path(),
        *,
        adapters: Collection[str] | None = None,
        watched: Watched | None = None,
        unread: Unread | None = None,
    ) -> None:
        self._adapters = adapters
        self._watched, self._unread = watched, unread
        self._block_tokens = params.block_tokens
        given = params.tokenizer
        self.lengths = Lengths(None if given is None else folder / given)
        self._run = secrets.token_hex(6)
        self._number = count()
        self._kept: OrderedDict[str, tuple[str, float, int]] = OrderedDict()

    def name(self) -> str:
        """Return an id of our own that no other request has, of this picker or another."""
        return f"br-{self._run}-{next(self._number):x}"

    def _named(self, path: str, body: Body) -> str:
        name = self.name()
        if self._watched is not None:
            name = self._watched.named(name, body)
        return name if self._unread is None else self._unread.named(name, path, body)

    def named(self, name: str) -> bool:
        """Tell whether a request's id is one of ours, and not of another picker's."""
        return name.startswith(f"br-{self._run}-")

    def read(
        self, method: str, path: str, content: bytes, *, name: str | None = None
    ) -> Ask | Refused | None:
        """Read a request.

        Parameters
        ----------
        method, path : str
        content : bytes
            Its body.
        name : str, optional
            What it is to be called; None makes one.

        Returns
        -------
        Ask or Refused or None
            None for what generates nothing and needs no slot; refused (400) is what no engine
            would take.
        """
        kind = kind_of(path) if method.upper() == "POST" else None
        if kind is None:
            return None
        try:
            body = read_body(kind, content)
        except BodyError as error:
            return Refused(BAD_REQUEST, str(error), None)
        return self.ask(body, self._named(path, body) if name is None else name)

    def ask(self, body: Body, name: str) -> Ask:
        """Make an ask of a body that has been read."""
        if self._adapters is not None and body.kind == COMPLETIONS and len(body.prompts) == 1:
            body = replace(body, prompts=(self.lengths.as_ids(body.prompts[0]),))
        self._keep(name, body)
        one = body.prompts[0] if len(body.prompts) == 1 else ""
        return Ask(
            name,
            self.lengths.of(body),
            max_tokens=body.max_tokens,
            blocks=block_hashes(one, self._block_tokens, salt=self._salt(one, body.model)),
            key=body.user,
            stream=body.stream,
            model=body.model,
            sequences=body.sequences,
            parts=self.lengths.parts(body) if body.sequences > 1 else (),
        )

    def _salt(self, prompt: Prompt, model: str) -> str:
        """Return what besides its tokens tells a prompt from others."""
        if self._adapters is None or isinstance(prompt, str) or model in self._adapters:
            return model
        return ""

    def event(self, event: Event) -> None:
        """Learn from an end what the engine counted."""
        if isinstance(event, Ended):
            kept = self._kept.pop(event.name, None)
            usage = event.usage
            if kept is not None and usage is not None and usage.prompt_tokens is not None:
                model, text_units, besides = kept
                self.lengths.learn(model, text_units, usage.prompt_tokens - besides)
        elif isinstance(event, Refusal):
            self._kept.pop(event.name, None)

    def _keep(self, name: str, body: Body) -> None:
        """Keep how long a text is, not what it says."""
        texts = [each for each in body.prompts if isinstance(each, str)]
        given = sum(len(each) for each in body.prompts if not isinstance(each, str))
        if texts:
            self._kept[name] = (body.model, sum(map(units, texts)), given + body.more_tokens)
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
