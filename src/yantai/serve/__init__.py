"""HTTP: OpenAI's shapes and a page, in front of an engine that lives in a process of its own."""
