"""What the contract suite says to an endpoint. Part of its instrument: raise CONTRACT_VERSION with every change."""

from typing import Any

PANEL = (
    "What is the capital of France? Answer in one short sentence.",
    "Say hello to Maria in one short sentence.",
    "What do bees make? Answer in one short sentence.",
    "Write one short sentence about the sea.",
    "How many days are there in a week? Answer in one short sentence.",
    "Thank Tom for his help in one short sentence.",
    "Which animal says meow? Answer in one short sentence.",
    "Write one short sentence about a garden.",
    "What is ice made of? Answer in one short sentence.",
    "Name three colours of the rainbow in one sentence.",
    "Which season comes after winter? Answer in one short sentence.",
    "What is the opposite of cold? Answer in one short sentence.",
)
HISTORY = ("My name is Mia.", "Hello Mia, how can I help?", "What is my name? Answer in one short sentence.")
SYSTEM_PROMPT = (
    "You are the help desk of a small library in the mountains. You are polite, you answer in plain English, you keep "
    "to the question, and you never mention the weather, politics, sport or the price of anything to a visitor."
)
STORY = "Write a long story about a lighthouse keeper and the ships that pass by in the night."
STORY_TOKENS = 24
COLOURS = ("red", "green", "blue")
COLOUR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": list(COLOURS)}},
    "required": ["colour"],
    "additionalProperties": False,
}
