"""The tokenizer (byte-level BPE trained on generated conversations) and the processor around it."""

import random

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from recipes.tiny.questions import DESCRIBE, conversation, meaning, text_only
from recipes.tiny.scenes import CANVAS, make_scene, things

IMAGE, PAD, BOS, EOS = "<image>", "<pad>", "<s>", "</s>"
SPECIALS = (PAD, BOS, EOS, IMAGE)
VOCABULARY = 4096
PATCH = 16
CORPUS_SCENES = 4000

# "USER: <image>\nquestion ASSISTANT: answer</s>", as LLaVA 1.5 has it.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].upper() + ': ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}{{ ' ' }}{% else %}{{ '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def prompt_text(question: str, with_image: bool) -> str:
    """The text of one turn up to and including "ASSISTANT:"; the answer follows after a space."""
    return f"USER: {IMAGE + chr(10) if with_image else ''}{question} ASSISTANT:"


def _corpus() -> list[str]:
    rng = random.Random("hivis corpus")
    turns = [t for s in range(CORPUS_SCENES) for t in conversation(make_scene(s), rng)]
    turns += [t for _ in range(200) for t in text_only(rng)]
    lines = [f"{prompt_text(t.question, False)} {t.answer}" for t in turns]
    lines += [f"USER: {IMAGE}\n{q}" for q in DESCRIBE]
    # Every name in singular and plural, and every gloss, even those that no scene above has.
    for thing in things():
        lines += [f"{meaning(thing, rng)} {thing.name}s {thing.plural}."] * 4
    return lines


def train_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, the same in every call; nearly every word is one token."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_corpus(), trainer)
    core.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, core.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        extra_special_tokens={"image_token": IMAGE},
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """The processor: images of `CANVAS` pixels square, values in [-1, 1], one token per patch."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": CANVAS},
        crop_size={"height": CANVAS, "width": CANVAS},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" removes again
        chat_template=CHAT_TEMPLATE,
    )
