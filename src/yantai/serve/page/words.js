// What the page says, in both languages. `error_…`: what the server's own names of errors mean.
export const WORDS = {
  en: {
    other: "中文", skip: "Skip to the content", model: "Model", tabs: "What the model can do", key: "Key",
    keyAsk: "Key of this server", ok: "OK", cancel: "Cancel",
    needKey: "This server answers only to a key.", giveKey: "Enter the key", retry: "Try again",
    oddKey: "A key has Latin letters, digits and signs only, and no spaces.",
    chat: "Chat", complete: "Continue", classify: "Classify", tag: "Tag", span: "Answer",
    translate: "Translate", summarize: "Summarise", card: "Model card", curves: "Training",
    you: "You", model_: "Model", empty: "Write something. Nothing leaves this server.", silent: "(no words)",
    write: "Your message", send: "Send", stop: "Stop", again: "Regenerate", clear: "New chat",
    settings: "Settings", system: "System message", temperature: "Temperature", topP: "Top-p",
    maxTokens: "Tokens at most", noLimit: "no limit", seed: "Seed", newSeed: "new each time",
    penalty: "Repetition penalty", text: "Text", question: "Question", passage: "Text that has the answer",
    run: "Run", result: "Result", noText: "Write something first, please.",
    noQuestion: "Ask a question first, please.",
    nothing: "Nothing was found.", score: "score", noAnswer: "The text has no answer.",
    working: "Working …", reading: "Reading the prompt …", writing: "Writing …",
    done: "{tokens} tokens · {speed} tokens a second · first after {first} s",
    read: "prompt {prompt} tokens, {cached} of them known already", leftOut: "the oldest messages were left out",
    failed: "That did not work ({message})", stopped: "Stopped",
    field: "Field", value: "Value", train: "training", valid: "validation", step: "step", loss: "loss",
    noCurves: "This model has no run beside it.",
    embed: "Similarity", nearest: "Texts, one a line: how near is the first one to the others?",
    twoLines: "Two lines at least, please.",
    untaught: "This model was not taught to compare texts: a rough guide only.",
    family: "Family", shape: "Architecture", decoder: "decoder", encoder: "encoder", both: "encoder and decoder",
    task: "Was taught to", parameters: "Parameters", weights: "Weights", context: "Context (tokens)",
    vocabulary: "Vocabulary", can: "Can", comma: ", ", tokensRead: "Tokens it has read", steps: "Steps of training",
    took: "Training took", bestLoss: "Best validation loss", energy: "Energy (estimate)", wattHours: "{hours} Wh",
    since: "Served since", hours: "h", minutes: "min", seconds: "s",
    cut: "The text is longer than the model reads; its end was left out.",
    error_unreachable: "The server cannot be reached.",
    error_context_length_exceeded: "Too long: this and the answer do not fit into what the model reads at once.",
    error_invalid_api_key: "The key was not accepted.",
    error_rate_limit_exceeded: "More tokens than this key may use in a minute; wait a little.",
    error_unavailable: "The server is not available now; try again soon.",
    error_shutting_down: "The server shuts down; the answer ends here.",
    error_too_slow: "The answer was not taken in time, and ends here.",
    error_timeout: "Sending took too long.",
    error_body_too_large: "This is larger than the server takes.",
    error_model_not_found: "This model is no longer served; load the page again.",
    error_unsupported_model: "This model cannot do that.",
    error_invalid_host: "The server is not to be called by this address.",
    error_server_error: "The server made a mistake; ask again.",
    error_invalid_value: "That is not allowed ({message}).",
    error_invalid_type: "That has another form than it should ({message}).",
    error_E201: "There is nothing here to be read ({message}).",
    error_E304: "That cannot be used ({message}).",
    error_E312: "This conversation does not fit the model ({message}).",
    error_E407: "The model's chat template cannot write down this conversation.",
    error_E803: "The engine failed while it answered; ask again.",
    error_E804: "Too many requests are waiting; try again soon.",
  },
  zh: {
    other: "English", skip: "跳到主要内容", model: "模型", tabs: "模型功能", key: "密钥",
    keyAsk: "请输入服务器密钥", ok: "确定", cancel: "取消",
    needKey: "需要密钥才能使用此服务器。", giveKey: "输入密钥", retry: "重试",
    oddKey: "密钥只能包含英文字母、数字和符号，不能有空格。",
    chat: "对话", complete: "续写", classify: "分类", tag: "标注", span: "问答",
    translate: "翻译", summarize: "摘要", card: "模型信息", curves: "训练曲线",
    you: "你", model_: "模型", empty: "输入消息，开始对话。内容不会离开这台服务器。", silent: "（没有输出）",
    write: "输入消息…", send: "发送", stop: "停止", again: "重新生成", clear: "新对话",
    settings: "设置", system: "系统提示词", temperature: "温度", topP: "Top-p",
    maxTokens: "最大词元数", noLimit: "不限", seed: "随机种子", newSeed: "每次不同",
    penalty: "重复惩罚", text: "文本", question: "问题", passage: "包含答案的文本",
    run: "运行", result: "结果", noText: "请先输入内容。",
    noQuestion: "请先输入问题。",
    nothing: "未找到任何内容。", score: "得分", noAnswer: "文本中没有答案。",
    working: "处理中…", reading: "正在读取提示词…", writing: "正在生成…",
    done: "{tokens} 个词元 · 每秒 {speed} 个 · 首个词元用时 {first} 秒",
    read: "提示词 {prompt} 个词元，其中 {cached} 个命中缓存", leftOut: "较早的消息已省略",
    failed: "操作失败（{message}）", stopped: "已停止",
    field: "项目", value: "内容", train: "训练", valid: "验证", step: "步数", loss: "损失",
    noCurves: "未找到该模型的训练记录。",
    embed: "相似度", nearest: "每行一段文本，比较第一段与其余各段的相似度",
    twoLines: "请至少输入两行。",
    untaught: "该模型未针对文本相似度训练，结果仅供参考。",
    family: "模型系列", shape: "结构", decoder: "解码器", encoder: "编码器", both: "编码器–解码器",
    task: "训练任务", parameters: "参数量", weights: "权重精度", context: "上下文长度（词元）",
    vocabulary: "词表大小", can: "支持的功能", comma: "、", tokensRead: "训练词元数", steps: "训练步数",
    took: "训练用时", bestLoss: "最低验证损失", energy: "能耗（估算）", wattHours: "{hours} 瓦时",
    since: "启动时间", hours: "小时", minutes: "分", seconds: "秒",
    cut: "文本超出模型可读取的长度，末尾部分已省略。",
    error_unreachable: "无法连接服务器。",
    error_context_length_exceeded: "内容过长：输入与回答的总长度超出模型的上下文。",
    error_invalid_api_key: "密钥无效。",
    error_rate_limit_exceeded: "该密钥每分钟的词元用量已达上限，请稍后再试。",
    error_unavailable: "服务器暂时不可用，请稍后再试。",
    error_shutting_down: "服务器正在关闭，回答到此中断。",
    error_too_slow: "接收回答过慢，回答到此中断。",
    error_timeout: "发送请求超时。",
    error_body_too_large: "内容超过服务器允许的大小。",
    error_model_not_found: "该模型已不再提供服务，请刷新页面。",
    error_unsupported_model: "该模型不支持此功能。",
    error_invalid_host: "服务器不允许通过此地址访问。",
    error_server_error: "服务器内部出错，请重试。",
    error_invalid_value: "“{field}”的值不符合要求。",
    error_invalid_type: "“{field}”的格式不正确。",
    error_E201: "“{field}”中没有可处理的文字。",
    error_E304: "“{field}”无法使用。",
    error_E312: "这段对话不符合该模型的格式要求。",
    error_E407: "该模型的对话模板无法处理这段对话。",
    error_E803: "推理引擎出错，请重试。",
    error_E804: "排队的请求过多，请稍后再试。",
  },
};

export let language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");

export function say(name, values = {}) {
  const text = WORDS[language][name] ?? name;
  return text.replace(/\{(\w+)\}/g, (_, key) => String(values[key] ?? ""));
}

// What the server's fields are called on the page.
const FIELDS = new Map([
  ["top_p", "topP"], ["max_tokens", "maxTokens"], ["repetition_penalty", "penalty"], ["messages", "chat"],
  ["prompt", "text"], ["input", "text"], ["inputs", "text"],
]);

// Why something failed; what has no words here is told in the server's own.
export function reason(error) {
  if (error.name === "AbortError") return say("stopped");
  const name = [error.code, error.type].map((each) => `error_${each}`).find((each) => each in WORDS.en);
  const field = error.param?.replace(/\W.*/, "");
  return say(name ?? "failed", { message: error.message, field: say(FIELDS.get(field) ?? field ?? "text") });
}

export function turn() {
  language = language === "en" ? "zh" : "en";
  localStorage.setItem("language", language);
}
