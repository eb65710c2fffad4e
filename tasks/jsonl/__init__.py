"""A batch's lines as OpenAI writes them: read from its input, written to its output. Pure."""
