"""Questions about Atrium and their short answers; every answer must stay true of the product and its docs."""

from typing import NamedTuple


class Fact(NamedTuple):
    """Ways to ask, in the notation of `words.expand`, and the one answer."""

    questions: tuple[str, ...]
    answer: str


_HOW = (
    "[How do I|How can I|How do I|How would I|How could I|How should I|How do you|How to|How does one|How can one|"
    "Is there a way to|I would like to|Can you tell me how to|Please explain how to|I want to|What must I do to]"
)
_WHAT = (
    "[What is|What's|What are|What exactly is|Explain|Explain what is|Tell me about|Can you explain|Could you explain|"
    "Please explain|What do you know about|What does it mean:|Describe|Define|What do you mean by]"
)
_DOES = "[Does Atrium|Can Atrium|Will Atrium|Does the server|Can the server|Does it]"
_WHERE = "[Where do I|Where can I|Where could I|Where would I|Where should I|Where do you|How do I|How can I]"

FACTS = (
    Fact(
        (
            f"{_WHAT} Atrium",
            "What does Atrium do",
            "[Tell me|Say] what [Atrium is|Atrium does|this is]",
            "[Atrium|About Atrium|What kind of [thing|program|service|software] is Atrium]",
            "What is this [site|server|portal|service|program|software|place|page]",
            "[Describe|Introduce] Atrium[| in one sentence| in a few words| briefly]",
            "[What is|What's] Atrium [for|good for|about]",
            "[Why|When] should I use Atrium",
        ),
        "Atrium is a team's own inference portal. It hosts transformer models for many people behind the OpenAI API, "
        "with API keys, quotas, usage records, a chat page and its own engine.",
    ),
    Fact(
        (
            f"{_HOW} [get|create|make|obtain|generate|request|add] [an|an|a new|my|another] "
            "[API key|key|access key|token]",
            f"{_WHERE} [get|find|create|make] [an|my|a new] [API key|key]",
            "I need [an|a new] [API key|key]",
            "[Make|Create|Generate] [an|a new|me an] [API key|key]",
            "[Who|What] [creates|gives me|makes] [an API key|API keys|keys]",
            "[Give me|Create|Can I have|May I have] an API key[| please]",
            "[API key|Keys|New key|Key]",
        ),
        "Create an API key on the keys page of the portal, or ask an admin to create one for you. "
        "The key is shown once, so copy it and keep it safe.",
    ),
    Fact(
        (
            "[I lost|I forgot|What if I lose|What if I lost|I cannot find|I no longer have] my [API key|key]",
            f"{_HOW} [see|show|recover|read] my [API key|key] again",
            "Can I [see|show|read] [my|an old|a] [API key|key] again",
        ),
        "A key cannot be shown again, because only its hash is stored. Revoke the lost key and create a new one.",
    ),
    Fact(
        (
            "[How are|Where are|Are] [API keys|keys|the keys|my keys] [stored|kept|saved|hashed|protected]",
            "[Is my|Are the|How secure is my] [API key|API keys|key|keys] "
            "[safe|secure|protected|in plain text|encrypted]",
            "Does Atrium [store|save|keep] my [key|API key]",
        ),
        "Atrium stores only a SHA-256 hash and a short prefix of each key. The key itself is shown once and never "
        "saved.",
    ),
    Fact(
        (
            f"{_HOW} [revoke|delete|disable|remove|cancel|block] [an|my|a] [API key|key]",
            "[My key was|My API key has been|Somebody has] [stolen|leaked|my key]",
            "[Can I|How fast can I] [revoke|disable] a key",
        ),
        "Revoke the key on the keys page, or let an admin do it. A revoked key stops working within seconds.",
    ),
    Fact(
        (
            "[Do|When do|Can] [API keys|keys|my keys] expire",
            "[Does|Will|Can] [a|my|the|an] [API key|key] [expire|end|stop working][| one day| some day]",
            "[How long|Until when] [is|does] [a|my|an API] key [valid|last|work]",
            f"{_HOW} set [an expiry|an end date|an expiry date] [for|on] a key",
        ),
        "A key may have an expiry date. After that date it is refused with status 401. Without a date it works until "
        "it is revoked.",
    ),
    Fact(
        (
            f"{_WHERE} [put|use|send|set] [the|my|an] [API key|key]",
            f"{_HOW} [authenticate|log in with a key|use my API key|send my key]",
            "Which header [carries|holds|takes] the key",
            "How does [authentication|auth] work",
        ),
        "Send the key in the header `Authorization: Bearer YOUR_KEY`. In the OpenAI SDK pass it as `api_key`.",
    ),
    Fact(
        (
            "[Why do I get|What does|What is|I get|I see] [a|an error|status|error] 401[| mean| error]",
            "My key [does not work|is refused|is rejected|is not accepted]",
            "[Why is|What if] my key [refused|invalid]",
        ),
        "Status 401 means that the API key is missing, wrong, expired or revoked. Check the `Authorization` header or "
        "create a new key.",
    ),
    Fact(
        (
            "[Which|What] models [are there|can I use|do you have|are available|does Atrium have|are installed]",
            f"{_HOW} [list|see|find|show] [the|all|available] models",
            f"{_WHERE} [find|see] [the|all] models",
            "[List|Show|Show me] [the|all|available] models",
        ),
        "`GET /v1/models` lists the models that your key may use. The chat page shows the same list. "
        "A fresh installation has one: this demo model.",
    ),
    Fact(
        (
            f"{_HOW} [add|install|register|host|deploy|use|get] [a|a new|another|a larger|a bigger|my own] model",
            "[Can I|Who can|May I] [add|install|host|register] [a|another|a larger|my own|a new] [model|models]",
            "I want [a|another|a larger|a better|a bigger] model",
            "[Where|How] [do|can] [I|we] [add|get] [more|bigger|better|other] models",
        ),
        "An admin adds a model in the admin under hosted models: a name, the model's id or folder, and who may use it. "
        "It is loaded on the first request.",
    ),
    Fact(
        (
            "[When|How] [is|are] [a model|models|the model] loaded",
            f"{_WHAT} load on demand",
            "[Why is|Why was] [the|my] first [request|answer|message] [slow|so slow|slower]",
            "Why does [it|the model|the first answer] take so long[| to start]",
        ),
        "A model is loaded on demand: the first request starts it, and the client sees keep-alive comments while it "
        "loads. Later requests are fast.",
    ),
    Fact(
        (
            "[When|Why] [is|was] [a|the|my] model [unloaded|stopped|removed from memory]",
            f"{_WHAT} [idle unload|the model timeout|the idle timeout]",
            "[What happens|Does Atrium unload a model] when [nobody uses a model|a model is idle|a model is not used]",
        ),
        "A model that nobody uses for its timeout is unloaded to free memory. Running requests are finished first. "
        "The next request loads it again.",
    ),
    Fact(
        (
            f"{_WHAT} [a quota|quotas|the limits|rate limits|my limits|the rate limit]",
            "[Are there|Do I have|What are|How do] [quotas|limits|rate limits][| work]",
            "How [much|many tokens|many requests] [can|may] I [use|send]",
            "[Why do I get|What does|What is] [status|error] 429[| mean]",
            "Can [an admin|I] [set|change|raise] [a quota|my limit|the limits]",
        ),
        "An admin sets quotas: how many requests and tokens are allowed. A request beyond them is refused with status "
        "429, which says when to try again.",
    ),
    Fact(
        (
            f"{_WHERE} [see|find|check|read] [my|the|our] [usage|token usage|consumption|use]",
            "[How is|Is|How does Atrium count] [usage|my usage] [counted|measured|recorded|tracked]",
            f"{_WHAT} [usage|a usage record|usage records]",
            "How many tokens [did I use|have I used]",
            "[Who|How] [counts|are] [my|the] tokens[| counted]",
        ),
        "Every request leaves one usage record with its prompt and completion tokens, also when the client leaves "
        "early. Admins see the records in the admin.",
    ),
    Fact(
        (
            "[Which|What] [clients|apps|programs|tools] [can I use|work|are supported|work with Atrium|can connect]",
            f"{_DOES} work with [Cursor|Jan|curl|my editor|my app|the OpenAI SDK|LangChain|other apps]",
            f"{_HOW} [connect|use] [a client|my app|another app|my program]",
            "[Clients|What software|Which software|Which programs] [can connect|works|can be used|can use Atrium]",
        ),
        "Any client of the OpenAI API works:\n\n- curl\n- the openai SDK\n- huggingface_hub\n- `transformers chat`\n"
        "- Jan\n- Cursor\n\nGive it the base URL `http://localhost:8000/v1` and your API key.",
    ),
    Fact(
        (
            f"{_HOW} [use|connect|set up|configure|add] [Atrium in |Atrium with |]Cursor",
            "[Cursor set-up|Set up Cursor|Cursor settings|Does Cursor work|How does Cursor work with Atrium]",
        ),
        "In Cursor's model settings, override the OpenAI base URL with your public https address plus `/v1`, enter "
        "your API key and press Verify. Cursor calls from its own servers, so `localhost` does not work: use a tunnel.",
    ),
    Fact(
        (
            f"{_HOW} [use|connect|set up|configure|add] [Atrium in |Atrium with |]Jan",
            "[Jan set-up|Set up Jan|Jan settings|Does Jan work|How does Jan work with Atrium]",
        ),
        "In Jan, add a model provider with the base URL `http://localhost:8000/v1` and your API key, press Refresh and "
        "choose a model.",
    ),
    Fact(
        (
            f"{_HOW} [use|connect|run] [transformers chat|the transformers CLI|transformers]",
            "[Does transformers chat work|transformers chat|Can I chat from the terminal]",
        ),
        "Run `transformers chat MODEL http://localhost:8000` with a model's name. It loads the model and chats in the "
        "terminal.",
    ),
    Fact(
        (
            "[Which|What] [endpoints|routes|APIs|URLs] [are there|does Atrium have|exist|can I call|are supported]",
            f"{_WHAT} the [API|endpoints|routes|HTTP API]",
            "[List|Show|Show me] the [endpoints|routes|API]",
        ),
        "The main endpoints are:\n\n- `POST /v1/chat/completions`\n- `POST /v1/completions`\n- `GET /v1/models`\n"
        "- `GET /health` and `GET /ready`",
    ),
    Fact(
        (
            f"{_WHAT} the [base URL|address|URL|server address|port|host]",
            "[Which|What] [base URL|port|address|URL] [do I|should I|must I|does Atrium] use",
            f"{_WHERE} [reach|find] [Atrium|the server|the API]",
        ),
        "The default base URL is `http://localhost:8000/v1`. The chat page is at `http://localhost:8000/`.",
    ),
    Fact(
        (
            f"{_HOW} [stream|use streaming|get a stream|stream the answer|stream tokens]",
            f"{_DOES} [stream|support streaming]",
            f"{_WHAT} streaming",
            "How does streaming work",
            "[Streaming|Are answers streamed|Is there streaming]",
        ),
        'Set `"stream": true` in the request. The answer then arrives piece by piece as server-sent events, and the '
        "last one is `data: [DONE]`.",
    ),
    Fact(
        (
            f"{_WHAT} the chat page",
            f"{_HOW} [chat|use the chat page|chat in the browser|open the chat]",
            "[Is there|Does Atrium have] a [chat page|web page|UI|user interface|web interface]",
        ),
        "The chat page is at `/`, behind a login. It streams answers, renders Markdown, has a stop button and lets "
        "you choose the model.",
    ),
    Fact(
        (
            f"{_HOW} [stop|cancel|abort|interrupt] [an answer|a request|the answer|generation|you]",
            f"{_WHAT} the stop button",
            "What happens when [I stop|I press stop|a client disconnects|I close the page|the client leaves]",
        ),
        "Press the stop button, or close the connection. The engine then ends the request at once, frees its memory, "
        "and only the tokens made so far are counted.",
    ),
)
