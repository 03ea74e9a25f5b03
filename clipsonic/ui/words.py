"""What the page says."""

from __future__ import annotations

TITLE = "CLIPSonic: sounds from words and pictures"

INTRO = """
# CLIPSonic
Sounds from words, pictures and videos, learnt without a single text–sound pair: only by watching videos.
"""

EXPLANATION = """
The model has watched videos and learnt which sound goes with which **picture**; nobody ever told it in words.
CLIP, a network that knows both pictures and words, turns either into a point in one common space, where a photo of a
dog and the words "a dog" come to lie near each other. That is what lets you ask in words:

* **Picture query (IQ)**: your picture goes in just as the frames of the videos did; the model was trained for this.
* **Zero-shot (ZS)**: the point of your *words* goes in, as if it were a picture's.
* **Diffusion prior (PD)**: a second network looks up what pictures with names like your words look like, imagines the
  point of one such picture, and that one goes in.
* **Picture memory (MP, MQ)**: a blend of the pictures it remembers from the videos that come nearest to those looked up
  for your words (MP) or to your picture (MQ); it remembers together what looks and sounds alike. Not in the paper.

Near is not the same: in CLIP's space all words lie a little apart from all pictures. Because of this **modality gap**
zero-shot sounds tend to be vaguer or off the mark, and the prior, which leaps over the gap, tends to come closer to
what you meant. The sounds of a take start from the same noise: whatever differs between them is due to the query.

The picture of a sound, its *spectrogram*, shows time from left to right and pitch from bottom to top; bright is loud.

*Paper: Dong et al., [CLIPSonic: Text-to-Audio Synthesis with Unlabeled Videos and Pretrained Language-Vision
Models](https://arxiv.org/abs/2306.09635), WASPAA 2023.*
"""

MORE_SETTINGS = "Advanced"
WHAT_IS_THIS = "What am I hearing?"
EXAMPLES = ("Or try one of these", "Or try one of these: they play at once")
HISTORY = "History"
DETAILS = "What these were made with"
RESTORE = ("Load settings from a file", "Drop a sound that was saved here: its words, seed and settings come back.")
KEYS = """<p class="keys"><kbd>Enter</kbd> generate · <kbd>Space</kbd> play or pause · <kbd>A</kbd> / <kbd>B</kbd> /
<kbd>C</kbd> hear one or another from the same moment on · <kbd>R</kbd> re-roll</p>"""

METHODS = {
    "iq": ("Picture query", "IQ", "your picture, straight in"),
    "zs": ("Zero-shot", "ZS", "your words, taken for a picture"),
    "pd": ("Diffusion prior", "PD", "a picture imagined from your words"),
    "sd": ("Supervised prior", "SD", "a picture imagined by a prior that was told names"),
    "mp": ("Picture memory", "MP", "the pictures it knows that fit your words best"),
    "mq": ("Picture memory", "MQ", "the pictures it knows that yours is most like"),
    "aq": ("Sound query", "AQ", "your sound, taken for a picture"),
}
SCORE = "How well the sound fits what was asked for, by the model's own ear: a cosine, 1 at best."

PROMPT = ("What should it sound like?", "a dog barking")
PICTURE = "What does this sound like?"
VIDEO = "What should this video sound like?"
SOUND = "More like this sound"
SOUND_TOWARD = ("… but with something of", "Words to mix in; leave empty for none.")
SOUND_MORPH = ("How much of the words", "0 is your sound alone, 1 the words alone.")
MORPH_FROM = ("From", "a dog barking")
MORPH_TOWARD = ("To", "church bells ringing")
MORPH_PICTURE = "… or to a picture"
MORPH = (
    "Where between the two",
    "0 is the first, 1 the second; between them the query goes along the arc that joins them.",
)
COMPARE = "Any two ways from a query to a sound, from the same noise: whatever differs is due to the query."
COMPARE_SIDES = (("Side A", "How the first sound is asked for."), ("Side B", "How the second sound is asked for."))
COMPARE_QUERY = {
    "prompt": ("Words", "a dog barking"),
    "image": "Picture, for a picture query",
    "audio": "Sound, for a sound query",
}

WHY = """
The denoiser has only ever met **pictures**. Where do *your words* land, and where does the prior take them? Each mark
is a picture or a text as CLIP sees it, drawn in the plane in which they differ most; point at one to read its name.
"""
WHY_PROMPT = ("Your words", "a dog barking")
WHY_COLUMNS = ("what goes in", "cosine to the middle of the pictures", "cosine to the nearest picture")
WHY_LOOKED_UP = "The prior looked your words up among the names of its pictures:"
WHY_CAPTION = "How near to pictures it lands (1 is the same direction, 0 is unrelated)"
WHY_READ = (
    "The further from the pictures something lands, the less the denoiser knows what to do with it. The prior draws "
    "several times; where its marks lie close together it is sure of itself."
)

CONTROLS = {
    "num_audios": ("Takes", "How many different ones to make."),
    "duration_s": ("Length in seconds", "0 is the model's own length, about 4 seconds. Longer takes longer to make."),
    "seed": ("Seed", "Same seed and settings, same sound."),
    "num_inference_steps": ("Steps", "Small steps from noise to sound. More take longer and are mostly cleaner."),
    "guidance_scale": (
        "Guidance",
        "How closely the sound sticks to the query: 1 loosely, 3 clearly; far above that, harshly.",
    ),
    "negative_prompt": (
        "Keep away from",
        "Something the sound should not be like, such as: music. Works with a guidance other than 1.",
    ),
    "sampler": ("Sampler", "The recipe for the steps."),
    "prior_num_inference_steps": (
        "Prior steps",
        "Steps in which the diffusion prior imagines a picture. Changes PD alone.",
    ),
    "prior_guidance_scale": ("Prior guidance", "How closely that picture sticks to your words. Changes PD alone."),
    "template": ("Caption template", "CLIP knows captions best, so your words are put into one, where the {} is."),
    "strength": (
        "How much is made anew",
        "1 is a new sound of the same kind. With less your sound's course stays, and its colour changes.",
    ),
    "candidates": (
        "Candidates",
        "So many sounds are made for each one shown; the one with the best Clip-Score is kept.",
    ),
}
LOCK = ("Keep this seed", "Off: a new one each time.")

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
    "scoring": "Listening to what came out",
}
PARTS = {
    "clip": "CLIP",
    "denoiser": "the denoiser",
    "refiner": "the refiner",
    "prior": "the diffusion prior",
    "supervised_prior": "the supervised prior",
    "memory": "the picture memory",
    "vocoder": "the vocoder",
    "audio_clip": "the ear",
}

STOPPED = "Stopped. Nothing more is being made."
READY = "Press Generate, or try one of the examples."
READY_MADE = "Made beforehand with these very settings. Press Generate for a new one."


def stage_name(stage: str) -> str:
    """Return a stage of the pipeline in a visitor's words; "loading clip" names the part."""
    part = stage.removeprefix("loading ")
    if part != stage:
        return f"Loading {PARTS.get(part, f'the {part}')} (only before the first sound)"
    return STAGES.get(stage, stage.capitalize())


def time_left(seconds: float) -> str:
    """Return a time to wait in a visitor's words; fractions of a second would only flicker."""
    return f"about {max(1, round(seconds))} s left" if seconds < 90 else f"about {round(seconds / 60)} min left"
