"""Makes questions.csv beside this script from the table below.

Run it again after editing the table. The rows are as a help desk's spreadsheet exports them: ids
with leading zeros, commas, quotes and line breaks inside of cells, and cells that are empty.
"""

import csv
import io
from pathlib import Path

COLUMNS = ("id", "lang", "product", "asked_on", "question")

QUESTIONS = [
    ("00001", "en", "kettle", "2024-03-01", "How do I descale it?"),
    ("00002", "en", "kettle", "2024-03-01",
     'The manual says "remove the filter", but mine has none. Is it missing?'),
    ("00003", "zh", "kettle", "2024-03-02", "壶底有一层白色的水垢，用柠檬酸还是白醋？"),
    ("00005", "en", "lamp", "2024-03-02", "Does the clamp hold on a round, 3 cm pipe?"),
    ("00008", "zh", "lamp", "2024-03-03", "灯泡能换吗？说明书写的是“光源不可更换”。"),
    ("00013", "en", "lamp", "2024-03-04",
     "Two questions:\n1. Can it be dimmed?\n2. Does it remember the last setting?"),
    ("00021", "en", "boots", "2024-03-04", "I wear 42.5 in shoes. Which size, please?"),
    ("00034", "zh", "boots", "2024-03-05",
     "下雨天穿了一次，鞋里湿了：\n是防水膜坏了，还是我没保养好？"),
    ("00055", "en", "boots", "", "Which wax, how often, and may I use it on suede?"),
    ("00089", "en", "earbuds", "2024-03-06", "Left bud doesn't charge. I cleaned the contacts."),
    ("00144", "zh", "earbuds", "2024-03-06", "可以同时连接手机和电脑吗？切换要不要重新配对？"),
    ("00233", "en", "earbuds", "2024-03-07",
     "My son said, \"Dad, they're in the washing machine.\" Can they be saved?"),
    ("00377", "zh", "tea", "2024-03-08", "开封以后能放多久？需要放冰箱吗？"),
    ("00610", "en", "tea", "2024-03-08", "How much caffeine, compared with coffee?"),
    ("00987", "zh", "tea", "", "送长辈，选明前还是雨前？预算三百元，要礼盒装。"),
    ("01597", "en", "chair", "2024-03-10", "It wobbles; one foot is 2 mm short. Spare part?"),
    ("02584", "en", "chair", "2024-03-11", "Max. weight? The page says 120 kg, the label 100."),
    ("04181", "zh", "chair", "2024-03-12", "椅布可以机洗吗？拆下来以后怎么装回去？"),
    ("06765", "en", "", "2024-03-12", "How long do I have to send something back?"),
    ("10946", "zh", "", "2024-03-13", "发票抬头写错了，能重开吗？订单是上个月的。"),
]  # fmt: skip


def text() -> str:
    """The questions as CSV, in the order above."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(QUESTIONS)
    return file.getvalue()


if __name__ == "__main__":
    target = Path(__file__).with_name("questions.csv")
    target.write_bytes(text().encode())
    print(f"{target.name}: {len(QUESTIONS)} rows, {target.stat().st_size} bytes")
