"""A chat through the OpenAI API: `python examples/openai_chat.py http://localhost:8000/v1 "A question?"`."""

import sys

from openai import OpenAI

client = OpenAI(base_url=sys.argv[1], api_key="none")
model = next(iter(client.models.list())).id
stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": sys.argv[2]}],
    temperature=0,
    max_tokens=48,
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
