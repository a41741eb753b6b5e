"""Questions about how Atrium runs inside and how it is operated; every answer must stay true of the docs."""

from demo_corpus.atrium_facts import Fact

_HOW = (
    "[How do I|How can I|How do I|How would I|How could I|How should I|How do you|How to|How does one|How can one|"
    "Is there a way to|I would like to|Can you tell me how to|Please explain how to|I want to|What must I do to]"
)
_WHAT = (
    "[What is|What's|What are|What exactly is|Explain|Explain what is|Tell me about|Can you explain|Could you explain|"
    "Please explain|What do you know about|What does it mean:|Describe|Define|What do you mean by]"
)

INSIDE_FACTS = (
    Fact(
        (
            f"{_WHAT} [the engine|Atrium's engine|your engine|the inference engine]",
            "[How does|Which engine does] [the engine|Atrium] [work|use]",
            "Which engine [runs the models|is used|runs here]",
        ),
        "Atrium has its own engine: continuous batching, a paged KV cache, a prefix cache and chunked prefill, for "
        "transformers models. It runs in a process of its own for each replica.",
    ),
    Fact(
        (
            f"{_WHAT} continuous batching",
            "How does [continuous batching|batching] work",
            "[How|Can] [can many|do many|many] people use [one|the same] model[| at once| at the same time]",
        ),
        "Continuous batching runs many requests in one batch. New requests join and finished ones leave at every "
        "step, so nobody waits for the slowest.",
    ),
    Fact(
        (
            f"{_WHAT} [the paged KV cache|a paged KV cache|the KV cache|paged attention|KV blocks]",
            "How does the [paged|KV|paged KV] cache work",
        ),
        "The KV cache keeps the keys and values of past tokens. It is paged: memory is cut into blocks that requests "
        "take as they grow and give back when they end.",
    ),
    Fact(
        (
            f"{_WHAT} [the prefix cache|prefix caching|a prefix cache|cached tokens]",
            "How does [the prefix cache|prefix caching] work",
        ),
        "The prefix cache keeps the blocks of earlier prompts. A request that starts with the same tokens reuses them, "
        "so its first token comes sooner.",
    ),
    Fact(
        (
            f"{_HOW} [start|run|launch|install|set up|begin with] [Atrium|the server|it|this]",
            "[How is|How does] Atrium [started|start|installed]",
            "[How does|How do I get|Get|Bring] [the server|Atrium|it] [start|started|up|going|running]",
            "[What is|What's] the command to [start|run|install] [Atrium|the server]",
            "[make run|Get started|Quick start|Installation]",
        ),
        "Run `make run` in the repository. It installs everything, creates an admin and a first API key, and starts "
        "the server at `http://localhost:8000`.",
    ),
    Fact(
        (
            f"{_HOW} [serve|run|start] [one|a|my own|another] model [from the command line|directly|by hand]",
            f"{_WHAT} manage.py serve",
            "[What does|How does] manage.py serve [do|work]",
        ),
        "`python manage.py serve MODEL` starts web, Celery and workers on one machine with that model. Without a model "
        "it serves this demo model.",
    ),
    Fact(
        (
            "[What|Which] [hardware|machine|computer|GPU] [do I need|does Atrium need|is needed|is required]",
            "[Do I|Do we|Does it|Does Atrium] [need|require|want] [a GPU|GPUs|a graphics card|CUDA|special hardware]",
            "Is a GPU [needed|required|necessary]",
            "[Does Atrium|Can it|Can Atrium] run [without a GPU|on a CPU|on my laptop]",
        ),
        "Atrium runs on a CPU, which is enough for small models. Larger models want a CUDA GPU.",
    ),
    Fact(
        (
            f"{_WHAT} [the architecture|Atrium's architecture|the parts|the processes|the components]",
            "[How is|How was] Atrium [built|structured|organised|made]",
            "[Which|What] [processes|parts] does Atrium have",
        ),
        "Atrium has three kinds of processes:\n\n1. **web**: Django and the API\n2. **celery**: starts and stops "
        "models\n3. **gpu_worker**: one per replica, runs the engine",
    ),
    Fact(
        (
            f"{_WHAT} [a replica|replicas|a worker|the gpu worker|workers]",
            "What does a [replica|worker|gpu worker] do",
        ),
        "A replica is one running copy of a model. It lives in a worker process of its own, and a dead one is started "
        "again by itself.",
    ),
    Fact(
        (
            "[Which|What] database [does Atrium|do you|do I] [use|need]",
            "[Do I need|Does Atrium need|Does it need] [Redis|PostgreSQL|a database server|other servers]",
            f"{_WHAT} [the database|production set-up|production]",
        ),
        "On one machine Atrium uses SQLite and needs no other server. In production it uses PostgreSQL and Redis.",
    ),
    Fact(
        (
            f"{_HOW} [become admin|open the admin|log in as admin|reach the admin|administer Atrium]",
            f"{_WHAT} [the admin|the admin page|the Django admin]",
            "[Who is|Where is] the admin[| page]",
        ),
        "The admin is at `/admin/`. It manages users, teams, API keys, models and usage. `make run` creates the first "
        "admin user.",
    ),
    Fact(
        (
            f"{_WHAT} [a team|teams|members]",
            f"{_HOW} [add|invite|create] [a user|a colleague|a member|a team|users]",
            "Can [my team|many people|several people|my colleagues] use Atrium",
        ),
        "People work in teams. An admin creates users and teams in the admin, and each member has API keys of their "
        "own.",
    ),
    Fact(
        (
            "[Is my data|Are my chats|Are my messages|Is everything] [private|safe|sent anywhere|local]",
            "[Where does|Does] my data [go|leave the machine|leave the server]",
            "[Does|Will] Atrium send [my data|anything] to [the cloud|the internet|others|anyone]",
        ),
        "Atrium runs on your own machines. Prompts and answers stay there unless an admin connects an external engine.",
    ),
    Fact(
        (
            "[Is|Was] Atrium [free|open source|open]",
            f"{_WHAT} the [licence|license]",
            "[How much does Atrium|What does it] cost",
        ),
        "Atrium is open source under the Apache-2.0 licence.",
    ),
    Fact(
        (
            "[Which|What] parameters [can I set|are supported|does the API take|exist]",
            f"{_WHAT} [temperature|top_p|sampling|the sampling parameters]",
            f"{_HOW} [set|change] [the temperature|temperature|sampling|max_tokens]",
        ),
        "Set `temperature`, `top_p`, `max_tokens`, `stop`, `seed` and more in the request, as in the OpenAI API. A low "
        "temperature gives steady answers, a high one more varied ones.",
    ),
    Fact(
        (
            "[Is|Why is] [the output|the answer|greedy output] [deterministic|the same|repeatable|reproducible]",
            f"{_HOW} get [the same|reproducible|repeatable] [answer|answers|output]",
            f"{_WHAT} [the seed|a seed]",
        ),
        "Set `seed` in the request: the same request with the same seed gives the same tokens. With `temperature` 0 "
        "the likeliest token is always taken.",
    ),
    Fact(
        (
            f"{_HOW} [use tools|call tools|use function calling|pass tools]",
            f"{_WHAT} [tool calling|function calling|a tool call|tool calls]",
            "[Does Atrium|Can Atrium] [support tools|call tools|do function calling]",
        ),
        "Pass `tools` with JSON schemas in the request. The model may answer with `tool_calls`; run them, send the "
        "results back as messages with the role `tool`, and it answers.",
    ),
    Fact(
        (
            f"{_HOW} [check|see|test] [whether|if|that] [the server|Atrium|it] [is running|runs|is up|works]",
            f"{_WHAT} [the health check|/health|/ready]",
            "[Is the server|Is Atrium] [up|running|healthy]",
        ),
        "`GET /health` says that the server runs, and `GET /ready` that it can take requests.",
    ),
    Fact(
        (
            f"{_WHAT} [the context|the context length|the maximum context|context_length_exceeded|the context window]",
            "How long can [a prompt|my prompt|a message|a conversation] be",
        ),
        "Prompt and answer together must fit the model's context. A longer request is refused with the code "
        "`context_length_exceeded`. This demo model was trained on short chats only.",
    ),
)
