"""OpenAI's own Python client is answered as `pocketvlm run` answers, with and without a stream, also about images."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel

from pocketvlm.runtime import GenerationConfig, PocketVlm
from tests.serve.conftest import Served

#: Random weights say a variety of tokens only when they are sampled.
SAMPLED = {"temperature": 3.0, "seed": 5, "max_tokens": 12}
CONFIG = GenerationConfig(max_new_tokens=12, temperature=3.0, seed=5)
SYSTEM = {"role": "system", "content": "Be brief."}
LONG = "The picture shows a table of numbers with a sum below it, in two columns and many rows. " * 2


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content[0] if len(content) == 1 else list(content)}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def shown(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": "high"}}


@pytest.fixture(scope="module")
def client(served: Served) -> Any:
    return served.client()


def ask(client: Any, messages: list[Any], **more: Any) -> Any:
    """A chat completion of the one model that there is."""
    (model,) = client.models.list().data
    return client.chat.completions.create(model=model.id, messages=messages, **more)


def whole(stream: Any) -> tuple[str, list[Any]]:
    """A stream's text, and its chunks."""
    chunks = list(stream)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices), chunks


@pytest.mark.parametrize(
    ("parameters", "config"),
    [
        ({}, {"temperature": 0.0, "seed": 0}),
        ({"temperature": 3.0, "seed": -1}, {"seed": 2**64 - 1}),
        ({"temperature": 0.7, "top_p": 0.5, "seed": 9}, {"temperature": 0.7, "top_p": 0.5, "seed": 9}),
        ({**SAMPLED, "logit_bias": {"7": 100, "9": 99.5}}, {"logit_bias": {7: 100, 9: 99.5}}),
        ({**SAMPLED, "extra_body": {"top_k": 3, "repetition_penalty": 1.5}}, {"top_k": 3, "repetition_penalty": 1.5}),
        ({**SAMPLED, "max_tokens": None, "max_completion_tokens": 3}, {"max_new_tokens": 3}),
        ({**SAMPLED, "n": 1, "user": "me", "response_format": {"type": "text"}, "presence_penalty": 0}, {}),
    ],
)
def test_an_answer_is_that_of_the_runtime(
    client: Any, vlm: PocketVlm, parameters: dict[str, Any], config: dict[str, Any]
) -> None:
    given = {"max_tokens": 12, **parameters}
    answer = vlm.stream([SYSTEM, user("What is it?")], config=GenerationConfig(**{**vars(CONFIG), **config}))
    wanted = answer.read()
    found = ask(client, [SYSTEM, user("What is it?")], **given)
    (choice,) = found.choices
    assert choice.message.content == wanted
    assert choice.finish_reason == answer.stats.finish_reason
    assert choice.message.role == "assistant" and choice.logprobs is None
    assert found.usage.completion_tokens == answer.stats.generated_tokens
    assert found.usage.prompt_tokens == answer.stats.prompt_tokens
    assert found.usage.total_tokens == answer.stats.prompt_tokens + answer.stats.generated_tokens
    streamed, chunks = whole(ask(client, [SYSTEM, user("What is it?")], stream=True, **given))
    assert streamed == wanted
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [choice.finish_reason]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1 and chunks[0].id != found.id


def test_an_answer_ends_before_a_stop_string(client: Any, vlm: PocketVlm) -> None:
    full = vlm.stream("Go on.", config=CONFIG).read()
    stop = full[len(full) // 2 :][:2]
    found = ask(client, [user("Go on.")], stop=stop, **SAMPLED).choices[0]
    assert (found.message.content, found.finish_reason) == (full[: full.index(stop)], "stop")
    several, _ = whole(ask(client, [user("Go on.")], stop=["never said", stop], stream=True, **SAMPLED))
    assert several == full[: full.index(stop)]


def test_without_a_seed_each_sampled_answer_has_its_own_which_gives_it_again(client: Any) -> None:
    some = [ask(client, [user("Say it.")], temperature=3.0, max_tokens=12) for _ in range(2)]
    seeds = [one.stats["seed"] for one in some]
    assert seeds[0] != seeds[1]
    texts = [one.choices[0].message.content for one in some]
    assert texts[0] != texts[1]
    again = ask(client, [user("Say it.")], temperature=3.0, max_tokens=12, seed=seeds[0])
    assert again.choices[0].message.content == texts[0]


def test_an_answer_without_a_limit_ends_with_the_kv_cache(client: Any, vlm: PocketVlm) -> None:
    never = {str(token_id): -100 for token_id in vlm.manifest.tokens.stop}
    found = ask(client, [user("Go on.")], temperature=3.0, seed=1, logit_bias=never)
    assert found.choices[0].finish_reason == "length"
    assert found.stats["finish_reason"] == "kv_length"
    assert found.usage.total_tokens == vlm.manifest.kv_cache.length + 1  # the last one is not in it any more


def test_a_picture_is_sent_or_named_and_is_the_same_picture(client: Any, vlm: PocketVlm, pictures: Path) -> None:
    wide, tall = pictures / "wide.png", pictures / "below" / "tall picture.png"
    data = "data:image/png;base64," + base64.b64encode(wide.read_bytes()).decode()
    answer = vlm.stream([user({"type": "image", "image": wide}, text("What is it?"))], config=CONFIG)
    wanted = answer.read()
    for url in (data, "wide.png", "below/../wide.png", wide.as_uri(), f"file://localhost{wide}"):
        found = ask(client, [user(shown(url), text("What is it?"))], **SAMPLED)
        assert found.choices[0].message.content == wanted, url
        assert found.usage.prompt_tokens_details.image_tokens == answer.stats.image_tokens == 75
        assert 0 < found.stats["preprocess_s"] <= found.stats["time_to_first_token_s"]
    two = [{"type": "image", "image": wide}, text("This or"), {"type": "image", "image": tall}, text("?")]
    wanted = vlm.stream([user(*two)], config=CONFIG).read()
    for name in (tall.as_uri(), "below/tall picture.png"):
        asked = [user(shown(data), text("This or"), shown(name), text("?"))]
        assert whole(ask(client, asked, stream=True, **SAMPLED))[0] == wanted


def test_a_conversation_goes_on_from_the_kv_cache_and_is_answered_as_a_fresh_one(client: Any, vlm: PocketVlm) -> None:
    messages = [user(f"{LONG}What is the sum?")]
    cached = []
    for question in ("And the first row?", "And the last?", ""):
        wanted = vlm.stream(messages, config=CONFIG)
        said = wanted.read()
        text, chunks = whole(ask(client, messages, stream=True, stream_options={"include_usage": True}, **SAMPLED))
        assert text == said
        usage = chunks[-1].usage
        assert chunks[-1].choices == [] and usage.prompt_tokens == wanted.stats.prompt_tokens
        assert chunks[-2].stats["prefill_tokens"] + usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens
        cached.append(usage.prompt_tokens_details.cached_tokens)
        messages += [{"role": "assistant", "content": said}, user(question)]
    assert cached[0] == 0 and 0 < cached[1] <= cached[2]
    assert all(tokens % vlm.prefill_chunk == 0 for tokens in cached)


def test_an_assistants_message_comes_back_as_the_client_has_it(client: Any) -> None:
    first = ask(client, [user("hi")], **SAMPLED).choices[0].message
    found = ask(client, [user("hi"), first.model_dump(), user("And?")], **SAMPLED)
    plain = ask(client, [user("hi"), {"role": "assistant", "content": first.content}, user("And?")], **SAMPLED)
    assert found.choices[0].message.content == plain.choices[0].message.content


def form(schema: dict[str, Any]) -> dict[str, Any]:
    """A response_format of a schema."""
    return {"type": "json_schema", "json_schema": {"name": "form", "schema": schema, "strict": True}}


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_has_the_form_that_is_asked_for(client: Any, stream: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    found = ask(client, [user("hi")], response_format=form(schema), stream=stream)
    text = whole(found)[0] if stream else found.choices[0].message.content
    assert text in ('{"ok":true}', '{"ok":false}')
    found = ask(client, [user("hi")], response_format={"type": "json_object"}, max_tokens=3)
    assert found.choices[0].message.content.startswith("{")


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_says_how_likely_its_tokens_were(client: Any, vlm: PocketVlm, stream: bool) -> None:
    config = GenerationConfig(max_new_tokens=12, temperature=3.0, seed=5, logprobs=2)
    wanted = [piece for piece in vlm.stream("hi", config=config) if piece.token_id not in vlm.manifest.tokens.stop]
    found = ask(client, [user("hi")], **SAMPLED, logprobs=True, top_logprobs=2, stream=stream)
    choices = [choice for chunk in found for choice in chunk.choices] if stream else found.choices
    scored = [one for choice in choices if choice.logprobs for one in choice.logprobs.content]
    assert len(scored) == len(wanted) > 3
    for one, piece in zip(scored, wanted, strict=True):
        assert piece.scores is not None and one.token == vlm.token_text(piece.token_id)
        assert one.logprob == piece.scores.logprob <= one.top_logprobs[0].logprob
        assert [alternative.logprob for alternative in one.top_logprobs] == [score for _, score in piece.scores.top]
        assert one.bytes is None or bytes(one.bytes).decode() == one.token
    plain = ask(client, [user("hi")], **SAMPLED).choices[0]
    assert plain.logprobs is None


def test_a_model_of_pydantic_is_a_form(client: Any) -> None:
    class Receipt(BaseModel):
        paid: bool
        currency: Literal["EUR", "USD"]

    (model,) = client.models.list().data
    found = client.chat.completions.parse(model=model.id, messages=[user("hi")], response_format=Receipt)
    assert isinstance(found.choices[0].message.parsed, Receipt)


def test_a_developer_is_the_system(client: Any) -> None:
    texts = [
        ask(client, [{**SYSTEM, "role": role}, user("hi")], **SAMPLED).choices[0].message.content
        for role in ("system", "developer")
    ]
    assert texts[0] == texts[1]


def test_the_model_is_listed(client: Any, vlm: PocketVlm) -> None:
    (model,) = client.models.list().data
    assert model.id == vlm.manifest.model.name
    assert client.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        client.models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-9' here"):
        client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "hi"}])


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("functions", [{"name": "f"}]),
        ("n", 2),
        ("presence_penalty", 0.5),
        ("reasoning_effort", "high"),
    ],
)
def test_what_is_not_there_yet_is_refused_by_name(client: Any, parameter: str, value: Any) -> None:
    with pytest.raises(openai.BadRequestError, match=f"{parameter} is not there yet") as caught:
        ask(client, [user("hi")], **{parameter: value})
    assert (caught.value.param, caught.value.code) == (parameter, "unsupported_parameter")
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("messages", "more", "says"),
    [
        ([user("hi")], {"temperature": -1}, "temperature must be a number of at least 0, not -1"),
        ([user("hi")], {"top_p": 2}, "top_p must be above 0 and at most 1"),
        ([user("hi")], {"stop": ""}, "stop must be a tuple of strings"),
        ([user("hi")], {"max_tokens": 0}, "max_tokens"),
        ([user("hi")], {"logit_bias": {"99999999": 1}}, "logit_bias has '99999999', which is no token id from 0 to"),
        ([user("hi")], {"logit_bias": {"01": 1, "1": 1}}, "logit_bias has a token id more than once"),
        ([user("hi")], {"extra_body": {"beams": 4}}, "beams: unknown parameter"),
        ([user("hi")], {"top_logprobs": 3}, "top_logprobs needs logprobs"),
        ([user("hi")], {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ([user("hi")], {"response_format": {"type": "xml"}}, "response_format.type"),
        ([user("hi")], {"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema is missing"),
        ([user("hi")], {"response_format": form({"type": "wat"})}, "json_schema: Invalid type: wat"),
        ([user("hi")], {"response_format": form({"minLength": 2, "maxLength": 1, "type": "string"})}, "Unsatisfiable"),
        ([], {}, "messages"),
        ([SYSTEM], {}, "there is no user message to answer"),
        ([user("hi"), user("hi")], {}, "they take turns"),
        ([{"role": "poet", "content": "hi"}], {}, "has the role 'poet'"),
        ([user("hi"), {"role": "tool", "content": "4"}], {}, "tool_call_id is that of no call before it"),
        ([user({"type": "input_audio", "input_audio": {}}, text("?"))], {}, "'input_audio' are not there yet"),
        ([user({"type": "image_url"}, text("?"))], {}, "has the type image_url and no image_url"),
        ([{"role": "user", "content": None}], {}, "messages.0.content is missing"),
        ([user(shown("https://example.com/a.png"), text("?"))], {}, "is not fetched: send its bytes"),
        ([user(shown("data:image/png;base64,AAAA"), text("?"))], {}, "not an image in a known format"),
        ([user(shown("data:image/png;base64,?"), text("?"))], {}, "data: URL is damaged"),
        ([user("hi " * 3000)], {}, "fit into this bundle's KV cache"),
        ([user(*[shown("wide.png")] * 40)], {}, "the images have more tokens than the 512"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_it(
    client: Any, messages: list[Any], more: dict[str, Any], says: str
) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, messages, stream=stream, **more)
        error = caught.value.body
        assert isinstance(error, dict)
        assert says in error["message"] and "\n" not in error["message"], error
        assert error["type"] == "invalid_request_error" and error["code"]
