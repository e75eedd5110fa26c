"""The page in a real browser: what a person does on it, in both languages, on a phone, by keys.

The models behind it are stubs, so that what they say is known to the letter.
"""

import re
import shutil

import pytest
from serving import KEY, Stub

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
]
CAUGHT = "document.title='caught'"
EVIL = f'<img src=x onerror="{CAUGHT}"><script>{CAUGHT}</script>&lt;b>'


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as begun:
        opened = begun.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, run_server):
    """A page of a server with these models, its key given; trouble in it fails the test."""
    contexts, trouble = [], []

    def start(*, key=KEY, models=None, **options):
        server = run_server(models)
        context = browser.new_context(**{"locale": "en-US"} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: request.url.startswith(server.url)
                or trouble.append(request.url))  # fmt: skip
        page.goto(server.url)
        if key:
            page.locator("#key-text").fill(key)
            page.keyboard.press("Enter")
            page.locator("[role=tab]").first.wait_for()
        return page

    yield start
    for context in contexts:
        context.close()
    assert not trouble


def says(page, text):
    playwright.expect(page.locator("#status")).to_contain_text(text)


def test_a_conversation(open_page):
    stub = Stub("chat", "complete", pieces=("One ", "two ", EVIL))
    page = open_page(models={"small": stub})
    page.get_by_label("Your message").fill("Hello\nthere")
    page.keyboard.press("Enter")
    says(page, "3 tokens")
    says(page, "prompt 5 tokens, 2 of them known already")
    answer = page.locator(".said.assistant")
    playwright.expect(answer).to_contain_text("One two " + EVIL)  # text, to the letter
    assert page.locator(".said img, .said script, .said b").count() == 0
    assert page.title() == "Yantai 砚台"

    page.get_by_role("button", name="Regenerate").click()
    playwright.expect(answer).to_have_count(1)
    page.locator("summary").click()
    page.get_by_label("System message").fill("Be brief.")
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Seed").fill("7")
    page.get_by_label("Your message").fill("Again")
    page.keyboard.press("Enter")
    playwright.expect(page.locator(".said.assistant")).to_have_count(2)
    says(page, "3 tokens")
    last = stub.asked[-1]
    assert [each["role"] for each in last["messages"]] == ["system", "user", "assistant", "user"]
    assert last["messages"][1]["content"] == "Hello\nthere"
    assert last["messages"][2]["content"] == "One two " + EVIL
    assert (last["temperature"], last["seed"], last["max_new_tokens"]) == (0.3, 7, None)
    page.get_by_role("button", name="New chat").click()
    assert page.locator(".said").count() == 0


def test_an_answer_is_stopped_by_key_and_by_button(open_page):
    stub = Stub("chat", pieces=["word "] * 400, pause=0.05)
    page = open_page(models={"small": stub})
    for stop in (lambda: page.keyboard.press("Escape"),
                 lambda: page.get_by_role("button", name="Stop").click()):  # fmt: skip
        page.get_by_label("Your message").fill("Go on")
        page.keyboard.press("Enter")
        playwright.expect(page.locator(".said.assistant").last).to_contain_text("word word")
        stop()
        says(page, "Stopped")
        playwright.expect(page.get_by_role("button", name="Send")).to_be_visible()
    for _ in range(50):
        if stub.cancelled == 2:
            break
        page.wait_for_timeout(100)
    assert stub.cancelled == 2
    assert page.locator(".said.assistant").count() == 2  # what was said stays


def test_a_tab_for_each_job(open_page):
    judge = Stub("classify", answers=[{"labels": ["好"], "probabilities": {"坏": 0.1, "好": 0.9}}])
    tagger = Stub("tag", answers=[[{"start": 1, "end": 3, "label": "NAME", "text": "😀b"}]])
    finder = Stub("span", answers=[{"text": "b", "start": 2, "end": 3, "score": 1.5}])
    writer = Stub("translate", answers=["Guten Tag <b>"])
    near = Stub("embed", answers=[[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]], shape="encoder")
    taught = {"judge": judge, "tagger": tagger, "finder": finder, "writer": writer, "near": near}
    page = open_page(models=taught)
    names = {"judge": "Classify", "tagger": "Tag", "finder": "Answer", "writer": "Translate"}
    for model, tab in names.items():
        page.locator("#model").select_option(model)
        shown = page.get_by_role("tab")
        playwright.expect(shown).to_have_text([tab, "Model card", "Training"])
        if model == "finder":
            page.get_by_label("Question").fill("What?")
        page.get_by_label("Text").fill("a😀bc")
        page.get_by_role("button", name="Run").click()
        result = page.locator(".result")
        expected = {"judge": "90.0 %", "tagger": "😀bNAME", "finder": "score 1.50",
                    "writer": "Guten Tag <b>"}[model]  # fmt: skip
        playwright.expect(result).to_contain_text(expected)
    page.locator("#model").select_option("finder")
    asked = {"do": "answer", "input": ["a😀bc"], "question": ["What?"], "truncate": True}
    assert finder.asked == [asked]
    page.locator("#model").select_option("near")
    page.get_by_label("Texts, one a line").fill("x\ny\n\nz")
    page.get_by_role("button", name="Run").click()
    rows = page.locator(".bar")
    playwright.expect(rows).to_have_text([re.compile("z.*0.600"), re.compile("y.*0.000")])


def test_it_speaks_chinese_and_stays_with_it(open_page):
    page = open_page(models={"小模型": Stub("chat", "complete")}, locale="zh-CN")
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    tabs = page.get_by_role("tab")
    playwright.expect(tabs).to_have_text(["对话", "续写", "模型信息", "训练曲线"])
    page.get_by_label("你的话").fill("你好")
    page.keyboard.press("Enter")
    playwright.expect(page.locator(".said.assistant")).to_contain_text("你好，world")
    page.get_by_role("tab", name="模型信息").click()
    playwright.expect(page.locator("table")).to_contain_text("参数量12,345")
    page.get_by_role("button", name="English").click()
    playwright.expect(page.locator("table")).to_contain_text("Parameters12,345")
    page.reload()
    playwright.expect(page.get_by_role("tab").first).to_have_text("Chat")


def test_by_keys_alone(open_page):
    page = open_page(models={"small": Stub("chat", "complete")})
    page.get_by_role("tab", name="Chat").focus()
    page.keyboard.press("ArrowRight")
    chosen = page.locator("[role=tab][aria-selected=true]")
    playwright.expect(chosen).to_have_text("Continue")
    playwright.expect(chosen).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    playwright.expect(chosen).to_have_text("Training")
    playwright.expect(page.locator("main")).to_contain_text("no run beside it")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, select, meter")]
        .filter((each) => !(each.textContent.trim() || each.ariaLabel || each.labels?.length))
        .map((each) => each.outerHTML)"""
    )
    assert unnamed == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_lies_outside(open_page, scheme):
    page = open_page(
        models={"small": Stub("chat", "complete", "translate")}, color_scheme=scheme,
        viewport={"width": 360, "height": 640}, locale="zh-CN",
    )  # fmt: skip
    for tab in page.get_by_role("tab").all():
        tab.click()
        if page.locator("summary").count():
            page.locator("summary").click()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) < 200) == (scheme == "dark")


def test_a_wrong_key_is_told_and_a_right_one_opens(open_page):
    page = open_page(models={"small": Stub("chat")}, key=None)
    playwright.expect(page.get_by_role("dialog")).to_be_visible()
    page.locator("#key-text").fill("wrong")
    page.keyboard.press("Enter")
    playwright.expect(page.locator("#status.bad")).to_be_visible()
    playwright.expect(page.get_by_role("dialog")).to_be_visible()
    page.locator("#key-text").fill(KEY)
    page.keyboard.press("Enter")
    playwright.expect(page.get_by_role("tab").first).to_have_text("Chat")
    assert KEY not in page.content()
