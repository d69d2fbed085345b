"""Names of ours for what an error means, and the words that stand for them.

A name begins with ``@``, so that no server can send it. Words count where a server sends no code
that is known (``core/reply/vendor_codes.py``). They are matched from the message's start, and what
stands in front of them holds no quotation: servers quote prompts. Words that stop a run are the
strictest, since a prompt that got into a message must not.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import NamedTuple


class Phrase(NamedTuple):
    """Words that stand for a name, where servers send no code. ``pattern`` is matched from the
    message's start; what stands before the words must not hold a quotation, since servers quote
    prompts.
    """

    name: str
    words: str
    source: str

    @property
    def pattern(self) -> re.Pattern[str]:
        """Its words, compiled once they are looked for: all of them take 14 ms."""
        return _compiled(self.words)


@functools.cache
def _compiled(words: str) -> re.Pattern[str]:
    return re.compile(words, re.IGNORECASE)


def _phrase(name: str, source: str, *patterns: str) -> Phrase:
    # Gateways put the names of their exceptions in front, DashScope its status.
    raised = (
        r"(?:<\d{3}> ?)?"
        r"(?:[\w. ]{0,60}?(?:error|exception|failed)\b(?: code: \d{3})?(?: ?-|:)? ?){0,3}"
    )
    return Phrase(name, rf"{raised}(?:{'|'.join(patterns)})", source)


CONTEXT = "@context"
SPENDING = "@spending"
PER_DAY = "@per_day"
NO_LIMIT = "@limit_0"
TOO_LARGE = "@above_limit"
MODERATED = "@moderated"
GATEWAY_QUOTA = "@gateway_quota"
WRONG_PATH = "@wrong_path"
SILENT = "@silent"
"""The name of an error without a body that could be read: a page, a text, nothing."""
PAGE = "@page"
"""A page in place of an error: what a server or a proxy in front of the API says by itself."""
NO_FUNDS = "@no_funds"
RESETS = "@resets"
ALLOCATED = "@allocated"
BAD_KEY = "@bad_key"
FORBIDDEN = "@forbidden"
NO_MODEL = "@no_model"
LIMITED = "@limited"
BUSY = "@busy"
FAILED = "@failed"
INVALID = "@invalid"
UNPARSED = "@unparsed"

WORDED: Mapping[str, str] = {
    CONTEXT: "words for a prompt beyond the context",
    SPENDING: "words or a code for a spending limit",
    PER_DAY: "words or a quota id for a limit per day",
    NO_LIMIT: "a limit of 0",
    TOO_LARGE: "more requested than the limit, by the message's figures",
    MODERATED: "words or a code for moderation",
    GATEWAY_QUOTA: "words for a gateway's quota",
    WRONG_PATH: "words for an unknown path",
    SILENT: "no readable error",
    PAGE: "a page in place of an error",
    NO_FUNDS: "words or a code for an empty account",
    RESETS: "words or a code for a budget that renews itself",
    ALLOCATED: "words for tokens per minute",
    BAD_KEY: "words or a code for a key that is not accepted",
    FORBIDDEN: "a code for a missing permission",
    NO_MODEL: "words or a code for an unknown model",
    LIMITED: "words or a code for a rate limit",
    BUSY: "words or a code for an overload",
    UNPARSED: "words or a code for a request body that is not JSON",
    INVALID: "a code for an invalid request",
    FAILED: "a code for a failure of the server",
}
"""The names in words, for the reference."""

# Up to so many characters in front of the words: no quotation mark, no bracket, no line's end.
_BEFORE = r"""(?:[^\n"'`{}\[\]]|(?<=\w)'){0,120}?"""
_BEFORE_ZH = r"""[^\n:："'`{}\[\]“”‘’「」『』《》]{0,40}?"""
# What ends a sentence's part, so that the words are a statement and not the start of a question.
_END_ZH = r"(?=[\s,，.。;；!！、:：(（<]|请|$)"
_NO_RATE = r"(?![^\n]{0,60}(?:并发|每分钟|每秒|频率|速率|QPS|RPM|TPM))"
_WHOSE = r"(?:sorry,? )?(?:(?:your|the|this|current|user|team|api|key|wallet)(?:'s)? )*"

PHRASES: tuple[Phrase, ...] = (
    _phrase(
        CONTEXT,
        "OpenAI, vLLM, SGLang, Mistral, llama.cpp",
        rf"{_BEFORE}maximum context length (?:is|of|\()? ?\d",
        r"'max_tokens'(?: or 'max_completion_tokens')? is too large",
        rf"{_BEFORE}model's (?:maximum )?context length (?:is|of|\() ?\d",
        rf"{_BEFORE}\d maximum context length",
        rf"{_BEFORE}(?:exceeds?|longer than|larger than|too long for) "
        r"(?:the |this |its )?(?:model's |available )?(?:maximum |max )?"
        r"context (?:length|size|window)",
    ),
    _phrase(CONTEXT, "TGI", r"`inputs` tokens \+ `max_new_tokens`"),
    _phrase(CONTEXT, "gateways", rf"{_BEFORE}maximum input length is \d"),
    _phrase(CONTEXT, "Cerebras", rf"{_BEFORE}Current length is \d+ while limit is \d"),
    _phrase(
        CONTEXT, "Anthropic, Bedrock", r"(?:the |your )?(?:input|prompt) (?:is |was )?too long\b"
    ),
    _phrase(
        CONTEXT,
        "Together, xAI, Gemini, Moonshot, DashScope, MiniMax, Qianfan, Zhipu",
        r"Input token count \+ max_tokens parameter must be less than the context length",
        rf"{_BEFORE}maximum prompt length is \d",
        r"The input token count \(?\d+\)? exceeds the maximum number of tokens",
        rf"{_BEFORE}request exceeded model token limit: \d",
        r"Range of input length should be \[\d",
        r"(?:invalid params, )?context window exceeds limit",
        r"the max input characters is \d",
        r"Prompt tokens too long",
        r"Prompt 超长",
        rf"{_BEFORE_ZH}(?:超过|超出)(?:了)?(?:模型)?[^\n]{{0,10}}?上下文",
    ),
    _phrase(
        MODERATED,
        "DeepSeek, Moonshot, DashScope, Zhipu",
        r"Content Exists Risk",
        r"The request was rejected because it was considered high risk",
        r"(?:Input|Output)(?: or output)?(?: \w{1,12})? data may contain inappropriate content",
        r"Input data is suspected of being involved in IP infringement",
        r"(?:System detected )?(?:potentially )?unsafe or sensitive content",
        rf"{_BEFORE_ZH}(?:不安全或敏感内容|内容存在风险|涉嫌违规|内容违规|包含敏感|敏感词|敏感信息)",
        rf"{_BEFORE_ZH}(?:内容)?(?:安全)?(?:审核|审查|检测)(?:不通过|未通过|拦截)",
    ),
    _phrase(
        MODERATED,
        "MiniMax, Ark, StepFun, gateways",
        r"(?:input|output) (?:new_)?sensitive\b",
        r"The request (?:failed|could not be processed) because the (?:input|output)"
        r"(?: \w{1,12})? (?:may contain|includes|contains) sensitive",
        r"The content you provided or machine outputted is blocked",
        r"sensitive words detected",
    ),
    _phrase(
        MODERATED,
        "OpenAI, Azure, Anthropic, xAI, Cohere, OpenRouter",
        r"Your request was rejected (?:as a result of|by) our safety system",
        r"The (?:response|prompt|request) was filtered",
        r"(?:The )?(?:input|output|content|request)(?: (?:was|is|has been))? "
        r"(?:blocked|rejected) (?:by|due to) (?:the |our )?content[- ](?:filter|polic|moderat)",
        r"Output blocked by content filtering policy",
        r"Content violates usage guidelines",
        r"blocked (?:input|output)\b",
        r"(?:Your|The) (?:input|prompt|request|content) (?:was|has been) flagged",
    ),
    _phrase(
        SPENDING,
        "Anthropic, Google, gateways",
        r"You have reached your specified (?:workspace )?API usage limits",
        r"Your credit balance is too low",
        r"(?:you|your|this|the|account)\b[\w', -]{0,140}\bspend(?:ing)? (?:limit|cap)\b",
        r"(?:monthly |organization |project |workspace )?spend(?:ing)? (?:limit|cap) "
        r"(?:has been |was |is )?(?:reached|exceeded)",
    ),
    _phrase(
        SPENDING,
        "LiteLLM, OpenRouter",
        r"(?:[\w ]{0,20}budget|exceeded ?budget)\b(?: has been| was| is)?(?: exceeded\b|:)",
        r"No deployments available - crossed budget",
        r"""[^\n"'`{}\[\]]{0,80}?\b(?:exceeded budget for|is over budget|over budget\.)""",
        r"key limit exceeded",
    ),
    _phrase(
        SPENDING,
        "one-api, new-api, DashScope",
        r"(?:chat )?pre-?consumed? (?:token )?quota failed",
        rf"{_WHOSE}(?:token|user|account|subscription|free|trial|group|channel) quota "
        r"(?:is |has been |was )?(?:not enough|insufficient|exhausted|used up|depleted)",
        r"Free allocated quota exceeded",
        r"The free (?:tier|quota|credits?)\b[\w ]{0,40}\b(?:exhausted|used up)",
        r"(?:your |the )?(?:monthly|weekly|trial|free) (?:[\w-]+ ){0,3}"
        r"(?:quota|credits?|allowance|budget) (?:has been |have been |is |was |are )?"
        r"(?:reached|exceeded|exhausted|used up|depleted)",
        rf"{_NO_RATE}{_BEFORE_ZH}(?:额度|配额|资源包余量|资源包)"
        rf"(?:不足|已?用尽|已?用完|已?耗尽|已?超限){_END_ZH}",
        r"预扣费额度失败",
    ),
    _phrase(
        NO_FUNDS,
        "DeepSeek, MiniMax, SiliconFlow, Zhipu, Moonshot, gateways",
        r"insufficient (?:account |user |wallet |available |credit )*(?:balance|funds?|credits?)\b",
        rf"{_WHOSE}(?:account )?(?:balance|credits?|funds) (?:is|are|was|has been|have been) "
        r"(?:too low|insufficient|not enough|exhausted|used up|depleted)",
        rf"{_WHOSE}prepayment credits are depleted",
        r"""(?:your|the|this) account\b[^\n"'`{}\[\]]{0,100}?\b(?:due to|because of) """
        r"insufficient (?:balance|funds|credit)",
        r"not enough (?:balance|credits?|funds)\b",
        rf"{_NO_RATE}{_BEFORE_ZH}余额(?:不足|已?用尽|已?用完|已?耗尽|为零){_END_ZH}",
        rf"{_BEFORE_ZH}已?欠费{_END_ZH}",
    ),
    _phrase(
        NO_FUNDS,
        "DashScope, Ark, Qianfan, xAI, gateways",
        r"Access denied, please make sure your account is in good standing",
        r"(?:The request failed because )?your account has an overdue (?:balance|payment|bill)",
        r"Access denied due to overdue account",
        r"(?:your|the|this) account (?:is|has been) (?:in arrears|overdue)",
        r"The (?:pre|post)paid bill is overdue",
        r"(?:you|your(?: [\w-]+){1,4}?)(?: have| has|'ve| is| are|'re)? (?:run |ran )?out of "
        r"(?:credits?|funds|balance|money)",
        r"(?:you|your(?: [\w-]+){1,4}?)(?: have| has|'ve|'s)? (?:either )?"
        r"(?:used all|used up|exhausted) (?:of )?(?:your |its |the )?"
        r"(?:available |remaining |free |prepaid )?(?:credits?|balance|funds)",
        r"Your (?:newly created )?team doesn't have any credits",
        r"(?:you|your(?: [\w-]+){1,4}?)(?: have| has)? no (?:remaining )?"
        r"(?:credits?|balance|funds)\b",
    ),
    _phrase(
        RESETS,
        "MiniMax, Kimi, Zhipu, Cohere",
        r"(?:[\w ]{0,20} )?usage limit exceeded",
        r"You(?:'ve| have) (?:reached|hit|exceeded) your (?:[\w-]+ ){0,2}usage limit\b",
        r"You are (?:currently )?using a Trial key, which is limited to [\d,]+ API calls ?/ ?month",
        r"您?已达到[^\n]{1,20}使用上限",
    ),
    _phrase(
        ALLOCATED,
        "DashScope",
        r"Allocated quota exceeded, please increase your quota limit",
        r"You exceeded your current quota[^\n]{0,300}?\b(?:aliyun|alibabacloud)\.com",
    ),
    _phrase(
        PER_DAY,
        "OpenAI, Groq, OpenRouter",
        r"Rate limit reached for [^\n]{0,300}? on (?:requests|tokens) per day \((?:RPD|TPD)\)",
        r"Rate limit exceeded: [\w-]{0,60}per-day",
    ),
    _phrase(
        PER_DAY,
        "Cerebras, Moonshot, Zhipu",
        r"(?:requests|tokens) per day limit exceeded",
        rf"{_BEFORE}request reached organization (?:TPD|RPD) rate limit",
        rf"{_BEFORE_ZH}(?:今日|当日|每日)调用次数(?:限额|上限)",
    ),
    _phrase(
        NO_LIMIT,
        "Gemini",
        r"You exceeded your current quota[\s\S]{0,1800}?\blimit: 0(?![\d.])",
        r"Quota exceeded for [^\n]{0,300}?\blimit: 0(?![\d.])",
    ),
    _phrase(GATEWAY_QUOTA, "Azure API Management", r"Out of (?:call volume|bandwidth) quota"),
    _phrase(
        BAD_KEY,
        "xAI, Gemini, Zhipu, one-api, DashScope",
        r"(?:Incorrect|Invalid|Wrong|Expired) (?:API|access|auth)[- ]?(?:key|token)\b",
        r"API[- ]key (?:is )?(?:not valid|invalid|expired|not found)",
        r"login fail: Please carry the API secret key",
        r"Header中未收到Authorization",
        r"(?:无效的|未提供)令牌",
        r"(?:该)?令牌(?:验证失败|已过期|状态不可用)",
        rf"(?:身份验证|身份认证|鉴权|认证)失败{_END_ZH}",
        r"API ?Key ?(?:无效|错误|不存在|已过期)",
    ),
    _phrase(
        FORBIDDEN,
        "Gemini, Groq",
        r"User location is not supported",
        r"Gemini API free tier is not available",
        r"Organization has been restricted",
    ),
    _phrase(
        NO_MODEL,
        "DeepSeek, SiliconFlow, Zhipu, Mistral, gateways",
        r"Model Not Exist",
        r"""(?:The )?(?:requested )?model:? ?["'`]?[\w./:@-]{0,120}["'`]? ?"""
        r"(?:does not exist|is not found|not found|was not found)",
        r"Invalid model: ",
        rf"模型不存在{_END_ZH}",
        rf"{_BEFORE_ZH}模型[^\n]{{1,80}}?无可用渠道",
    ),
    _phrase(
        LIMITED,
        "Zhipu, new-api, Baidu",
        rf"{_BEFORE_ZH}(?:请求|访问|调用)(?:过于频繁|频率过[高快]|太频繁|并发超额|并发数过高)",
        rf"{_BEFORE_ZH}(?:并发数|频率)过高{_END_ZH}",
        rf"{_BEFORE_ZH}上游负载已饱和",
        rf"{_BEFORE_ZH}(?:已)?触发(?:了)?(?:流量|速率|频率)?(?:限制|限流)",
    ),
    _phrase(
        BUSY,
        "Zhipu, new-api, SiliconFlow",
        rf"{_BEFORE_ZH}(?:系统|服务器?|模型)(?:当前|正)?(?:繁忙|过载)",
        rf"{_BEFORE_ZH}访问量过大",
        r"(?:System|Server|Service) is (?:too |currently )?(?:busy|overloaded)",
    ),
    _phrase(
        WRONG_PATH,
        "LM Studio, Zhipu, OpenAI, Express, Spring",
        r"Unexpected endpoint or method",
        r"404:? (?:page )?not[ _]found\b",
        r"Cannot POST /",
        r"Invalid URL \(POST /",
        r"(?:Unknown|Unrecognized) request URL",
        r"No static resource ",
        r"no Route matched",
        r"(?:The )?(?:requested )?(?:URL|path|route|endpoint)\b[^\n]{0,80}?"
        r"(?:not found|does not exist)",
    ),
    _phrase(
        UNPARSED,
        "OpenAI, Anthropic, FastAPI, vLLM, Go, Node, Spring, serde, llama.cpp",
        r"(?:we |i )?(?:could not|couldn't|can't|cannot|unable to|failed to|error) "
        r"(?:parse|parsing|read|reading|decode|decoding|deserialize|deserializing|unmarshal) "
        r"(?:the |your |http )*(?:request |json )*(?:body|json|payload|request)\b",
        r"There was an error (?:parsing|reading|decoding) the (?:request )?(?:body|json)",
        r"(?:the |your )?(?:request )?(?:body|payload) (?:is|was|isn't|wasn't)(?: not|n't)? "
        r"(?:a )?(?:valid json|empty|missing|malformed)",
        r"(?:empty|missing|malformed|invalid|required|no) (?:request )?body\b",
        r"(?:malformed|invalid) json\b(?! schema)",
        r"(?:the )?(?:request is|not)(?: not)? (?:a )?valid json\b",
        r"json (?:decode|parse|parsing) error",
        r"Expecting (?:value|property name|',' delimiter|':' delimiter)",
        r"Unterminated string",
        r"(?:json: )?unexpected (?:end of (?:json|data|input|file)|EOF\b|token .{1,12} in json)",
        r"EOF while parsing",
        r"invalid character .{1,12} (?:looking for|after|in string)",
        r"\[json\.exception\.parse_error",
        r"http: unexpected EOF|client disconnected while reading",
    ),
)
