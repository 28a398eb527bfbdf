"""What a browser remembers of a form, and what that may not override."""

import json
from typing import Any

from tests.ui.looking import named
from wanavatar_lab.requests import ImageToVideo, Request, TextToImage
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.form_memory import FormMemory


def remember(memory: FormMemory, values: Any) -> None:
    """As a page does, which has the values as JSON."""
    memory.receive({"kind": "remembered", "values": json.loads(json.dumps(values))})


def typed(request_class: type[Request], **values: Any) -> dict[str, Any]:
    """What the browser remembers of a form with these values."""
    form = Form(request_class)
    memory = FormMemory(form)
    form.set(**values)
    assert memory.changed
    return dict(memory.values)


def test_what_was_typed_comes_back_into_a_new_form() -> None:
    wanted = {"prompt": "a cat", "seed": 7, "num_inference_steps": 3, "loras": ["ann:0.5"], "width": 512, "height": 512}
    kept = typed(TextToImage, **wanted)
    form = Form(TextToImage)
    memory = FormMemory(form)
    remember(memory, kept)
    assert form.chosen() | {"loras": None} == wanted | {"profile": "pocket", "loras": None}
    assert [each["name"] for each in form.values()["loras"]] == ["ann"]
    assert memory.values == kept and memory.changed and memory.settled
    assert "upscale" not in form.touched  # which still follows the profile


def test_a_person_s_change_is_remembered_and_reset_takes_it_back() -> None:
    form = Form(TextToImage, prompt="a dog", profile="full")
    memory = FormMemory(form)
    begun = dict(memory.values)
    named(form, "Prompt").value = "a cat"
    assert memory.values == begun | {"prompt": "a cat"}
    form.set(num_inference_steps=9)
    memory.receive({"kind": "reset"})
    assert memory.values == begun and not memory.changed
    assert form.chosen() == {"profile": "full", "prompt": "a dog"}
    assert form.values()["num_inference_steps"] == 4


def test_other_beginnings_have_a_memory_of_their_own() -> None:
    keys = {FormMemory(Form(kind, **values)).key for kind, values in (
        (TextToImage, {}), (TextToImage, {"prompt": "a cat"}), (TextToImage, {"profile": "full"}), (ImageToVideo, {}),
    )}  # fmt: skip
    assert len(keys) == 4
    assert FormMemory(Form(TextToImage)).key in keys


def test_a_form_in_use_keeps_what_it_has() -> None:
    kept = typed(TextToImage, prompt="a cat")
    form = Form(TextToImage)
    memory = FormMemory(form)
    form.set(prompt="a dog")
    remember(memory, kept)
    assert form.chosen()["prompt"] == "a dog"
    form = Form(TextToImage)
    memory = FormMemory(form)
    memory.settled = True  # its request is submitted
    remember(memory, kept)
    assert "prompt" not in form.chosen()


def test_a_remembered_value_that_is_not_allowed_is_named_and_the_others_come_back() -> None:
    form = Form(TextToImage)
    remember(FormMemory(form), {"prompt": "a cat", "num_inference_steps": 5000, "gone_since": 1})
    assert form.chosen()["prompt"] == "a cat"
    assert form.problems() == {"num_inference_steps": "must be an integer from 1 to 12 (got 5000)"}
    remember(FormMemory(Form(TextToImage)), None)  # a browser that remembers nothing
