"""The app as a server of tools for language models, met by the Model Context Protocol's own client."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Awaitable, Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import soundfile
from app_server import Server, serve_app
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client

from clipsonic.config import SAMPLERS, GenerationSettings


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_app(tiny_model, tmp_path_factory.mktemp("mcp") / "log.txt") as running:
        yield running


def ask(server: Server, question: Callable[[ClientSession], Awaitable[Any]]) -> Any:
    async def asked() -> Any:
        async with (
            streamablehttp_client(f"{server.url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            return await question(session)

    return asyncio.run(asked())


def test_the_tools_say_what_they_do_and_take(server: Server) -> None:
    tools = {tool.name: tool for tool in ask(server, lambda session: session.list_tools()).tools}
    assert set(tools) == {"text_to_audio", "image_to_audio", "video_to_audio"}, "the tiny model knows no sounds"
    for tool in tools.values():
        assert tool.description and len(tool.description.split()) > 20
    schema = tools["text_to_audio"].inputSchema
    assert schema["required"] == ["prompt"] and "a dog barking" in schema["properties"]["prompt"]["description"]
    assert schema["properties"]["sampler"]["enum"] == list(SAMPLERS)
    defaults = GenerationSettings()
    told = {name: value["default"] for name, value in schema["properties"].items() if "default" in value}
    assert {"num_inference_steps", "guidance_scale", "sampler", "template"} <= set(told)
    assert told.pop("methods") == ["zs", "pd"] and schema["properties"]["methods"]["items"]["enum"] == ["zs", "pd"]
    assert told == {name: getattr(defaults, name) for name in told}


def test_a_tool_makes_the_sounds_that_were_asked_for(server: Server) -> None:
    wanted = {"prompt": "a dog barking", "num_inference_steps": 2, "seed": 7}
    answer = ask(server, lambda session: session.call_tool("text_to_audio", wanted))
    assert not answer.isError
    files, facts = ast.literal_eval(answer.content[0].text)
    assert [(audio["method"], audio["seed"]) for audio in facts["audios"]] == [("zs", 7), ("pd", 7)]
    assert facts["settings"]["num_inference_steps"] == 2
    for file in files:
        sound = soundfile.info(BytesIO(httpx.get(file["url"]).content))
        assert sound.samplerate == facts["sample_rate"] and sound.frames > 0


def test_a_mistake_is_told_in_words(server: Server) -> None:
    answer = ask(
        server, lambda session: session.call_tool("text_to_audio", {"prompt": "a dog", "num_inference_steps": 0})
    )
    assert answer.isError
    assert answer.content[0].text == "num_inference_steps is 0; allowed: a whole number from 1 to 1000"
