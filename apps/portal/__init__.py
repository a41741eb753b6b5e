"""Pages for people beside the chat: logging in, one's own API keys, and the overview that greets administrators."""
