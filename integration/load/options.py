"""The options of ``brsolver load`` as Typer annotations, by the parameter that they set."""

from __future__ import annotations

from typing import Annotated

import typer

TARGET, PACE, CONTENT, OUTPUT = "Endpoint", "When requests are sent", "What they hold", "Output"
KEY_VARIABLE = "OPENAI_API_KEY"

TargetOption = Annotated[
    str,
    typer.Option(metavar="URL", rich_help_panel=TARGET, help="OpenAI endpoint, http://HOST:PORT."),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", rich_help_panel=TARGET, help="Model. (default: asked from /v1/models)"
    ),
]
ChatOption = Annotated[
    bool,
    typer.Option(
        "--chat",
        rich_help_panel=TARGET,
        help="Ask /v1/chat/completions; prompts are text then.",
    ),
]
ApiKeyEnvOption = Annotated[
    str,
    typer.Option(
        metavar="VARIABLE",
        rich_help_panel=TARGET,
        help="Environment variable that has the API key, if there is one.",
    ),
]
HeaderOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE",
        rich_help_panel=TARGET,
        help="Header of every request. Repeatable.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(metavar="S", rich_help_panel=TARGET, help="Seconds that one request may take."),
]
MaxConnectionsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=TARGET,
        help="Requests on their way at most; the waiting of others counts. (default: unlimited)",
    ),
]
CaFileOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=TARGET,
        help="Certificates (PEM) to trust. (default: the system's)",
    ),
]
InsecureOption = Annotated[
    bool,
    typer.Option("--insecure", rich_help_panel=TARGET, help="Trust any certificate."),
]
RateOption = Annotated[
    float | None,
    typer.Option(
        metavar="R",
        rich_help_panel=PACE,
        help="Poisson arrivals, requests per second. (default: the trace's own times)",
    ),
]
ConcurrencyOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=PACE,
        help="A closed loop of N clients, each with a request in flight at all times.",
    ),
]
SpeedOption = Annotated[
    float,
    typer.Option(
        metavar="X", rich_help_panel=PACE, help="How much faster than the trace's own times."
    ),
]
RequestsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N", rich_help_panel=PACE, help="Send the first N requests. (default: all)"
    ),
]
WarmUpOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        rich_help_panel=PACE,
        help="Requests sent before, one after another, which do not count.",
    ),
]
PromptsOption = Annotated[
    str | None,
    typer.Option(
        metavar="ids|text",
        rich_help_panel=CONTENT,
        help="Token numbers, or words. (default: ids; text with --chat or --tokenizer)",
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=CONTENT,
        help="The model's tokenizer.json, for words that are exactly one token each.",
    ),
]
BlockOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        rich_help_panel=CONTENT,
        help="Tokens of a block of the trace's hash_ids. (default: found out)",
    ),
]
IgnoreEosOption = Annotated[
    bool,
    typer.Option(
        rich_help_panel=CONTENT,
        help="Ask for exactly as many tokens as the trace has (ignore_eos, min_tokens), or at "
        "most as many.",
    ),
]
DropOversizedOption = Annotated[
    bool,
    typer.Option(
        "--drop-oversized",
        rich_help_panel=CONTENT,
        help="Leave out requests longer than the model's context.",
    ),
]
BodyOption = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        rich_help_panel=CONTENT,
        help="Further fields of every request: '{\"top_p\": 0.9}'.",
    ),
]
SloTtftOption = Annotated[
    float | None,
    typer.Option(
        "--slo-ttft",
        "--slo-ttft-ms",
        metavar="MS",
        rich_help_panel=OUTPUT,
        help="Longest time to first token of a good request, in milliseconds.",
    ),
]
SloTpotOption = Annotated[
    float | None,
    typer.Option(
        "--slo-tpot",
        "--slo-tpot-ms",
        metavar="MS",
        rich_help_panel=OUTPUT,
        help="Longest time per token after the first of a good request, in milliseconds.",
    ),
]
OutOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=OUTPUT,
        help="Also write what came as a trace: .csv, .jsonl or .parquet.",
    ),
]
VllmJsonOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=OUTPUT,
        help="Also write it as vllm bench serve --save-detailed does.",
    ),
]
