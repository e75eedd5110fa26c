// What the page says, in both languages.
export const WORDS = {
  en: {
    other: "中文", skip: "Skip to the content", model: "Model", tabs: "What the model can do", key: "Key",
    keyAsk: "Key of this server", ok: "OK", cancel: "Cancel",
    chat: "Chat", complete: "Continue", classify: "Classify", tag: "Tag", span: "Answer",
    translate: "Translate", summarize: "Summarise", card: "Model card", curves: "Training",
    you: "You", model_: "Model", empty: "Write something. Nothing leaves this server.",
    write: "Your message", send: "Send", stop: "Stop", again: "Regenerate", clear: "New chat",
    settings: "Settings", system: "System message", temperature: "Temperature", topP: "Top-p",
    maxTokens: "Tokens at most", seed: "Seed (empty: a new one each time)", penalty: "Repetition penalty",
    text: "Text", question: "Question", context: "Text that has the answer", run: "Run",
    nothing: "Nothing was found.", score: "score", label: "Label", noAnswer: "The text has no answer.",
    working: "Working …", reading: "Reading the prompt …", done: "{tokens} tokens · {speed} tokens a second · first after {first} s",
    read: "prompt {prompt} tokens, {cached} of them known already", failed: "Error: {message}",
    field: "Field", value: "Value", train: "training", valid: "validation", step: "step", loss: "loss",
    noCurves: "This model has no run beside it.", stopped: "Stopped",
    embed: "Similarity", nearest: "Texts, one a line: how near is the first one to the others?",
    twoLines: "Two lines at least, please.", shape: "Kind", decoder: "decoder", encoder: "encoder", both: "encoder and decoder",
    task: "Was taught to", parameters: "Parameters", weights: "Weights", context: "Context (tokens)", vocabulary: "Vocabulary",
    can: "Can", comma: ", ", tokensRead: "Tokens it has read", steps: "Steps of training", took: "Training took", bestLoss: "Best validation loss",
    energy: "Energy (estimate)", wattHours: "{hours} Wh", since: "Served since", hours: "h", minutes: "min", seconds: "s",
    prefer: "Prefer", cut: "The text is longer than the model reads; its end was left out.",
  },
  zh: {
    other: "English", skip: "跳到正文", model: "模型", tabs: "这个模型会做的事", key: "密钥",
    keyAsk: "这台服务器的密钥", ok: "确定", cancel: "取消",
    chat: "对话", complete: "续写", classify: "分类", tag: "标注", span: "问答",
    translate: "翻译", summarize: "摘要", card: "模型信息", curves: "训练曲线",
    you: "你", model_: "模型", empty: "写点什么吧。内容不会离开这台服务器。",
    write: "你的话", send: "发送", stop: "停止", again: "重新生成", clear: "新对话",
    settings: "设置", system: "系统消息", temperature: "温度", topP: "Top-p",
    maxTokens: "最多词元数", seed: "随机种子（留空则每次不同）", penalty: "重复惩罚",
    text: "文本", question: "问题", context: "答案所在的文本", run: "运行",
    nothing: "什么也没找到。", score: "得分", label: "标签", noAnswer: "文本里没有答案。",
    working: "处理中…", reading: "正在读取提示…", done: "{tokens} 个词元 · 每秒 {speed} 个 · {first} 秒后出现第一个",
    read: "提示 {prompt} 个词元，其中 {cached} 个已经读过", failed: "出错了：{message}",
    field: "项目", value: "内容", train: "训练", valid: "验证", step: "步", loss: "损失",
    noCurves: "这个模型旁边没有训练记录。", stopped: "已停止",
    embed: "相似度", nearest: "每行一段文本：第一段与其余各段有多接近？",
    twoLines: "请至少写两行。", shape: "类型", decoder: "解码器", encoder: "编码器", both: "编码器–解码器",
    task: "学过的任务", parameters: "参数量", weights: "权重", context: "上下文（词元）", vocabulary: "词表大小",
    can: "能做的事", comma: "、", tokensRead: "读过的词元", steps: "训练步数", took: "训练用时", bestLoss: "最低验证损失",
    energy: "能耗（估计）", wattHours: "{hours} 瓦时", since: "开始服务", hours: "小时", minutes: "分", seconds: "秒",
    prefer: "偏好", cut: "文本超出模型能读的长度，末尾部分未读。",
  },
};

export let language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");

export function say(name, values = {}) {
  const text = WORDS[language][name] ?? name;
  return text.replace(/\{(\w+)\}/g, (_, key) => String(values[key] ?? ""));
}

export function turn() {
  language = language === "en" ? "zh" : "en";
  localStorage.setItem("language", language);
}
