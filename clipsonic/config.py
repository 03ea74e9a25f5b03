"""Configuration: frozen dataclasses that go to JSON and back. No torch here."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, get_type_hints

from clipsonic.errors import ConfigError, SettingsError
from clipsonic.methods import METHODS

SAMPLERS = ("dpmpp-2m", "dpmpp-2m-sde", "unipc", "lms", "dpm2", "ddim", "ddpm")
MAX_PROMPT_LENGTH = 500
MAX_STEPS = 1000
MAX_SHOWN = 80
"""Characters of a wrong value that a message quotes."""
MAX_AUDIOS = 16
MAX_CANDIDATES = 8
MAX_DURATION_S = 60.0
MIN_DURATION_S = 0.25
MIN_STRENGTH = 0.05


@dataclass(frozen=True, kw_only=True)
class Config:
    """A part's settings; subclasses only declare fields."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from plain JSON values.

        Raises:
            ConfigError: A key is unknown or missing, or a value has the wrong type.
        """
        fields = {f.name: f for f in dataclasses.fields(cls)}
        if unknown := sorted(set(values) - set(fields)):
            raise ConfigError(f"{cls.__name__} has no setting {', '.join(unknown)}; allowed: {', '.join(fields)}")
        required = {n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING}
        if missing := sorted(required - set(values)):
            raise ConfigError(f"{cls.__name__} lacks {', '.join(missing)}; add it to the file")
        hints = get_type_hints(cls)
        return cls(**{name: _from_json(hints[name], value, f"{cls.__name__}.{name}") for name, value in values.items()})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a JSON file.

        Raises:
            ConfigError: The file is missing or is not JSON of this configuration.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot read {path}: {error}; expected a JSON file") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds {type(values).__name__}, expected a JSON object")
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `from_dict` takes back."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Return the settings as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


def _from_json(hint: Any, value: Any, where: str) -> Any:
    """Turn a JSON value into what the field's type asks for, or say why not."""
    if isinstance(hint, type) and issubclass(hint, Config):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is {value!r}, expected an object")
        return hint.from_dict(value)
    if getattr(hint, "__origin__", None) is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {value!r}, expected a list")
        return tuple(_from_json(hint.__args__[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and (not isinstance(value, hint) or (hint is int and isinstance(value, bool))):
        raise ConfigError(f"{where} is {value!r}, expected {hint.__name__}")
    return value


@dataclass(frozen=True, kw_only=True)
class MelConfig(Config):
    """The mel-spectrogram every part agrees on: BigVGAN-v2 `22khz_80band_fmax8k_256x`."""

    sample_rate: int = 22050
    n_fft: int = 1024
    hop_length: int = 256
    n_mels: int = 80
    fmin: float = 0.0
    fmax: float = 8000.0
    floor: float = 1e-5
    """Magnitudes are clamped here before the natural logarithm."""

    def frames(self, duration_s: float) -> int:
        """Return the number of mel frames that `duration_s` seconds span, rounded to the nearest."""
        return round(duration_s * self.sample_rate / self.hop_length)

    def duration_s(self, frames: int) -> float:
        """Return the seconds that `frames` mel frames span."""
        return frames * self.hop_length / self.sample_rate

    @property
    def log_floor(self) -> float:
        """The natural logarithm of `floor`: the value of silence in a log-mel."""
        return math.log(self.floor)


NETWORKS = ("unet", "transformer", "convnext")


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig(Config):
    """The diffusion network over folded log-mels."""

    embedding_dim: int
    network: str = "unet"
    """"unet", or of one level, with `layers_per_block` blocks of `channels[0]` channels: "transformer", "convnext"."""
    n_mels: int = 80
    frames: int = 352
    fold: tuple[int, ...] = (4, 8)
    """Mel bands × frames that one position of the network sees."""
    channels: tuple[int, ...] = (128, 256, 352)
    layers_per_block: int = 1
    attention: tuple[bool, ...] = (False, False, True)
    norm_groups: int = 32
    head_dim: int = 32
    mel_mean: float = -5.2
    mel_std: float = 2.2
    mel_floor: float = -9.0
    """Natural log; what lies below is inaudible and is drawn as this value while denoising."""
    embedding_widths: tuple[int, ...] = ()
    """Of the hidden layers that read the embedding; without any it is one, as wide as the time embedding."""
    frame_attention: bool = False
    """Whether the frames of a video are weighted by how much they have to say, rather than averaged."""
    below_timestep: int = 1000
    """A refiner takes over from the denoiser at the time steps below this one; 1000 is all of them."""

    def __post_init__(self) -> None:
        """Check the network.

        Raises:
            ConfigError: There is no such network, or its sizes do not fit.
        """
        if self.network not in NETWORKS:
            raise ConfigError(f"network is {self.network!r}; allowed: {', '.join(NETWORKS)}")
        if self.network != "unet" and len(self.channels) != 1:
            raise ConfigError(f"channels is {self.channels}; a {self.network} has one width")
        if self.network == "transformer" and self.channels[0] % self.head_dim:
            raise ConfigError(
                f"channels is {self.channels}; a transformer's width is a multiple of head_dim {self.head_dim}"
            )
        if any(width < 1 for width in self.embedding_widths):
            raise ConfigError(f"embedding_widths is {self.embedding_widths}; allowed: whole numbers from 1")
        if not 0 < self.below_timestep <= 1000:
            raise ConfigError(f"below_timestep is {self.below_timestep}; allowed: 1 to 1000")

    @property
    def frame_multiple(self) -> int:
        """What lengths must be a multiple of: the frames of one position at the network's lowest level."""
        return self.fold[1] * 2 ** (len(self.channels) - 1)


@dataclass(frozen=True, kw_only=True)
class ClipConfig(Config):
    """CLIP: a model that lies in the same folder, or the names open_clip knows one under."""

    embedding_dim: int
    open_clip: str = ""
    """Such as "ViT-L-14"; empty if the model lies in the folder."""
    pretrained: str = ""
    """Such as "openai"."""
    clap: str = ""
    """A CLAP model's hub id or folder, such as "laion/clap-htsat-unfused": then texts alone are embedded, by CLAP."""


@dataclass(frozen=True, kw_only=True)
class PriorConfig(Config):
    """The diffusion prior: diffusers' `PriorTransformer` from text to image embeddings."""

    embedding_dim: int
    num_layers: int = 6
    num_attention_heads: int = 8
    attention_head_dim: int = 64
    dropout: float = 0.0
    normalized: bool = True
    """Whether the prior's space holds L2-normalised embeddings (see facts: LAION's does, Karlo's does not)."""
    scale: float = 1.0
    """Embeddings are multiplied by this inside the prior, so that a coordinate has about unit variance."""
    names: tuple[str, ...] = ()
    """What texts are looked up among before anything is drawn; without names the network is told texts as they are."""
    temperature: float = 0.07
    """Cosines to the names are divided by this before the softmax: the smaller, the fewer names make up an answer."""


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(Config):
    """The picture memory, which texts and pictures are projected onto."""

    embedding_dim: int
    size: int
    """Pictures remembered, or means of some."""
    temperature: float = 0.02
    """Cosines are divided by this before the softmax: the smaller, the fewer pictures make up a projection."""


@dataclass(frozen=True, kw_only=True)
class VocoderConfig(Config):
    """The light vocoder: a Vocos-style ConvNeXt backbone with an inverse-STFT head."""

    mel: MelConfig = field(default_factory=MelConfig)
    dim: int = 256
    intermediate_dim: int = 768
    num_layers: int = 6
    refinements: int = 16
    """Projections after the network that make overlapping frames fit together and keep to the mel."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """How any part is trained; what is trained stands in `model` and `task`."""

    batch_size: int
    max_steps: int
    learning_rate: float
    schedule: str = "cosine"
    warmup_steps: int = 200
    betas: tuple[float, ...] = (0.9, 0.99)
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    gradient_accumulation: int = 1
    mixed_precision: str = "bf16"
    ema_decay: float = 0.999
    seed: int = 0
    log_every: int = 50
    save_every_s: float = 300.0
    sample_every: int = 0
    """Steps between samples to listen to and look at (denoiser); none if 0."""


@dataclass(frozen=True, kw_only=True)
class GenerationSettings(Config):
    """What one request may set; the app, the command line and Python take these names and defaults.

    Raises:
        SettingsError: On construction, for a value outside its range.
    """

    methods: tuple[str, ...] = ("iq", "zs", "pd", "aq")
    """Pictures and videos are rendered by iq and mq, sounds by aq, prompts by those of the others that are named."""
    sampler: str = "dpmpp-2m"
    num_inference_steps: int = 25
    guidance_scale: float = 3.0
    negative_prompt: str = ""
    prior_num_inference_steps: int = 25
    prior_guidance_scale: float = 4.0
    template: str = "a photo of {}"
    num_audios: int = 1
    """Variations of each query; variation k uses seed + k."""
    candidates: int = 1
    """So many sounds are made for each one kept; the one of best Clip-Score stays."""
    duration_s: float = 0.0
    """Length of the sounds in seconds; 0 is the model's own, and for a video the video's."""
    morph: float = 0.5
    """How far the query goes towards `toward`: 0 is the query alone, 1 is `toward` alone."""
    strength: float = 1.0
    """How much of a query sound is made anew: 1 is a new sound from noise alone; with less the sound's own course in
    time is kept. Prompts, pictures and videos take no notice of it."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        listed = isinstance(self.methods, tuple | list) and len(self.methods) > 0
        _check(listed, "methods", self.methods, f"at least one of {', '.join(METHODS)}")
        for method in self.methods:
            _check(method in METHODS, "method", method, f"one of {', '.join(METHODS)}")
        _check(len(set(self.methods)) == len(self.methods), "methods", self.methods, "each method once")
        _check(self.sampler in SAMPLERS, "sampler", self.sampler, f"one of {', '.join(SAMPLERS)}")
        _check_int("num_inference_steps", self.num_inference_steps, 1, MAX_STEPS)
        _check_int("prior_num_inference_steps", self.prior_num_inference_steps, 1, MAX_STEPS)
        _check_int("num_audios", self.num_audios, 1, MAX_AUDIOS)
        _check_int("candidates", self.candidates, 1, MAX_CANDIDATES)
        _check_number("morph", self.morph, 0.0, 1.0)
        _check_number("strength", self.strength, MIN_STRENGTH, 1.0)
        if self.duration_s != 0:
            _check_number(
                "duration_s", self.duration_s, MIN_DURATION_S, MAX_DURATION_S, "0 (the model's own length) or "
            )
        _check_int("seed", self.seed, 0, 2**32 - self.num_audios)
        _check_number("guidance_scale", self.guidance_scale, 0.0, 30.0)
        _check_number("prior_guidance_scale", self.prior_guidance_scale, 0.0, 30.0)
        _check(
            is_text(self.template)
            and self.template.count("{}") == 1
            and self.template.count("{") == 1
            and self.template.count("}") == 1
            and len(self.template) <= MAX_PROMPT_LENGTH,
            "template",
            self.template,
            "a text with {} exactly once where the prompt goes, such as 'a photo of {}'",
        )
        _check(
            is_text(self.negative_prompt) and len(self.negative_prompt) <= MAX_PROMPT_LENGTH,
            "negative_prompt",
            self.negative_prompt,
            f"a text of at most {MAX_PROMPT_LENGTH} characters",
        )


def is_text(value: object) -> bool:
    """Return whether a value is text that can be written as UTF-8: half a surrogate pair cannot."""
    try:
        return isinstance(value, str) and value.encode("utf-8") is not None
    except UnicodeEncodeError:
        return False


def _check(ok: bool, name: str, value: object, allowed: str) -> None:
    if not ok:
        shown = repr(value)
        shown = shown if len(shown) <= MAX_SHOWN else f"{shown[:MAX_SHOWN]}…"
        raise SettingsError(f"{name} is {shown}; allowed: {allowed}")


def _check_int(name: str, value: object, low: int, high: int) -> None:
    ok = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
    _check(ok, name, value, f"a whole number from {low} to {high}")


def _check_number(name: str, value: object, low: float, high: float, also: str = "") -> None:
    number = float("nan") if isinstance(value, bool) or not isinstance(value, int | float) else value
    _check(low <= number <= high, name, value, f"{also}a number from {low:g} to {high:g}")
