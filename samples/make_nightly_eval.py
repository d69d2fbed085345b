"""Makes nightly_eval.parquet beside this script from the table below.

Run it again after editing the table. Nested columns are the point of the file: `messages` is a
list of structs, as an evaluation set written by Arrow, Polars or Spark has it.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

SYSTEM = {
    "en": "Answer with the fact alone: a name, a number or a date. No sentence.",
    "zh": "只回答事实本身：人名、地名、数字或年份，不要写成句子。",
}

# topic, difficulty from 1 to 3, language, question, expected answer
QUESTIONS = [
    ("geography", 1, "en", "What is the capital of Portugal?", "Lisbon"),
    ("geography", 1, "zh", "中国最长的河流是哪一条？", "长江"),
    ("geography", 2, "en", "Which river flows through Vienna, Budapest and Belgrade?", "Danube"),
    ("geography", 2, "en", "Which country has the largest number of time zones?", "France"),
    ("geography", 2, "zh", "青藏铁路的终点站在哪个城市？", "拉萨"),
    (
        "geography",
        3,
        "en",
        "Which two countries are doubly landlocked?",
        "Liechtenstein and Uzbekistan",
    ),
    ("geography", 3, "zh", "世界上海拔最高的可通航湖泊是哪一个？", "的的喀喀湖"),
    ("history", 1, "en", "In which year did the Berlin Wall fall?", "1989"),
    ("history", 1, "zh", "秦始皇在公元前哪一年统一六国？", "公元前221年"),
    ("history", 2, "en", "Who was the first woman to receive a Nobel Prize?", "Marie Curie"),
    ("history", 2, "zh", "《史记》的作者是谁？", "司马迁"),
    ("history", 2, "zh", "郑和第一次下西洋始于哪一年？", "1405年"),
    (
        "history",
        3,
        "en",
        "Which treaty of 1494 divided new lands between two crowns?",
        "Tordesillas",
    ),
    ("history", 3, "en", "Which city was the capital of the Hittite empire?", "Hattusa"),
    ("science", 1, "en", "What is the chemical symbol of sodium?", "Na"),
    ("science", 1, "en", "How many planets orbit the Sun?", "8"),
    ("science", 1, "zh", "水的化学式是什么？", "H2O"),
    ("science", 2, "en", "Which particle carries the electromagnetic force?", "photon"),
    ("science", 2, "zh", "人体最大的器官是什么？", "皮肤"),
    ("science", 2, "zh", "光在真空中每秒大约传播多少千米？", "约30万千米"),
    ("science", 3, "en", "At what temperature do Celsius and Fahrenheit agree?", "-40"),
    ("science", 3, "en", "Which element has the highest melting point of all metals?", "tungsten"),
    ("science", 3, "zh", "屠呦呦因发现哪种药物获得诺贝尔奖？", "青蒿素"),
    ("mathematics", 1, "en", "What is 17 times 23?", "391"),
    ("mathematics", 1, "zh", "一个正六边形的内角和是多少度？", "720度"),
    ("mathematics", 2, "en", "What is the smallest prime number above 100?", "101"),
    ("mathematics", 2, "en", "How many edges does a cube have?", "12"),
    ("mathematics", 2, "zh", "从 1 加到 100 等于多少？", "5050"),
    ("mathematics", 3, "en", "What is the sum of the first ten odd numbers?", "100"),
    ("mathematics", 3, "zh", "鸡兔同笼，共有 35 个头、94 只脚，兔有几只？", "12只"),
    ("literature", 1, "en", "Who wrote 'Pride and Prejudice'?", "Jane Austen"),
    ("literature", 1, "zh", "《静夜思》是哪位诗人写的？", "李白"),
    ("literature", 2, "en", "In which city does 'Ulysses' take place?", "Dublin"),
    ("literature", 2, "zh", "《红楼梦》里林黛玉住在大观园的哪一处？", "潇湘馆"),
    (
        "literature",
        3,
        "en",
        "In which language did Isak Dinesen first write 'Out of Africa'?",
        "English",
    ),
    ("literature", 3, "zh", "“落霞与孤鹜齐飞”出自哪篇文章？", "《滕王阁序》"),
    ("computing", 1, "en", "How many bits are in a byte?", "8"),
    ("computing", 2, "en", "Which port does HTTPS use by default?", "443"),
    ("computing", 2, "zh", "汉字“中”的 Unicode 码位用十六进制怎么写？", "U+4E2D"),
    ("computing", 3, "en", "What is the largest value of a signed 32-bit integer?", "2147483647"),
]

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("topic", pa.string()),
        ("difficulty", pa.int8()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("expected", pa.string()),
    ]
)


def table() -> pa.Table:
    """The questions as one Arrow table, in the order above."""
    return pa.Table.from_pylist(
        [
            {
                "id": f"{topic}-{number:02d}-{lang}",
                "topic": topic,
                "difficulty": difficulty,
                "messages": [
                    {"role": "system", "content": SYSTEM[lang]},
                    {"role": "user", "content": question},
                ],
                "expected": expected,
            }
            for number, (topic, difficulty, lang, question, expected) in enumerate(QUESTIONS, 1)
        ],
        schema=SCHEMA,
    )


if __name__ == "__main__":
    target = Path(__file__).with_name("nightly_eval.parquet")
    rows = table()
    pq.write_table(rows, target, compression="zstd")
    print(f"{target.name}: {rows.num_rows} rows, {target.stat().st_size} bytes")
