"""F28: templates that would fill the memory or never end are refused, those in use are not."""

import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest

from yantai.base.errors import ModelFileError
from yantai.text.chat import ChatFormat

TALK = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day."}]
TWICE = "{% for i in range(40) %}"
HOSTILE = {
    "loops in loops that show nothing": "{% for a in range(9999) %}{% for b in range(9999) %}"
    "{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
    "a text twice": "{% set n = namespace(x='aa') %}" + TWICE
    + "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a text and itself": "{% set n = namespace(x='aa') %}" + TWICE
    + "{% set n.x = n.x + n.x %}{% endfor %}",
    "a block twice": "{% set n = namespace(x='aa') %}" + TWICE
    + "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    "a list of itself": "{% set n = namespace(x=['a']) %}" + TWICE
    + "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
    "a table of itself": "{% set n = namespace(x={}) %}" + TWICE
    + "{% set n.x = dict(a=n.x, b=n.x) %}{% endfor %}{{ n.x | tojson }}",
    "names in names": "{% set n = namespace(x=1) %}" + TWICE
    + "{% set n.x = namespace(a=n.x, b=n.x) %}{% endfor %}{{ n.x }}",
    "a replacement": "{{ ('a' * 9999) | replace('a', 'b' * 9999) | length }}",
    "a replacement by a method": "{{ ('a' * 9999).replace('a', 'b' * 9999) | length }}",
    "joined by much": "{{ range(9999) | join('b' * 9999) | length }}",
    "joined by a method": "{{ ('b' * 9999).join(['a'] * 9999) | length }}",
    "a sum of lists": "{{ ([[1] * 9999] * 9999) | sum(start=[]) | length }}",
    "rows of a billion": "{{ [1] | batch(999999999, 'x') | list | length }}",
    "slices of a billion": "{{ [1] | slice(999999999) | list | length }}",
    "a number of a billion bytes": "{{ (1).to_bytes(999999999, 'big') | length }}",
    "a table of letters": "{{ ('a' * 9999).translate({97: 'b' * 9999}) | length }}",
    "an indent": "{{ messages | tojson(indent=99999999) }}",
    "a macro without end": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "a loop of itself": "{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "much text in a loop": "{% set x %}{% for a in range(9999) %}" + "x" * 50_000
    + "{% endfor %}{% endset %}",
    "work that is long": "{% for a in range(9999) %}{% for b in range(9999) %}"
    "{{ ('a' * 9999) in ('b' * 9999) }}{% endfor %}{% endfor %}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_fill_the_memory_or_never_end_is_refused(name, tokenizer):
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError) as caught:
            ChatFormat(tokenizer, HOSTILE[name]).render(TALK)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.code == "E407"
    assert most < 64e6


def test_long_conversations_and_usual_ways_to_write_them_pass(tokenizer):
    long = [
        {"role": "user" if number % 2 == 0 else "assistant", "content": "a word " * 500}
        for number in range(400)
    ]
    plain = ChatFormat(tokenizer).render(long).text
    assert plain.count("a word ") == 400 * 500
    gathered = (
        "{%- set n = namespace(text='') -%}{%- for m in messages -%}"
        "{%- set n.text = n.text + '<|im_start|>' ~ m['role'] ~ '\\n' ~ m.content | string -%}"
        "{%- set n.text = n.text + '<|im_end|>\\n' -%}"
        "{%- endfor -%}{{ bos_token + n.text }}"
    )
    assert ChatFormat(tokenizer, gathered).render(long[:60]).text == (
        ChatFormat(tokenizer).render(long[:60]).text
    )
    usual = (
        "{%- set said = messages | selectattr('role', 'equalto', 'user') | list -%}"
        "{%- set roles = messages | map(attribute='role') | unique | join(', ') -%}"
        "{{ said | length }} {{ roles }} {{ messages[0] | tojson }} {{ messages[1:] | length }} "
        "{{ '%s' | length }} {{ messages[-1]['content'].split(' ')[0] | upper | trim }} "
        "{%- macro turn(m) %}[{{ m.role | title }}]{% endmacro %}{{ turn(messages[0]) }}"
    )
    text = ChatFormat(tokenizer, usual).render(TALK).text
    assert text == '1 user, assistant {"role": "user", "content": "Hello"} 1 2 GOOD[User]'


def test_threads_have_each_their_own_budget_and_marks(tokenizer):
    chat = ChatFormat(tokenizer)
    talks = [[{"role": "user", "content": f"{n} " * 200}, TALK[1]] for n in range(64)]
    alone = [chat.render(talk) for talk in talks]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(chat.render, talks))
    assert together == alone
