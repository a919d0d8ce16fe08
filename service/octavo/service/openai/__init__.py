"""The HTTP door: the OpenAI API over any `Backend`, the same in a pod and in the gateway."""
