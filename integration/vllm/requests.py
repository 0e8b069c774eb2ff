"""Requests as the books and the forecasts know them."""

from __future__ import annotations

from brsolver.cluster._state_kernels import NONE


class Request:
    """One request that an engine has, or that is held for one.

    Attributes
    ----------
    name : str
        vLLM's own, internal id.
    identity : int
        Row of the columns that forecasts look at.
    prompt_tokens, generated, max_tokens : int
    cached_tokens : int
        Prompt tokens whose KV another request had left behind, as its engine says.
    expected_tokens : int
        The same, as the books expected when it was sent.
    blocks : tuple of int
        Hashes of its prompt's blocks, if anybody asks for them.
    arrival_s : float
        On vLLM's clock.
    rank, handle : int
        Where it runs, and the state's handle; `NONE` while it is held, or queued at its rank.
    ended : bool
        Whether its engine said that it came to its own end.
    has_stop_texts : bool
        Whether the front end looks for texts that end it, and cancels it at the engine then.
    sent : bool
        Whether vLLM has sent it; a further message is a chunk of streamed input.
    prompt_hash : int
        The same for equal prompts, if anybody asks for it.
    model, session : str
        Names of the adapter and of the conversation; empty for none.
    unseen : int
        Its prompt tokens, while it is charged and its engine's own figures may lack it.
    owed : int
        Tokens of its prompt that its rank has yet to compute.
    spent_s : float
        Time that routing it has taken so far.
    """

    __slots__ = (
        "arrival_s",
        "blocks",
        "cached_tokens",
        "ended",
        "expected_tokens",
        "generated",
        "handle",
        "has_stop_texts",
        "identity",
        "max_tokens",
        "model",
        "name",
        "owed",
        "prompt_hash",
        "prompt_tokens",
        "rank",
        "sent",
        "session",
        "spent_s",
        "unseen",
    )

    def __init__(self, name: str, prompt_tokens: int, max_tokens: int, arrival_s: float) -> None:
        self.name = name
        self.prompt_tokens = max(1, prompt_tokens)
        self.max_tokens = max_tokens
        self.arrival_s = arrival_s
        self.generated = 0
        self.cached_tokens = 0
        self.expected_tokens = 0
        self.blocks: tuple[int, ...] = ()
        self.identity = NONE
        self.rank = NONE
        self.handle = NONE
        self.ended = False
        self.has_stop_texts = False
        self.sent = False
        self.prompt_hash = 0
        self.model = ""
        self.session = ""
        self.unseen = 0
        self.owed = 0
        self.spent_s = 0.0

    def place(self, rank: int = NONE) -> None:
        """Forget where it ran: it is at no rank, or queued at this one."""
        self.rank, self.handle, self.unseen = rank, NONE, 0
