"""What the page says."""

from __future__ import annotations

TITLE = "CLIPSonic: sounds from words and pictures"

INTRO = """
# CLIPSonic
Sounds from words and pictures, learnt without a single text–sound pair: only by watching videos.
"""

EXPLANATION = """
The model has watched videos and learnt which sound goes with which **picture**; nobody ever told it in words.
CLIP, a network that knows both pictures and words, turns either into a point in one common space, where a photo of a
dog and the words "a dog" come to lie near each other. That is what lets you ask in words:

* **Picture query (IQ)**: your picture goes in just as the frames of the videos did; the model was trained for this.
* **Zero-shot (ZS)**: the point of your *words* goes in, as if it were a picture's.
* **Diffusion prior (PD)**: a second network first imagines the point of a picture that your words could describe, and
  that one goes in.

Near is not the same: in CLIP's space all words lie a little apart from all pictures. Because of this **modality gap**
zero-shot sounds tend to be vaguer or off the mark, and the prior, which leaps over the gap, tends to come closer to
what you meant. Both sounds of a pair start from the same noise: whatever differs between them is due to the query.

The picture of a sound, its *spectrogram*, shows time from left to right and pitch from bottom to top; bright is loud.

*Paper: Dong et al., [CLIPSonic: Text-to-Audio Synthesis with Unlabeled Videos and Pretrained Language-Vision
Models](https://arxiv.org/abs/2306.09635), WASPAA 2023.*
"""

MORE_SETTINGS = "More settings"
WHAT_IS_THIS = "What am I hearing?"
EXAMPLES = "Or try one of these"
DETAILS = "What these were made with"

METHODS = {
    "iq": ("Picture query", "IQ", "your picture, straight in"),
    "zs": ("Zero-shot", "ZS", "your words, taken for a picture"),
    "pd": ("Diffusion prior", "PD", "a picture imagined from your words"),
}

NUM_AUDIOS = "How many different takes to make."
SEED = "Same seed and settings, same sound."
LOCK = "Off: a new one each time."
NUM_INFERENCE_STEPS = "Small steps from noise to sound. More take longer and are mostly cleaner."
GUIDANCE_SCALE = "How closely the sound sticks to the query: 1 loosely, 3 clearly; far above that, harshly."
NEGATIVE_PROMPT = "Something the sound should not be like, such as: music. Works with a guidance above 1."
SAMPLER = "The recipe for the steps."
PRIOR_STEPS = "Steps in which the diffusion prior imagines a picture. Changes PD alone."
PRIOR_GUIDANCE = "How closely that picture sticks to your words. Changes PD alone."
TEMPLATE = "CLIP knows captions best, so your words are put into one, where the {} is."

SAMPLER_NAMES = {
    "dpmpp-2m": "DPM-Solver++ 2M: good after 20 steps",
    "dpmpp-2m-sde": "DPM-Solver++ 2M SDE: adds fresh noise on the way",
    "unipc": "UniPC: good after 10 steps",
    "lms": "LMS: looks back at the last four steps",
    "dpm2": "DPM-Solver 2: careful, twice the time a step",
    "ddim": "DDIM: simple and steady",
    "ddpm": "DDPM: the original; wants 100 steps or more",
}

STAGES = {
    "starting": "Starting",
    "embedding": "Understanding the query",
    "prior": "Imagining a picture",
    "denoising": "Carving sound out of noise",
    "vocoder": "Making it audible",
}
PARTS = {"clip": "CLIP", "denoiser": "the denoiser", "prior": "the diffusion prior", "vocoder": "the vocoder"}

STOPPED = "Stopped. Nothing more is being made."
READY = "Press Generate, or try one of the examples."


def stage_name(stage: str) -> str:
    """Return a stage of the pipeline in a visitor's words; "loading clip" names the part."""
    part = stage.removeprefix("loading ")
    if part != stage:
        return f"Loading {PARTS.get(part, f'the {part}')} (only before the first sound)"
    return STAGES.get(stage, stage.capitalize())
