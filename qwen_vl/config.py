"""Flags and QWEN_VL_* environment variables -> one frozen `Settings` value, checked once.

Every field of `Settings` is a flag (`max_frames` is `--max-frames`) and an environment variable
(`QWEN_VL_MAX_FRAMES`); a flag wins over the environment. Nothing below this module reads either.
`python -m qwen_vl.config` prints all of them as the page `docs/flags.md`.
"""

from __future__ import annotations

import argparse
import ipaddress
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from qwen_vl.models import listing
from qwen_vl.start_cache import StartCache, folder_of

DEFAULT_MODEL = "Qwen/Qwen3-VL-2B-Instruct"
BUNDLED_MODEL = "bundled"
BUNDLED_MODEL_ID = "qwen3-vl-tiny-demo"

# Limits for untrusted input. All are flags too: see docs/flags.md.
MAX_IMAGE_MB = 10.0
MAX_VIDEO_MB = 100.0
MAX_DOCUMENT_MB = 50.0
MAX_DOCUMENT_PAGES = 8
MAX_UPLOAD_MB = 2000.0
MAX_IMAGE_MEGAPIXELS = 64.0
MAX_IMAGES = 32
MAX_FRAMES = 32
MAX_VIDEO_SECONDS = 3600
MAX_MESSAGES = 100
MAX_PROMPT_CHARS = 200_000  # the context is full long before, except for blanks and the like
MAX_NEW_TOKENS = 4096
MAX_THOUGHT_TOKENS = 2048
MAX_CONTEXT_TOKENS = 32_768
MAX_BATCH = 8
MAX_QUEUE = 16
MAX_SECONDS = 120.0
MAX_JOBS = 1000
MAX_DECODE_SECONDS = 10.0
MAX_EXTRACT_SECONDS = 60.0

# Visual tokens of one picture: the range that the Qwen3-VL processors are made for.
MIN_IMAGE_TOKENS = 4
USUAL_IMAGE_TOKENS = 1280
MOST_IMAGE_TOKENS = 16_384
MAX_IMAGE_TOKENS = 4096

ENV_PREFIX = "QWEN_VL_"
SPACE_STORAGE = Path("/data")  # is there when a Space has persistent storage


def _option(default: Any, text: str, **more: Any) -> Any:
    """A dataclass field that is also a flag; `more` goes to argparse (choices, metavar)."""
    return field(default=default, metadata={"help": text, **more})


def number_or_auto(text: str) -> int | str:
    """The type of a flag that takes both. Raises ValueError."""
    return text if text == "auto" else int(text)


def _secret(default: Any, text: str, **more: Any) -> Any:
    """The same for what no `repr`, and so no log, may hold."""
    return field(default=default, repr=False, metadata={"help": text, **more})


@dataclass(frozen=True)
class Settings:
    """Everything that can be chosen at start-up. Raises ValueError when a value makes no sense."""

    model: str | None = _option(
        None,
        f"model id, local folder, or '{BUNDLED_MODEL}'; without it {DEFAULT_MODEL}, or the bundled "
        "demo model when that is neither cached nor reachable",
        metavar="ID_OR_PATH",
    )
    engine: str = _option(
        "local",
        "where the model runs: in this process, on servers at --base-url, as replicas of this "
        "engine on a Ray cluster (needs examples/requirements-ray.txt), or on a ZeroGPU Space's "
        "GPUs, which is the default there",
        choices=("local", "remote", "ray", "zero"),
    )
    base_url: tuple[str, ...] = _secret(
        (),
        "an OpenAI-compatible server for --engine remote, such as http://gpu-box:8000/v1; may be "
        "given several times; USER:PASSWORD@ in it is sent in place of --remote-key",
        metavar="URL",
    )
    remote_model: str = _option(
        "", "the model's name on those servers; the first that they list if left out", metavar="ID"
    )
    remote_key: str = _secret("", "the API key of those servers", metavar="KEY")
    second_url: tuple[str, ...] = _secret(
        (),
        "a server of a second model, which the page sets side by side with the first; --remote-key "
        "is sent there, too, unless USER:PASSWORD@ is in it; may be given several times",
        metavar="URL",
    )
    second_model: str = _option(
        "",
        "the second model's name there, or on the servers at --base-url if there is no "
        "--second-url",
        metavar="ID",
    )
    ray_address: str = _option(
        "",
        "the cluster for --engine ray: 'auto' for the one that this machine belongs to; without it "
        "one is started here",
        metavar="ADDRESS",
    )
    ray_model: tuple[str, ...] = _option(
        (),
        "one more model for --engine ray, with replicas of its own, which requests choose by their "
        "'model'; ID=GPUS where each of its replicas needs another number of GPUs than "
        "--replica-gpus; may be given several times",
        metavar="ID",
    )
    replicas: int = _option(2, "replicas of each model on the cluster, at first and at least")
    most_replicas: int = _option(0, "replicas under load; 0 starts no more than --replicas")
    replica_cpus: float = _option(1.0, "CPUs of each replica")
    replica_gpus: float = _option(0.0, "GPUs of each replica")
    affinity: bool = _option(
        True, "send all turns of a conversation to the replica that has read it already"
    )
    hub: str = _option(
        "huggingface", "where models are downloaded from", choices=("huggingface", "modelscope")
    )
    dtype: str = _option(
        "auto",
        "precision of the weights; 'auto' measures what is fastest on a CPU",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    quantize: str = _option(
        "auto",
        "weights in fewer bits: int8 or int4 on a CPU ('auto' takes int8 where that is measured to "
        "be faster), 4bit on a GPU (needs bitsandbytes)",
        choices=("auto", "none", "int8", "int4", "4bit"),
    )
    quantized_cache: bool = _option(
        True,
        "keep int8 and int4 weights, and what was measured on this CPU, for the next start; "
        "--clear-quantized-cache deletes them, and exits",
    )
    cache_folder: str = _option(
        "", "where to keep them; without it the folder qwen_vl in HF_HOME", metavar="FOLDER"
    )
    draft: str = _option(
        "auto",
        "guess the next tokens from what stands in the prompt and the answer, and check several in "
        "one pass: the answer stays the same; 'auto' does so while it pays",
        choices=("auto", "off"),
    )
    device: str = _option(
        "auto", "'auto' spreads the model over what is there; or cpu, cuda, mps", metavar="NAME"
    )
    threads: int = _option(0, "CPU threads for the model; 0 uses every core it may run on")
    host: str = _option("127.0.0.1", "address to listen on; 0.0.0.0 for all", metavar="ADDRESS")
    port: int = _option(7860, "port of the page and the API; 0 picks a free one")
    allowed_host: tuple[str, ...] = _option(
        (),
        "a name under which this server is called, such as demo.example.com or *.example.com, "
        "besides this machine's own, all addresses and the share link; may be given several times",
        metavar="NAME",
    )
    trusted_proxy: tuple[str, ...] = _option(
        (),
        "address or network of a proxy whose X-Forwarded-* headers are believed, also 127.0.0.1; "
        "may be given several times ('*': nothing but proxies can reach this server)",
        metavar="ADDRESS",
    )
    cors_origin: tuple[str, ...] = _option(
        (),
        "a site, such as https://chat.example.com, whose web pages may use the API; may be given "
        "several times ('*': all sites)",
        metavar="ORIGIN",
    )
    root_path: str = _option(
        "",
        "the path under which a reverse proxy shows this server, such as /demo; the proxy takes it "
        "off before it passes a request on",
        metavar="PATH",
    )
    api: str = _option(
        "auto",
        "the HTTP API beside the page; 'auto' is off on a public address (--share, --auth, or a "
        "--host that is not this machine) unless there is an --api-key",
        choices=("auto", "on", "off"),
    )
    api_key: tuple[str, ...] = _secret(
        (), "a key that API calls must send; may be given several times", metavar="KEY"
    )
    auth: str = _secret("", "name and password that the page asks for", metavar="USER:PASSWORD")
    rate_limit: int = _option(
        0, "API requests a minute from one address; 0 is without a limit", metavar="N"
    )
    allow_image_urls: bool = _option(
        False, "fetch pictures from http(s) addresses in API requests, from public servers only"
    )
    mcp: bool = _option(
        False, "offer the tools 'ask' and 'keyframes' to agents, at /mcp (Model Context Protocol)"
    )
    job_file: str = _option(
        ":memory:",
        "SQLite file that keeps the results of asynchronous jobs; only its owner can read it",
        metavar="FILE",
    )
    job_keep_hours: float = _option(24.0, "hours after which a job's result is forgotten")
    max_jobs: int = _option(
        MAX_JOBS,
        "asynchronous jobs that are kept, finished ones included; unfinished ones of one --api-key "
        "take at most half of the places that other keys leave",
    )
    shutdown_seconds: float = _option(
        30.0, "seconds for running answers to finish when the server stops"
    )
    share: bool = _option(False, "also open a public gradio.live link")
    system_prompt: str = _option("", "system prompt that new chats start with", metavar="TEXT")
    image_tokens: int | Literal["auto"] = _option(
        "auto",
        "most visual tokens per picture, unless a chat or request sets its own (32x32 px each for "
        f"Qwen3-VL); 'auto' is {USUAL_IMAGE_TOKENS}, or on a CPU as many as it was measured to "
        "read in 10 seconds",
        type=number_or_auto,
    )
    max_image_tokens: int = _option(
        MAX_IMAGE_TOKENS,
        "visual tokens per picture that a chat or request may set; the vision encoder's time grows "
        f"with the square (up to {MOST_IMAGE_TOKENS})",
    )
    max_image_mb: float = _option(MAX_IMAGE_MB, "largest picture file, in MB")
    max_video_mb: float = _option(MAX_VIDEO_MB, "largest clip, in MB")
    max_document_mb: float = _option(MAX_DOCUMENT_MB, "largest document (PDF), in MB, up to 256")
    max_document_pages: int = _option(
        MAX_DOCUMENT_PAGES, "pages of a document that become pictures at once"
    )
    max_upload_mb: float = _option(
        MAX_UPLOAD_MB, "space for all visitors' uploads, in MB; the oldest are deleted first"
    )
    upload_folder: str = _option(
        "",
        "folder that keeps visitors' uploads beyond a restart, for a week at most, so that the "
        "pictures in their chats come back; without one they go when the server ends",
        metavar="FOLDER",
    )
    max_image_megapixels: float = _option(
        MAX_IMAGE_MEGAPIXELS, "largest picture, in million pixels, before it is scaled down"
    )
    max_decode_seconds: float = _option(
        MAX_DECODE_SECONDS, "CPU seconds that decoding one picture may take"
    )
    max_extract_seconds: float = _option(
        MAX_EXTRACT_SECONDS, "CPU seconds that reading one clip or document may take"
    )
    max_images: int = _option(MAX_IMAGES, "pictures and frames in one conversation")
    max_frames: int = _option(MAX_FRAMES, "keyframes taken from one clip")
    max_video_seconds: int = _option(MAX_VIDEO_SECONDS, "longest clip, in seconds")
    max_messages: int = _option(MAX_MESSAGES, "messages in one conversation")
    max_prompt_chars: int = _option(MAX_PROMPT_CHARS, "characters in all texts of a conversation")
    max_new_tokens: int = _option(MAX_NEW_TOKENS, "tokens in one answer, its thought included")
    max_thought_tokens: int = _option(
        MAX_THOUGHT_TOKENS, "tokens of the thought before an answer; then it is told to answer"
    )
    max_context_tokens: int = _option(MAX_CONTEXT_TOKENS, "tokens of prompt and answer together")
    prefix_cache_mb: int = _option(
        1024, "memory for earlier prompts and answers, so that follow-up questions start at once"
    )
    vision_cache_mb: int = _option(256, "memory for what the vision encoder made of pictures")
    max_batch: int = _option(MAX_BATCH, "largest batch: answers generated at the same time")
    max_queue: int = _option(MAX_QUEUE, "requests that may wait; one more is refused with 429")
    max_seconds: float = _option(
        MAX_SECONDS, "seconds until one answer is ended; its text so far is kept"
    )

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{_flag(name)} must be a number greater than 0")
        if not MIN_IMAGE_TOKENS <= self.max_image_tokens <= MOST_IMAGE_TOKENS:
            raise ValueError(
                f"--max-image-tokens must be between {MIN_IMAGE_TOKENS} and {MOST_IMAGE_TOKENS}"
            )
        own = self.image_tokens
        if own != "auto" and not MIN_IMAGE_TOKENS <= int(own) <= self.max_image_tokens:
            raise ValueError(
                f"--image-tokens must be 'auto', or a number between {MIN_IMAGE_TOKENS} and "
                f"--max-image-tokens ({self.max_image_tokens})"
            )
        if not 0 <= self.port <= 65535:
            raise ValueError("--port must be between 0 and 65535 (0 picks a free one)")
        if self.threads < 0:
            raise ValueError("--threads must be 0 (all cores) or more")
        if self.quantize in ("int8", "int4") and self.dtype not in ("auto", "float32"):
            raise ValueError(
                f"--quantize {self.quantize} computes in float32: leave out --dtype {self.dtype}"
            )
        if self.engine == "zero" and self.quantize not in ("auto", "none"):
            raise ValueError("--quantize does not go with --engine zero: leave it out")
        if self.engine == "zero" and self.device not in ("auto", "cuda"):
            raise ValueError("--device does not go with --engine zero: leave it out")
        if (self.engine == "remote") != bool(self.base_url):
            raise ValueError("--engine remote and --base-url URL go together")
        if self.engine != "remote" and (self.second_url or self.second_model):
            raise ValueError("--second-url and --second-model go with --engine remote")
        if self.engine != "ray" and (changed := _changed(self, _CLUSTER)):
            raise ValueError(f"{_flag(changed[0])} goes with --engine ray")
        for name in ("base_url", "second_url"):
            if not all(_is_address(url) for url in getattr(self, name)):
                raise ValueError(
                    f"{_flag(name)} must begin with http:// or https:// and name a server"
                )
        if self.ray_model:
            models_on_cluster(self)
        if not (self.remote_key.isascii() and self.remote_key.isprintable()):
            raise ValueError("--remote-key must be plain ASCII: no header can carry another one")
        if self.auth and not all(self.auth.partition(":")):
            raise ValueError("--auth must be a name and a password: USER:PASSWORD")
        if any(not key.strip() for key in self.api_key):
            raise ValueError("--api-key must not be empty")
        for key in self.api_key:
            if not (key.isascii() and key.isprintable()) or key != key.strip():
                raise ValueError(
                    "--api-key must be ASCII letters, digits and signs, without blanks around it: "
                    "HTTP headers carry nothing else"
                )
        for name in self.trusted_proxy:
            if name != "*" and not _is_network(name):
                raise ValueError(f"--trusted-proxy {name!r} is no address, no network and not '*'")
        for name in self.allowed_host:
            if not _HOST_NAME.fullmatch(name):
                raise ValueError(
                    f"--allowed-host {name!r} must be a name alone, without http:// and port"
                )
        for name in self.cors_origin:
            if not _ORIGIN.fullmatch(name):
                raise ValueError(
                    f"--cors-origin {name!r} must be a scheme, a host and perhaps a port, without "
                    "a path: https://chat.example.com; or '*' for all pages, files too"
                )
        if self.root_path and not _ROOT_PATH.fullmatch(self.root_path):
            raise ValueError(
                "--root-path must be a path such as /demo: with a slash before it, none after it"
            )
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise ValueError(f"{_flag(name)} must be 0 or more")
        for item in fields(self):
            choices = item.metadata.get("choices")
            if choices and getattr(self, item.name) not in choices:
                raise ValueError(f"{_flag(item.name)} must be one of {', '.join(choices)}")

    def image_tokens_or(self, suggested: int) -> int:
        """What `image_tokens` says; for "auto" what the engine suggests, within the limit."""
        if isinstance(self.image_tokens, int):
            return self.image_tokens
        return min(suggested, self.max_image_tokens)


_CLUSTER = (
    "ray_address",
    "ray_model",
    "replicas",
    "most_replicas",
    "replica_cpus",
    "replica_gpus",
    "affinity",
)

_ORIGIN = re.compile(r"\*|[A-Za-z][A-Za-z0-9+.-]*://[A-Za-z0-9._:\[\]-]+/?")
_HOST_NAME = re.compile(r"\*|(\*\.)?[A-Za-z0-9_.-]+")
_ROOT_PATH = re.compile(r"(/[A-Za-z0-9_.~-]+)+")

_POSITIVE = (
    "max_image_mb",
    "max_video_mb",
    "max_document_mb",
    "max_document_pages",
    "max_upload_mb",
    "max_image_megapixels",
    "max_decode_seconds",
    "max_extract_seconds",
    "max_images",
    "max_frames",
    "max_video_seconds",
    "max_messages",
    "max_prompt_chars",
    "max_new_tokens",
    "max_thought_tokens",
    "max_context_tokens",
    "max_batch",
    "max_seconds",
    "max_jobs",
    "job_keep_hours",
    "replicas",
)


_NOT_NEGATIVE = (
    "max_queue",
    "prefix_cache_mb",
    "vision_cache_mb",
    "rate_limit",
    "shutdown_seconds",
    "most_replicas",
    "replica_cpus",
    "replica_gpus",
)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port or an IPv6 address that is none
        return False


def modelscope_cache(environ: Mapping[str, str] = os.environ) -> Path:
    """Where ModelScope keeps what it has downloaded, by its own rule."""
    chosen = environ.get("MODELSCOPE_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "modelscope"


def cpu_limits(environ: Mapping[str, str] = os.environ) -> list[str]:
    """What keeps libraries from instructions that the CPU has, each as NAME=VALUE."""
    return [f"{name}={environ[name]}" for name in _CPU_LIMITS if name in environ]


_CPU_LIMITS = (
    "ATEN_CPU_CAPABILITY",
    "ONEDNN_MAX_CPU_ISA",
    "DNNL_MAX_CPU_ISA",
    "MKL_ENABLE_INSTRUCTIONS",
)


def _is_network(name: str) -> bool:
    try:
        ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False
    return True


def _defaults(names: Sequence[str]) -> dict[str, Any]:
    return {item.name: item.default for item in fields(Settings) if item.name in names}


def _changed(settings: Settings, names: Sequence[str]) -> list[str]:
    """Which of these fields have another value than their default."""
    defaults = _defaults(names)
    return [name for name in names if getattr(settings, name) != defaults[name]]


def for_second_model(settings: Settings) -> Settings | None:
    """The settings of an engine for the model that stands beside the first; None for none."""
    if not (settings.second_url or settings.second_model):
        return None
    return replace(
        settings,
        base_url=settings.second_url or settings.base_url,
        remote_model=settings.second_model,
        second_url=(),
        second_model="",
    )


def models_on_cluster(settings: Settings) -> tuple[Settings, ...]:
    """The settings of each model on the cluster; that of --model comes first.

    Raises ValueError on a number of GPUs that is none.
    """
    found = [replace(settings, ray_model=())]
    for told in settings.ray_model:
        name, equals, gpus = told.partition("=")
        try:
            needed = float(gpus) if equals else settings.replica_gpus
        except ValueError:
            raise ValueError(f"--ray-model {told!r} must be ID, or ID=GPUS") from None
        if not name:
            raise ValueError(f"--ray-model {told!r} names no model")
        found.append(replace(settings, model=name, ray_model=(), replica_gpus=needed))
    names = [one.model or DEFAULT_MODEL for one in found]
    if len(set(names)) < len(names):
        raise ValueError("--ray-model names a model twice, or that of --model: once is enough")
    return tuple(found)


def for_one_replica(settings: Settings) -> Settings:
    """The settings of one engine on the cluster: the model runs in its process."""
    threads = settings.threads or max(1, int(settings.replica_cpus))
    return replace(settings, engine="local", threads=threads, **_defaults(_CLUSTER))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _type_of(name: str) -> Any:
    """What makes a value of its text."""
    item = next(item for item in fields(Settings) if item.name == name)
    kind = str if item.default is None else type(item.default)
    return item.metadata.get("type", kind)


def flag_rows() -> list[tuple[str, str, str, str]]:
    """(flag, environment variable, default, help) of every setting, in the order of `--help`."""
    return [
        (
            _flag(item.name),
            ENV_PREFIX + item.name.upper(),
            "" if item.default in (None, "", ()) else str(item.default),
            item.metadata["help"]
            + (f" ({', '.join(item.metadata['choices'])})" if "choices" in item.metadata else ""),
        )
        for item in fields(Settings)
    ]


_FLAGS_PAGE = """\
# Flags

Each flag is also an environment variable, and a flag wins over its variable. `--help` prints the
same. In the environment, commas separate the values of a flag that may be given several times. A
switch is turned off by `--no-...`, or by the value 0.

The `--max-...` flags limit what untrusted input may take. Over a limit, a request is refused with
413 (too large) or with 429 and `Retry-After` (queue full), or it ends with what there is by then
(time).

This page is written by `python -m qwen_vl.config > docs/flags.md`.
"""


def flags_page() -> str:
    """All settings as a Markdown page: flag, environment variable, default, help."""
    lines = [_FLAGS_PAGE]
    lines += ["| Flag | Environment variable | Default | Meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{flag}` | `{env}` | {default} | {text} |" for flag, env, default, text in flag_rows()
    ]
    return "\n".join(lines)


class _ListModels(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        print(listing())
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Chat with a Qwen vision-language model about pictures and clips.",
        epilog=f"Every flag is also an environment variable: {ENV_PREFIX}MAX_FRAMES and so on.",
    )
    parser.add_argument(
        "--list-models",
        action=_ListModels,
        nargs=0,
        default=argparse.SUPPRESS,
        help="show which models suit which machines, and exit",
    )
    parser.add_argument(
        "--clear-quantized-cache",
        action="store_true",
        help="delete what --quantized-cache has kept, and exit",
    )
    for item in fields(Settings):
        options = dict(item.metadata)
        text = options.pop("help")
        if isinstance(item.default, bool):
            parser.add_argument(
                _flag(item.name),
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=text,
            )
            continue
        shown = "" if item.default in (None, "", ()) else f" (default: {item.default})"
        if "choices" not in options:
            options.setdefault("metavar", "N")
        if isinstance(item.default, tuple):
            options["action"] = "append"
        parser.add_argument(
            _flag(item.name),
            default=argparse.SUPPRESS,
            help=text.replace("%", "%%") + shown,
            **{"type": str if isinstance(item.default, tuple) else _type_of(item.name), **options},
        )
    return parser


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if environ.get("SPACE_ID"):  # a Hugging Face Space reaches the app from outside its container
        found["host"] = "0.0.0.0"
        found["trusted_proxy"] = ("*",)  # nothing but the Space's own proxy gets there
        own = environ.get("SPACE_HOST", "").strip()
        found["allowed_host"] = ("*.hf.space", *([own] if own else []))
        if environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true"):  # as `spaces` reads it
            found["engine"] = "zero"
        if SPACE_STORAGE.is_dir() and os.access(SPACE_STORAGE, os.W_OK):
            found["job_file"] = str(SPACE_STORAGE / "jobs.sqlite")
            found["cache_folder"] = str(SPACE_STORAGE / "qwen_vl")
            found["upload_folder"] = str(SPACE_STORAGE / "uploads")
        else:
            found["quantized_cache"] = False  # its disk does not outlive this start
    for item in fields(Settings):
        raw = environ.get(ENV_PREFIX + item.name.upper(), "").strip()
        if not raw:
            continue
        kind = _type_of(item.name)
        try:
            if kind is tuple:  # several, with commas between them
                found[item.name] = tuple(part.strip() for part in raw.split(","))
            else:
                found[item.name] = _bool(raw) if kind is bool else kind(raw)
        except ValueError:
            raise ValueError(
                f"{ENV_PREFIX}{item.name.upper()}={raw!r} is not a valid {kind.__name__}"
            ) from None
    return found


def _bool(raw: str) -> bool:
    if raw.lower() in ("1", "true", "yes", "on"):
        return True
    if raw.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError(raw)


def load_settings(
    argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> Settings:
    """Reads flags (default: sys.argv) over the environment (default: os.environ).

    A value that makes no sense ends the program with a usage message and exit status 2.
    """
    parser = _parser()
    given = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(parser.parse_args(argv)).items()
    }
    clear = given.pop("clear_quantized_cache")
    try:
        settings = Settings(
            **{**_from_environment(os.environ if environ is None else environ), **given}
        )
    except ValueError as error:
        parser.error(str(error))
    if clear:
        print(StartCache(folder_of(settings.cache_folder)).clear())
        parser.exit()
    return settings


def keep_uploads_in(folder: Path) -> None:
    """Tells Gradio where uploads go. It looks at this variable alone, whenever it needs to know."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)


def start_ray_when_told_only() -> None:
    """Without this, a status check that is still running at the end would start another Ray."""
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")


if __name__ == "__main__":
    print(flags_page())
