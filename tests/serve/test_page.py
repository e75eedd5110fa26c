"""The page in a real browser: what a person does on it, in both languages, on a phone, by keys.

The models behind it are stubs, so that what they say is known to the letter.
"""

import re
import shutil
from importlib import resources

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


def ask(page, text):
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


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


def test_a_new_chat_hears_nothing_of_the_old_one(open_page):
    stub = Stub("chat", pieces=["word "] * 100, pause=0.05)
    page = open_page(models={"small": stub})
    ask(page, "Old")
    playwright.expect(page.locator(".said.assistant")).to_contain_text("word word")
    page.get_by_role("button", name="New chat").click()
    playwright.expect(page.get_by_role("button", name="Send")).to_be_visible()
    page.wait_for_timeout(300)
    assert page.locator(".said").count() == 0
    playwright.expect(page.locator("#status")).to_have_text("")
    stub.pieces = ["short"]
    ask(page, "New")
    says(page, "1 tokens")
    playwright.expect(page.locator(".said")).to_have_text(["YouNew", "Modelshort"])
    assert stub.asked[-1]["messages"] == [{"role": "user", "content": "New"}]
    assert stub.cancelled == 1


@pytest.mark.parametrize("leave", ["language", "tab"])
def test_an_answer_goes_on_while_the_page_is_drawn_anew(open_page, leave):
    stub = Stub("chat", pieces=[f"w{n} " for n in range(30)], pause=0.1)
    page = open_page(models={"small": stub})
    ask(page, "Go on")
    page.get_by_role("textbox").first.fill("half a thought")
    answer = page.locator(".said.assistant")
    playwright.expect(answer).to_contain_text("w1 ")
    if leave == "language":
        page.get_by_role("button", name="中文").press("Enter")
        playwright.expect(page.locator("#language")).to_be_focused()
        says(page, "正在生成")
    else:
        page.get_by_role("tab", name="Model card").click()
        playwright.expect(page.locator("#status")).to_have_text("")
        page.get_by_role("tab", name="Chat").click()
        says(page, "Writing")
    playwright.expect(page.locator(".write textarea")).to_have_value("half a thought")
    page.locator(".write textarea").press("Enter")  # a second question has to wait
    playwright.expect(answer).to_contain_text("w12 w13 ")
    assert page.locator(".said").count() == 2 and len(stub.asked) == 1
    page.get_by_role("button", name=re.compile("Stop|停止")).click()
    says(page, "已停止" if leave == "language" else "Stopped")
    said = answer.locator("span").last.text_content()
    assert said.split() == [f"w{n}" for n in range(len(said.split()))]
    stub.pieces = ["short"]
    page.locator(".write textarea").press("Enter")
    playwright.expect(page.locator(".said").last).to_contain_text("short")
    sent = stub.asked[-1]["messages"]
    assert [each["role"] for each in sent] == ["user", "assistant", "user"]
    assert sent[1]["content"] == said


def test_a_continuation_goes_on_while_the_page_is_drawn_anew(open_page):
    stub = Stub("complete", pieces=[f"w{n} " for n in range(30)], pause=0.1)
    page = open_page(models={"small": stub})
    text = page.get_by_label("Text")
    text.fill("Once ")
    page.get_by_role("button", name="Continue").click()
    playwright.expect(text).to_have_value(re.compile("w1 "))
    page.get_by_role("tab", name="Model card").click()
    page.get_by_role("tab", name="Continue").click()
    playwright.expect(text).to_have_value(re.compile("^Once w0 w1 .*w12 "))
    page.get_by_role("button", name="Stop").click()
    says(page, "Stopped")
    assert len(stub.asked) == 1


def test_a_refused_message_is_taken_back(open_page):
    wrong = {"status": 429, "message": "too many wait", "code": "E804", "param": None}
    odd = {"status": 400, "message": "<b>odd</b>", "code": None, "param": None}
    stub = Stub("chat")
    page = open_page(models={"small": stub})
    ask(page, "First")
    says(page, "2 tokens")
    for error, told in ((wrong, "Too many requests are waiting"), (odd, "(<b>odd</b>)")):
        stub.refuse = lambda question, error=error: error
        ask(page, "Second")
        says(page, told)
        playwright.expect(page.get_by_label("Your message")).to_have_value("Second")
        playwright.expect(page.locator(".said")).to_have_count(2)
    page.get_by_role("button", name="Regenerate").click()
    says(page, "(<b>odd</b>)")
    playwright.expect(page.get_by_role("button", name="Regenerate")).to_be_focused()
    playwright.expect(page.locator(".said.assistant")).to_contain_text("你好，world")
    stub.refuse = lambda question: None
    page.get_by_label("Your message").press("Enter")
    says(page, "2 tokens")
    sent = [each["content"] for each in stub.asked[-1]["messages"]]
    assert sent == ["First", "你好，world", "Second"]
    page.route("**/v1/chat/completions", lambda route: route.abort())
    ask(page, "Third")
    says(page, "cannot be reached")
    playwright.expect(page.get_by_label("Your message")).to_have_value("Third")


def test_of_a_long_talk_the_oldest_messages_are_left_out(open_page):
    def refuse(question):
        said = [each["content"] for each in question["messages"]]
        error = {"status": 400, "message": "too long", "code": "context_length_exceeded"}
        return error if sum(map(len, said)) > 30 else None

    stub = Stub("chat", pieces=["0123456789"], refuse=refuse)
    page = open_page(models={"small": stub})
    page.locator("summary").click()
    page.get_by_label("System message").fill("Hi.")
    for number, text in enumerate(("one", "two", "three", "four")):
        ask(page, text)
        playwright.expect(page.locator(".said")).to_have_count(2 * number + 2)
        says(page, "1 tokens")
        left_out = page.locator("#status", has_text="oldest messages were left out")
        assert left_out.count() == (number > 1)
    sent = [each["content"] for each in stub.asked[-1]["messages"]]
    assert sent == ["Hi.", "three", "0123456789", "four"]
    playwright.expect(page.locator(".said").first).to_contain_text("one")
    ask(page, "x" * 31)  # alone too long
    says(page, "Too long")
    playwright.expect(page.get_by_label("Your message")).to_have_value("x" * 31)
    playwright.expect(page.locator(".said")).to_have_count(8)


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
    page.get_by_label("输入消息").fill("你好")
    page.keyboard.press("Enter")
    playwright.expect(page.locator(".said.assistant")).to_contain_text("你好，world")
    page.get_by_role("tab", name="模型信息").click()
    playwright.expect(page.locator("table")).to_contain_text("参数量12,345")
    page.get_by_role("button", name="English").click()
    playwright.expect(page.locator("table")).to_contain_text("Parameters12,345")
    page.reload()
    playwright.expect(page.get_by_role("tab").first).to_have_text("Chat")


def test_usual_mistakes_are_told_in_chinese_alone(open_page):
    stub = Stub("chat")
    page = open_page(models={"small": stub}, locale="zh-CN")
    page.locator("summary").click()
    page.get_by_label("温度").fill("9")
    page.get_by_label("输入消息").fill("你好")
    page.get_by_label("输入消息").press("Enter")
    says(page, "“温度”的值不符合要求")
    page.get_by_label("温度").fill("1")
    page.get_by_label("随机种子").fill("0.5")
    page.get_by_label("输入消息").press("Enter")
    says(page, "“随机种子”的格式不正确")
    page.get_by_label("随机种子").fill("")
    broken = {"status": 500, "message": "internal error", "code": None, "param": None}
    stub.refuse = lambda question: broken
    page.get_by_label("输入消息").press("Enter")
    says(page, "服务器内部出错")
    assert not re.search("should|error", page.locator("#status").inner_text())


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
    page.keyboard.press("Home")
    playwright.expect(chosen).to_have_text("Chat")
    page.keyboard.press("End")
    playwright.expect(chosen).to_have_text("Training")
    playwright.expect(chosen).to_be_focused()
    playwright.expect(page.locator("main")).to_contain_text("no run beside it")
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("button, input, textarea, select, meter")]
        .filter((each) => !(each.textContent.trim() || each.ariaLabel || each.labels?.length))
        .map((each) => each.outerHTML)"""
    )
    assert unnamed == []


def test_no_word_stands_twice():
    text = (resources.files("yantai.serve") / "page" / "words.js").read_text(encoding="utf-8")
    english, chinese = (re.findall(r'(\w+): "', part) for part in text.split("  zh: {"))
    assert english == chinese and len(set(english)) == len(english)


def test_what_is_asked_is_labelled_and_named_where_it_is_missing(open_page):
    finder = Stub("span", answers=[{"text": "b", "start": 2, "end": 3, "score": 1.5}])
    page = open_page(models={"finder": finder}, locale="zh-CN")
    page.get_by_label("包含答案的文本").fill("a b")
    run = page.get_by_role("button", name="运行")
    run.click()
    says(page, "请先输入问题")
    assert finder.asked == []
    page.get_by_label("问题").fill("哪个？")
    run.press("Enter")
    result = page.get_by_role("region", name="结果")
    playwright.expect(result).to_contain_text("得分 1.50")
    playwright.expect(run).to_be_focused()
    page.get_by_role("button", name="English").click()  # what was found stays
    found = page.get_by_role("region", name="Result")
    playwright.expect(found).to_contain_text("score 1.50")


@pytest.mark.parametrize("width", [390, 1280])
def test_a_long_name_widens_nothing(open_page, width):
    name = "a-model-with-a-name-that-does-not-end" * 8
    page = open_page(models={name: Stub("chat")}, viewport={"width": width, "height": 844})
    for tab in page.get_by_role("tab").all():
        tab.click()
        assert page.evaluate(
            "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        )
    heading, button = page.locator("h1").bounding_box(), page.locator("#language").bounding_box()
    assert abs(heading["y"] - button["y"]) < 20  # one row, the button at its end
    assert width - 20 < button["x"] + button["width"] <= width


def test_settings_lie_in_even_rows_on_a_phone(open_page):
    viewport = {"width": 390, "height": 844}
    page = open_page(models={"small": Stub("chat", "complete")}, viewport=viewport)
    for tab in ("Chat", "Continue"):
        page.get_by_role("tab", name=tab).click()
        page.locator("summary").click()
        boxes = [each.bounding_box() for each in page.locator(".controls input").all()]
        assert all(box["x"] + box["width"] <= 390 for box in boxes) and len(boxes) == 5
        for one, other in zip(boxes[:4:2], boxes[1:4:2], strict=True):
            assert abs(one["y"] - other["y"]) < 1 and one["x"] + one["width"] < other["x"]
        if tab == "Chat":
            assert page.locator(".talk").bounding_box()["height"] > 200


def test_curves_are_drawn_for_the_room_there_is(open_page):
    rows = [{"step": n, "loss": 5 - n / 300, "valid_loss": 5 - n / 290} for n in range(1, 1001)]
    table = {"object": "list", "data": rows}
    page = open_page(models={"small": Stub("chat")})
    page.route("**/curves", lambda route: route.fulfill(json=table))
    page.get_by_role("tab", name="Training").click()
    marks = {1280: "0 100 200 300 400 500 600 700 800 900 1,000", 390: "0 500 1,000"}
    for width, wanted in marks.items():
        page.set_viewport_size({"width": width, "height": 800})
        shown = page.locator("svg text[text-anchor=middle]")
        playwright.expect(shown).to_have_text([*wanted.split(), "step"])
        drawn = page.locator("svg").bounding_box()
        assert drawn["width"] == float(page.locator("svg").get_attribute("width"))
        assert drawn["x"] + drawn["width"] <= width


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
    dialog = page.get_by_role("dialog")
    playwright.expect(dialog).to_be_visible()
    playwright.expect(dialog.get_by_role("alert")).to_have_text("")
    page.keyboard.press("Escape")
    playwright.expect(page.locator("main")).to_contain_text("answers only to a key")
    page.get_by_role("button", name="Enter the key").click()
    for wrong, told in (("wrong", "not accepted"), ("密钥", "Latin letters")):
        page.locator("#key-text").fill(wrong)
        page.keyboard.press("Enter")
        playwright.expect(dialog.get_by_role("alert")).to_contain_text(told)
        playwright.expect(page.locator("#status.bad")).to_be_visible()
        playwright.expect(dialog).to_be_visible()
    page.locator("#key-text").fill(KEY)
    page.keyboard.press("Enter")
    playwright.expect(page.get_by_role("tab").first).to_have_text("Chat")
    playwright.expect(page.get_by_label("Your message")).to_be_focused()
    assert KEY not in page.content()
