"""What vendors' own codes mean: tables that turn a code into one of our names.

Words are compared without case, punctuation and a final ``error`` or ``exception``: as a whole,
then by the last and the first part of a dotted one. ``AccountOverdueError``, ``account_overdue``
and ``InternalError.Algo.DataInspectionFailed`` find their lines. Numbers mean different things at
different vendors. The field they stand in tells whose they are
(``core/reply/failure_reports.py``); only those that nobody else is known to use count wherever
they stand.

``MEANINGS`` says which status an error with such a name is judged under: the one it should have
had. A name that a row brings on itself comes before one that stops a run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from batchrun.core.reply import phrases as names

MINIMAX, BAIDU, SPARK = "MiniMax", "Baidu", "Spark"


class Meaning(NamedTuple):
    """The status that an error is judged under, and the statuses that it may have come with; None
    for any. A class of its own, such as 4, stands for all its statuses.
    """

    status: int
    under: Collection[int] | None = None


MEANINGS: Mapping[str, Meaning] = {
    names.MODERATED: Meaning(400),
    names.CONTEXT: Meaning(400),
    names.NO_FUNDS: Meaning(402),
    names.SPENDING: Meaning(429),
    names.RESETS: Meaning(429),
    names.FORBIDDEN: Meaning(403, (2, 400, 404, 429, 5)),
    names.BAD_KEY: Meaning(401, (2, 400, 403)),
    names.NO_MODEL: Meaning(404, (2, 400, 401, 403, 422)),
    names.WRONG_PATH: Meaning(404, (2,)),
    names.PER_DAY: Meaning(429, (2, 400)),
    names.LIMITED: Meaning(429, (2, 400, 5)),
    names.BUSY: Meaning(503, (2, 400, 5)),
    names.UNPARSED: Meaning(400, (2,)),
    names.INVALID: Meaning(400, (2,)),
    names.FAILED: Meaning(500, (2,)),
}


VAGUE = frozenset((names.LIMITED, names.BUSY, names.INVALID, names.FAILED))
"""Where a code means one of these, the words beside it may say more: that a budget is used up."""


def judged_as(given: Collection[str], status: int) -> int:
    """The status under which an error with these names is judged: what the first of ``MEANINGS``
    among them says, else its own.
    """
    if given:
        for name, meaning in MEANINGS.items():
            under = meaning.under
            if name in given and (under is None or status in under or status // 100 in under):
                return meaning.status
    return status


_PUNCTUATION = re.compile(r"[\W_]+")
_RAISED = re.compile(r"(?<=.)(?:error|exception)$")


def _plain(word: str) -> str:
    return _RAISED.sub("", _PUNCTUATION.sub("", word.lower()))


# Where each was read, 2026-10: the vendors' pages of error codes (help.aliyun.com/model-studio,
# volcengine.com/docs/82379/1299023, cloud.baidu.com/doc/qianfan-api, platform.minimax.io,
# docs.bigmodel.cn and docs.z.ai, platform.kimi.ai/docs/api/errors, platform.stepfun.com,
# docs.siliconflow.cn, cloud.tencent.com/document/product/1729), the sources of LiteLLM, one-api and
# new-api, and issues that quote a reply.
_WORDS: tuple[tuple[str, str, str], ...] = (
    ("DashScope", names.MODERATED, """
        data_inspection_failed faq_rule_blocked custom_role_blocked IPInfringementSuspect
    """),
    ("Ark", names.MODERATED, """
        SensitiveContentDetected InputTextRiskDetection InputImageRiskDetection
        OutputTextRiskDetection OutputImageRiskDetection InputTextSensitiveContentDetected
        InputImageSensitiveContentDetected InputVideoSensitiveContentDetected
        InputAudioSensitiveContentDetected OutputTextSensitiveContentDetected
        OutputImageSensitiveContentDetected
    """),
    ("Qianfan", names.MODERATED, """
        unsafe_request system_unsafe user_setting_unsafe functions_unsafe image_url_unsafe
    """),
    ("MiniMax, StepFun", names.MODERATED, "new_sensitive censorship_blocked"),
    ("Tencent", names.MODERATED, "TextIllegalDetected ImageIllegalDetected IllegalTextError"),
    ("LiteLLM, new-api, gateways", names.MODERATED, """
        content_policy_violation_error sensitive_words_detected sensitive_check prompt_blocked
        safety_check_failed content_moderation moderation_blocked input_moderation
        violation_fee.grok.csam
    """),
    ("Qianfan, LiteLLM", names.CONTEXT, """
        tokens_too_long characters_too_long context_window_exceeded
    """),
    ("DashScope", names.NO_FUNDS, """
        Arrearage CommodityNotPurchased PrepaidBillOverdue PostpaidBillOverdue
    """),
    ("Ark, Qianfan", names.NO_FUNDS, "AccountOverdueError account_overdue ServiceOverdue"),
    ("Tencent", names.NO_FUNDS, """
        ResourcePackExhausted FreeResourcePackExhausted ServiceStopArrears
        ResourceInsufficient.ChargeResourceExhaust BalanceInsufficient
    """),
    ("DeepSeek, MiniMax, gateways", names.NO_FUNDS, """
        insufficient_balance insufficient_credit insufficient_credits insufficient_funds
        account_arrears reject_no_credit billing_not_active billing_hard_limit_reached
        balance_not_enough no_credit
    """),
    ("LiteLLM", names.SPENDING, "budget_exceeded exceeded_budget"),
    ("one-api, new-api", names.SPENDING, """
        insufficient_user_quota pre_consume_token_quota_failed insufficient_token_quota
        token_quota_exhausted user_quota_exhausted quota_not_enough free_model_blocked_no_quota
    """),
    ("Moonshot, Ark", names.SPENDING, "exceeded_current_quota_error SetLimitExceeded"),
    ("DashScope", names.SPENDING, "AllocationQuota.FreeTierOnly FreeTierOnly"),
    ("Ark, Qianfan, OpenAI", names.RESETS, """
        QuotaExceeded coding_plan_hour_quota_exceeded coding_plan_week_quota_exceeded
        coding_plan_month_quota_exceeded usage_limit_reached
    """),
    ("Gemini, MiniMax, Tencent", names.BAD_KEY, """
        API_KEY_INVALID authorized_error AuthFailure invalid_iam_token
        invalid_authentication_error
    """),
    ("DashScope, Tencent, Groq, Ark", names.FORBIDDEN, """
        AccessDenied.Unpurchased ServiceNotActivated NonWhitelistAccount organization_restricted
        model_terms_required ServiceNotOpen InvalidAccountStatus account_deactivated
        access_terminated
    """),
    ("Ark, Qianfan, Mistral, Groq, DashScope", names.NO_MODEL, """
        InvalidEndpointOrModel.NotFound InvalidEndpoint.NotFound InvalidEndpoint.ClosedEndpoint
        ModelNotOpen invalid_model model_decommissioned model_offline ModelNotFound
        model_not_supported InvalidParameterValue.Model
    """),
    ("DashScope, Bedrock, Tencent, Moonshot", names.LIMITED, """
        Throttling limit_requests limit_burst_rate EngineServerLimitExceeded RequestLimitExceeded
        rate_limit_reached_error TooManyRequestsException Throttled
    """),
    ("Qianfan", names.LIMITED, """
        rpm_rate_limit_exceeded tpm_rate_limit_exceeded input_tpm_rate_limit_exceeded
        output_tpm_rate_limit_exceeded user_rate_limit_exceeded cluster_rate_limit_exceeded
        preemptible_rate_limit_exceeded
    """),
    ("Moonshot, DashScope", names.BUSY, """
        engine_overloaded_error ModelServingError ModelUnavailable ServerOverloaded system_busy
    """),
    ("FastAPI, Qianfan, DashScope, new-api", names.UNPARSED, """
        json_invalid value_error.jsondecode JSONDecodeError malformed_json invalid_json
        parse_body_failed BadRequest.IllegalInput read_request_body_failed bad_request_body
    """),
)  # fmt: skip

_OF_WORD: Mapping[str, str] = {
    _plain(word): name for _, name, words in _WORDS for word in words.split()
}

# Numbers by the vendor whose field they stand in.
_NUMBERS: tuple[tuple[str, str, str], ...] = (
    (MINIMAX, names.MODERATED, "1026 1027"),
    (MINIMAX, names.NO_FUNDS, "1008"),
    (MINIMAX, names.SPENDING, "1028 1030"),
    (MINIMAX, names.RESETS, "2056"),
    (MINIMAX, names.FORBIDDEN, "2061"),
    (MINIMAX, names.BAD_KEY, "1004 2049"),
    (MINIMAX, names.LIMITED, "1002 1039 1041 2045"),
    (MINIMAX, names.INVALID, "1042 2013"),
    (MINIMAX, names.FAILED, "1000 1001 1013 1024 1033"),
    (BAIDU, names.CONTEXT, "336007 336103"),
    (BAIDU, names.MODERATED, "336104"),
    (BAIDU, names.SPENDING, "19"),
    (BAIDU, names.FORBIDDEN, "6 15"),
    (BAIDU, names.BAD_KEY, "13 14 100 110 111 336004 336005"),
    (BAIDU, names.WRONG_PATH, "3"),
    (BAIDU, names.PER_DAY, "17"),
    (BAIDU, names.LIMITED, "4 18 336117 336501 336502 336503 336504 336505 336511"),
    (BAIDU, names.BUSY, "2 336100"),
    (BAIDU, names.UNPARSED, "336002"),
    (BAIDU, names.INVALID, "336001 336003 336006 336008 336101 336102"),
    (BAIDU, names.FAILED, "1 336000 282000"),
    (SPARK, names.FORBIDDEN, "10015 10016"),
    (SPARK, names.FAILED, "10001 10002 10009 10011 10017 10018"),
)

# Numbers that count in any ``code``: Zhipu (four digits), Spark (10... and 11...), SiliconFlow.
# Zhipu's 1000 to 1004 are left to their status and words, and 1300 means a limit at Mistral.
_ANYBODYS: tuple[tuple[str, str, str], ...] = (
    ("Zhipu", names.MODERATED, "1301"),
    ("Zhipu", names.CONTEXT, "1261"),
    ("Zhipu", names.NO_FUNDS, "1113 1309"),
    ("Zhipu", names.RESETS, "1308 1310 1316 1317 1318 1319 1320 1321"),
    ("Zhipu", names.FORBIDDEN, "1110 1111 1112 1121 1220 1311"),
    ("Zhipu", names.NO_MODEL, "1211"),
    ("Zhipu", names.PER_DAY, "1304"),
    ("Zhipu", names.LIMITED, "1302 1303 1305 1313"),
    ("Zhipu", names.BUSY, "1312"),
    ("Zhipu", names.INVALID, "1210 1212 1213 1214 1215"),
    ("Zhipu", names.FAILED, "1120 1230 1234"),
    ("Spark", names.MODERATED, "10013 10014 10019 10021 10022"),
    ("Spark", names.CONTEXT, "10907"),
    ("Spark", names.FORBIDDEN, "11200"),
    ("Spark", names.PER_DAY, "11201"),
    ("Spark", names.LIMITED, "10006 10007 11202 11203"),
    ("Spark", names.BUSY, "10008 10110"),
    ("Spark", names.INVALID, "10003 10004 10005 10163"),
    ("Spark", names.FAILED, "10010 10012"),
    ("Spark", names.NO_MODEL, "10404"),
    ("SiliconFlow", names.NO_FUNDS, "30001"),
    ("SiliconFlow", names.NO_MODEL, "20012 30003"),
    ("SiliconFlow", names.BUSY, "50505 50603"),
)

_OF_NUMBER: Mapping[tuple[str | None, str], str] = {
    (None, number): name for _, name, numbers in _ANYBODYS for number in numbers.split()
} | {(vendor, number): name for vendor, name, numbers in _NUMBERS for number in numbers.split()}

SAID_BY: Mapping[str, tuple[tuple[str, str], ...]] = {
    name: tuple(
        (vendor, words)
        for vendor, named, words in (*_WORDS, *_NUMBERS, *_ANYBODYS)
        if named == name
    )
    for name in MEANINGS
}
"""For each name of ours, the vendors and their codes for it: for the documentation and tests."""


def meaning_of(word: str, vendor: str | None = None) -> str | None:
    """The name of ours that a code stands for; None for one that is not known. ``vendor`` is whose
    field it stands in, None for a field that many have.
    """
    if word.lstrip("-").isascii() and word.lstrip("-").isdigit():
        if vendor in (MINIMAX, BAIDU):
            return _OF_NUMBER.get((vendor, word))
        return _OF_NUMBER.get((vendor, word)) or _OF_NUMBER.get((None, word))
    found = _OF_WORD.get(_plain(word))
    if found is None and "." in word:
        found = _OF_WORD.get(_plain(word.rpartition(".")[2])) or _OF_WORD.get(
            _plain(word.partition(".")[0])
        )
    return found
