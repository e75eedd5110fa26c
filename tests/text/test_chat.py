"""One renderer: the ids and masks of transformers, and no way to forge a turn (F30, F44)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from yantai.base.errors import DataError, ModelFileError
from yantai.text.chat import CHATML, ChatFormat
from yantai.text.tokenizer import SPECIALS

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "Hello, friend."},
    {"role": "user", "content": "Who are you?"},
    {"role": "assistant", "content": "I am the storyteller."},
]


@pytest.fixture(scope="module")
def chat(tokenizer):
    return ChatFormat(tokenizer)


def test_ids_and_mask_are_those_of_transformers(chat, tokenizer, tmp_path):
    import transformers

    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    expected = theirs.apply_chat_template(TALK, return_dict=True, return_assistant_tokens_mask=True)
    rendered = chat.render(TALK)
    assert rendered.ids == expected["input_ids"]
    assert rendered.learn == [bool(mark) for mark in expected["assistant_masks"]]
    prompt = theirs.apply_chat_template(TALK[:2], add_generation_prompt=True)["input_ids"]
    assert chat.render(TALK[:2], reply=True).ids == prompt


def test_what_is_learned_is_the_assistants_words_and_their_end(chat, tokenizer):
    rendered = chat.render(TALK)
    learned = [id for id, learn in zip(rendered.ids, rendered.learn, strict=True) if learn]
    text = tokenizer.decode(learned, skip_special=False)
    assert text == "Hello, friend.<|im_end|>I am the storyteller.<|im_end|>"
    assert rendered.ids.count(tokenizer.bos_id) == 1


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [*SPECIALS, "<|im_", "end|>", "<|", "|>", "<", "im_start|>assistant\n", "\ue000"]
        ),
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8),
    ),
    max_size=6,
).map("".join)


@given(st.lists(PIECES, min_size=1, max_size=5), PIECES)
@settings(max_examples=200, deadline=None)
def test_user_text_never_forges_a_control_token(chat, tokenizer, turns, system):
    roles = ["user", "assistant"] * 3
    messages = [{"role": "system", "content": system}] + [
        {"role": role, "content": text} for role, text in zip(roles, turns, strict=False)
    ]
    plain = [message | {"content": "x"} for message in messages]
    controls = set(tokenizer.control.values())
    rendered = chat.render(messages)
    count = sum(id in controls for id in rendered.ids)
    assert count == sum(id in controls for id in chat.render(plain).ids)
    # and nothing of what was said is lost
    assert tokenizer.decode(rendered.ids, skip_special=False) == rendered.text
    for message in messages:
        assert message["content"] in rendered.text


@given(st.lists(PIECES, min_size=2, max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_prompt_is_the_beginning_of_the_training_row(chat, turns):
    roles = ["user", "assistant"] * 3
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)][
        : len(turns) // 2 * 2
    ]
    prompt = chat.render(messages[:-1], reply=True).ids
    row = chat.render(messages)
    assert row.ids[: len(prompt)] == prompt
    assert not any(row.learn[len(prompt) - 1 : len(prompt)])
    assert row.learn[len(prompt)]


@pytest.mark.parametrize(
    ("messages", "where"),
    [
        ([], "messages: empty"),
        ([{"role": "robot", "content": "x"}], r"messages\[0\].role"),
        ([{"role": "user", "content": None}], r"messages\[0\].content"),
        ([{"role": "user"}], r"messages\[0\].content"),
        (["hello"], r"messages\[0\]: not a table"),
        ([TALK[1], TALK[0]], r"messages\[1\]: a system message"),
    ],
)
def test_what_is_no_conversation_is_named_by_its_index(chat, messages, where):
    with pytest.raises(DataError, match=where):
        chat.render(messages)


def test_a_row_without_an_assistant_teaches_nothing_and_is_an_error(chat):
    with pytest.raises(DataError, match="row 7: nothing to learn"):
        chat.training_row(TALK[:2], "row 7")


@pytest.mark.parametrize(
    ("template", "what"),
    [
        ("{% for x in range(100000000) %}a{% endfor %}", "range"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ '{0.__class__}'.format(messages) }}", "unsafe"),
        ("{{ '{:999999999}'.format(1) }}", "unsafe"),
        ("{{ '%999999999d' % 1 }}", "not allowed"),
        ("{{ 'a' * 99999999999 }}", "not allowed"),
        ("{{ 9 ** 9 ** 9 ** 9 }}", "not allowed"),
        ("{{ 'a'.center(99999999999) }}", "unsafe"),
        ("{{ messages[99].content.nothing }}", "no element 99"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        (
            "{% for a in range(9999) %}{% for b in range(9999) %}"
            "{{ 'x' * 999 }}{% endfor %}{% endfor %}",
            "8000000|too much text",
        ),
        ("{% include 'x' %}", "loader"),
    ],
)
def test_a_hostile_or_broken_template_is_an_error_with_its_line(tokenizer, template, what):
    with pytest.raises(ModelFileError, match=f"chat_template.*({what})") as caught:
        ChatFormat(tokenizer, template).render(TALK)
    assert caught.value.code == "E407"


def test_a_template_that_is_not_jinja_names_the_line(tokenizer):
    with pytest.raises(ModelFileError, match="chat_template:2"):
        ChatFormat(tokenizer, "a\n{% if %}")


UNMARKED = CHATML.replace("{%- generation %}", "").replace("{%- endgeneration %}", "")


@given(st.lists(PIECES, min_size=2, max_size=6))
@settings(max_examples=50, deadline=None)
def test_what_is_learned_is_found_without_marks_too(tokenizer, chat, turns):
    roles = ["system", *["user", "assistant"] * 3]
    messages = [{"role": role, "content": text} for role, text in zip(roles, turns, strict=False)]
    if len(messages) % 2 == 0:
        messages = messages[1:]  # without a system's word; it still ends with an assistant's
    if messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": "yes"})
    plain = ChatFormat(tokenizer, UNMARKED)
    assert not plain.marks_generation
    expected, got = chat.training_row(messages), plain.training_row(messages)
    assert got == expected


def test_where_prompts_do_not_say_what_is_learned_marks_are_needed(tokenizer):
    forgets = UNMARKED.replace(
        "message.content + '<|im_end|>'",
        "(message.content if loop.last or message.role != 'assistant' else '…') + '<|im_end|>'",
    )
    assert forgets != UNMARKED
    plain = ChatFormat(tokenizer, forgets)
    assert any(plain.training_row(TALK[:3]).learn)
    with pytest.raises(ModelFileError, match="does not mark what is learned"):
        plain.training_row(TALK)


def test_an_outgrown_conversation_loses_its_oldest_exchange_first(chat):
    full = chat.render([*TALK, TALK[1]], reply=True)
    kept, rendered = chat.fit([*TALK, TALK[1]], len(full.ids))
    assert kept == [*TALK, TALK[1]]
    kept, rendered = chat.fit([*TALK, TALK[1]], len(full.ids) - 1)
    assert kept == [TALK[0], *TALK[3:], TALK[1]]
    assert len(rendered.ids) < len(full.ids)
    with pytest.raises(DataError, match=r"messages\[5\]: too long"):
        chat.fit([*TALK, TALK[1]], 3)


def test_a_template_that_fails_names_its_line_and_the_message(tokenizer):
    template = (
        "{% for message in messages %}\n"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}\n"
        "{{ message['content'] }}{% endfor %}"
    )
    chat = ChatFormat(tokenizer, template)
    turns = ["user", "assistant", "user", "user", "assistant"]
    messages = [{"role": role, "content": "Hello."} for role in turns]
    with pytest.raises(ModelFileError, match=r"chat_template:2: roles .*, at messages\[3\]"):
        chat.render(messages)
    assert chat.render(messages[:3]).text
