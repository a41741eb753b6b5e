"""Kinds of tools: their names, parameters, requests that need them and results; knows no message format."""

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from demo_corpus import words

Values = list[Any]

_SKIES = words.listed("sunny cloudy rainy windy snowy foggy stormy clear overcast hazy warm icy")


class Slot(NamedTuple):
    """One required parameter: names it may have in a schema, and how a value comes about."""

    names: tuple[str, ...]
    description: str
    value: Callable[[random.Random], Any]


class Outcome(NamedTuple):
    """What a tool gave back (text or JSON) and the sentence that tells it."""

    result: Any
    answer: str


class Family(NamedTuple):
    """`names` and `questions` in the notation of `words.expand`; `{0}`, `{1}` in a question are the slots' values."""

    kind: str
    names: str
    description: str
    slots: tuple[Slot, ...]
    questions: tuple[str, ...]
    outcome: Callable[[random.Random, Values], Outcome]
    optional: tuple[tuple[str, dict[str, Any]], ...] = ()  # parameters that no request fills


def _weather(rng: random.Random, values: Values) -> Outcome:
    temperature = rng.randint(-15, 40)
    sky = rng.choice(_SKIES)
    if rng.random() < 0.25:
        text = rng.choice(
            (
                f"It is {temperature} degrees and {sky} in {values[0]}.",
                f"{sky.capitalize()}, {temperature} degrees",
                f"{temperature}°C, {sky}",
                f"Weather for {values[0]}: {sky}, {temperature} °C",
            )
        )
        return Outcome(text, text)
    result = {
        rng.choice(("temperature", "temp", "temperature_c", "temp_c", "degrees", "celsius")): temperature,
        rng.choice(("condition", "conditions", "sky", "weather", "description", "summary")): sky,
    }
    if rng.random() < 0.3:
        result = {rng.choice(("city", "location", "place")): values[0], **result}
    if rng.random() < 0.2:
        result = dict(reversed(result.items()))
    return Outcome(result, f"It is {temperature} degrees and {sky} in {values[0]}.")


def _time(rng: random.Random, values: Values) -> Outcome:
    clock = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    result = clock if rng.random() < 0.3 else {rng.choice(("time", "local_time", "now", "clock")): clock}
    return Outcome(result, clock if isinstance(result, str) else f"It is {clock} in {values[0]}.")


def _search(rng: random.Random, _: Values) -> Outcome:
    if rng.random() < 0.5:
        text = f"{words.invented_word(rng)} {words.noun(rng)} {words.phrase(rng, 3, 9)}."
        return Outcome(text, text)
    hits = [(words.phrase(rng, 2, 4), f"https://{words.noun(rng)}.com/{words.noun(rng)}") for _ in range(2)]
    listed = "\n".join(f"- [{title}]({url})" for title, url in hits)
    return Outcome([{"title": title, "url": url} for title, url in hits], f"I found:\n\n{listed}")


def _calculation(rng: random.Random, values: Values) -> Outcome:
    number = words.number(rng)
    result = number if rng.random() < 0.4 else {rng.choice(("result", "value", "answer")): int(number)}
    return Outcome(result, f"{values[0]} = {number}")


def _image(rng: random.Random, values: Values) -> Outcome:
    url = f"https://{words.noun(rng)}.com/{words.code(rng).lower()}.png"
    result = url if rng.random() < 0.3 else {rng.choice(("url", "image_url", "image")): url}
    return Outcome(result, f"Here is the image of {values[0]}: {url}")


def _done(answer: str) -> Callable[[random.Random, Values], Outcome]:
    def outcome(rng: random.Random, values: Values) -> Outcome:
        said = rng.choice(("ok", "done", "success", "OK"))
        result = said if rng.random() < 0.3 else {rng.choice(("status", "result")): said}
        return Outcome(result, answer.format(*values))

    return outcome


def _text(rng: random.Random, _: Values) -> Outcome:
    text = words.phrase(rng, 3, 10)
    return Outcome(text, text)


def _expression(rng: random.Random) -> str:
    terms = [words.number(rng) for _ in range(rng.choice((2, 2, 3)))]
    return f" {rng.choice('+-*/')} ".join(terms)


def _mail(rng: random.Random) -> str:
    return f"{words.name(rng).lower()}@{words.noun(rng)}.{rng.choice(('com', 'org', 'net'))}"


def _path(rng: random.Random) -> str:
    folder = f"{words.noun(rng)}/" if rng.random() < 0.4 else ""
    return f"{folder}{words.noun(rng)}.{rng.choice(('txt', 'md', 'py', 'csv', 'json', 'log'))}"


def _subject(rng: random.Random) -> str:
    return rng.choice((rng.choice(words.TOPICS), words.city(rng), words.name(rng), words.phrase(rng, 1, 3)))


CITY = Slot(("city", "location", "place", "town", "city_name", "q", "query", "where"), "Name of the city", words.city)
_TEXT = Slot(("text", "message", "content", "note", "body"), "The text", lambda r: words.phrase(r, 2, 6))
_MINUTES = Slot(("minutes", "duration", "duration_minutes", "min"), "Minutes", lambda r: r.randint(1, 120))

FAMILIES = (
    Family(
        "weather",
        "[get_weather|get_weather|weather|current_weather|get_current_weather|fetch_weather|weather_lookup|getWeather|"
        "check_weather|weather_forecast|get_forecast|weatherTool]",
        "[Get|Look up|Returns] the [current |]weather [of|for|in] a [city|place|location].",
        (CITY,),
        (
            "[What is|What's|How is|How's|Tell me|Check|Get|Look up|Show me|Give me|I need] the [current |]"
            "[weather|forecast] [in|for|of] {0}[| today| now| right now| please| tomorrow]",
            "[What's|What is] the weather like in {0}[| today| now]",
            "[Is it|Will it be] [warm|cold|sunny|raining|snowing|hot|windy] in {0}[| today| now]",
            "[How warm|How cold|How hot] is it in {0}[| today| now]",
            "[What is|What's] the temperature in {0}[| today| now]",
            "[Do I need|Should I take] an umbrella in {0}[| today]",
            "[Weather in {0}|Weather {0}|Forecast {0}]",
        ),
        _weather,
        (("unit", {"type": "string", "enum": ["celsius", "fahrenheit"]}), ("days", {"type": "integer"})),
    ),
    Family(
        "time",
        "[get_time|get_current_time|current_time|time_in|clock|getTime|local_time|world_clock]",
        "[Get|Tell|Returns] the [current |local |]time [in|of] a city.",
        (CITY,),
        (
            "[What time is it|What's the time|What is the time|Tell me the time|What is the local time] in {0}[| now]",
            "[How late is it|Current time|Time] in {0}",
        ),
        _time,
    ),
    Family(
        "search",
        "[web_search|search|search_web|google|internet_search|find|webSearch|query_web|search_engine]",
        "[Search|Searches] the [web|internet][| for information].",
        (Slot(("query", "q", "search_query", "text", "keywords", "term"), "What to search for", _subject),),
        (
            "[Search|Search the web|Search online|Google|Look|Look on the internet] for {0}",
            "[Find|Find out|Look up|Get] [something|information|news|facts|pages] [about|on] {0}",
            "[Who is|What is|Tell me about|What do you know about] {0}",
        ),
        _search,
        (("num_results", {"type": "integer", "default": 5}),),
    ),
    Family(
        "calculator",
        "[calculator|calculate|compute|eval_expression|math|evaluate|do_math]",
        "[Calculate|Evaluate|Compute] [an arithmetic|a mathematical|a math] expression.",
        (Slot(("expression", "expr", "formula", "input", "calculation"), "Such as 2 + 3", _expression),),
        ("[What is|What's|Calculate|Compute|How much is|Work out|Evaluate|Solve] {0}[| for me| please]", "{0}[ =|]"),
        _calculation,
    ),
    Family(
        "image",
        "[generate_image|create_image|draw|image_generator|text_to_image|make_picture|flux_generate|paint]",
        "[Generate|Create|Draw] an image from a [text|description|prompt].",
        (Slot(("prompt", "description", "text", "image_prompt", "caption"), "What the image shows", words.picture),),
        (
            "[Generate|Create|Make|Draw|Paint|Show me|Render|I want|Can you make|Please draw] [an image|a picture|an "
            "illustration|a photo] of {0}",
            "[Draw|Paint|Please draw|Sketch] {0}",
        ),
        _image,
        (("width", {"type": "integer"}), ("height", {"type": "integer"})),
    ),
    Family(
        "email",
        "[send_email|send_mail|email|mail_send|compose_email|sendEmail]",
        "Send an [email|e-mail] to [somebody|a person|an address].",
        (Slot(("to", "recipient", "address", "email"), "Who gets it", _mail), _TEXT),
        (
            "[Send|Write] [an email|a mail|a message] to {0} [saying|that says|with the text|:] {1}",
            "[Email|Mail|Tell] {0}: {1}",
        ),
        _done("I sent the email to {0}."),
    ),
    Family(
        "file",
        "[read_file|open_file|cat|get_file|readFile|file_read|load_file]",
        "[Read|Returns] the [text|content|contents] of a file.",
        (Slot(("path", "file", "filename", "file_path", "name"), "Path of the file", _path),),
        (
            "[Read|Open|Show|Show me|Print|Display|Load] [the file |]{0}",
            "What [is|does] [in|inside|the file] {0}[ say|]",
        ),
        _text,
    ),
    Family(
        "reminder",
        "[set_reminder|create_reminder|remind|add_reminder|reminder_create]",
        "[Set|Create] a reminder.",
        (Slot(("text", "message", "title", "what"), "What to remember", lambda r: words.phrase(r, 2, 4)), _MINUTES),
        ("[Remind me of|Set a reminder for|Create a reminder for|Add a reminder:] {0} in {1} minutes",),
        _done("I will remind you of {0} in {1} minutes."),
    ),
    Family(
        "timer",
        "[set_timer|start_timer|timer|countdown]",
        "[Set|Start] a timer.",
        (_MINUTES,),
        ("[Set|Start] [a timer|the timer|a countdown] [for|of] {0} minutes", "[Wake me|Call me] in {0} minutes"),
        _done("The timer is set to {0} minutes."),
    ),
    Family(
        "light",
        "[set_light|switch_light|light_control|lights]",
        "[Switch|Turn] a light on or off.",
        (
            Slot(("state", "mode", "value"), "on or off", lambda r: r.choice(("on", "off"))),
            Slot(
                ("room", "location", "name"), "The room", lambda r: r.choice(("kitchen", "bedroom", "hall", "office"))
            ),
        ),
        ("[Turn|Switch] {0} the [light|lights|lamp] in the {1}",),
        _done("The light in the {1} is {0}."),
    ),
    Family(
        "note",
        "[save_note|add_note|create_note|write_note|take_note]",
        "[Save|Write|Store] a note.",
        (_TEXT,),
        ("[Save|Take|Write|Add|Make] a note: {0}", "[Note|Write down]: {0}"),
        _done("I saved the note."),
    ),
)
