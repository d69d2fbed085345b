"""Makes reviews.parquet beside this script from the table below.

Run it again after editing the table. The rows are plain data without messages, as a shop's database
exports them: text, numbers, a decimal, a date, a struct, and values that are missing.
"""

import datetime as dt
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

# key: product in English and Chinese, category, price
PRODUCTS = {
    "kettle": ("Enamel kettle 1.5 l", "搪瓷烧水壶 1.5 升", "kitchen", "39.90"),
    "lamp": ("Desk lamp with clamp", "夹式台灯", "light", "54.00"),
    "boots": ("Hiking boots", "徒步登山靴", "outdoor", "129.00"),
    "earbuds": ("Wireless earbuds", "无线蓝牙耳机", "audio", "79.50"),
    "tea": ("Longjing tea 250 g", "西湖龙井茶 250 克", "food", "28.80"),
    "chair": ("Folding chair", "折叠椅", "outdoor", "24.95"),
}

# product, language, stars, date, country, verified, title, review
REVIEWS = [
    ("kettle", "en", 5, "2024-01-08", "GB", True, "Pretty and quick",
     "Boils a full pot in six minutes on gas, the handle stays cool, and it looks lovely."),
    ("kettle", "en", 2, "2024-01-15", "US", True, "Chipped on arrival",
     "The enamel had two chips at the spout. Support offered 10 %, I wanted a whole kettle."),
    ("kettle", "zh", 4, "2024-01-19", "CN", True, "颜值高",
     "颜色很正，烧水也快，就是壶盖有点紧，第一次打开费了些力气。"),
    ("kettle", "zh", 1, "2024-02-02", "CN", False, "漏水",
     "用了三天壶嘴就开始渗水，联系客服一直说“请耐心等待”，非常失望。"),
    ("kettle", "en", 3, "2024-02-11", "DE", True, None,
     "Does what it should. The whistle is so loud that the dog leaves the room."),
    ("lamp", "en", 5, "2024-01-11", "US", True, "Clamp holds everything",
     "Even my 4 cm oak top fits. Warm light, no flicker on camera."),
    ("lamp", "en", 4, "2024-01-29", "IE", True, "Good light, short cable",
     "Bright and dimmable, but the cable ends 1.2 m from the clamp. Plan for an extension."),
    ("lamp", "zh", 5, "2024-02-06", "CN", True, "护眼",
     "孩子写作业用，光线柔和不刺眼，夹子也很稳。已经推荐给同事了。"),
    ("lamp", "zh", 2, "2024-02-20", "SG", True, "旋钮松动",
     "灯是好灯，但调光旋钮一个月后松了，时亮时暗。"),
    ("lamp", "en", 1, "2024-03-03", "US", False, "Dead after a week",
     'It said "lifetime warranty" on the box. Whose lifetime?'),
    ("boots", "en", 5, "2024-01-21", "CA", True, "Dry feet in April slush",
     "Eleven hours through wet snow, socks bone dry. Take half a size up."),
    ("boots", "en", 3, "2024-02-14", "GB", True, "Comfortable, runs small",
     "Best ankle support I have had. I sent back two pairs before one fitted."),
    ("boots", "zh", 4, "2024-02-25", "CN", True, "防滑不错",
     "爬了趟黄山，石阶上很稳。新鞋有点硬，穿两周就好了。"),
    ("boots", "zh", 5, "2024-03-09", "TW", True, None,
     "穿去合歡山，下雨完全不進水，回購第二雙。"),
    ("boots", "en", 1, "2024-03-18", "AU", True, "Sole came off",
     "120 km on the Larapinta and the left sole is flapping. Glue is not a repair."),
    ("earbuds", "en", 4, "2024-01-05", "US", True, "Great sound, so-so app",
     "Beats pairs at twice the price. Every update resets my equaliser {bass: +3}, though."),
    ("earbuds", "en", 2, "2024-01-30", "IN", True, "Left one dies first",
     "Left bud: 2 h. Right bud: 5 h. The case says both are full."),
    ("earbuds", "zh", 5, "2024-02-08", "CN", True, "降噪很强",
     "地铁里开降噪几乎听不见报站，差点坐过站（笑）。"),
    ("earbuds", "zh", 3, "2024-02-28", "HK", False, "一般",
     "音質可以，但戴久了耳朵會痛，充電盒也容易刮花。"),
    ("earbuds", "en", None, "2024-03-12", "US", True, "No rating, a question",
     "Does the case charge without a cable? The page says yes, the box says no."),
    ("tea", "zh", 5, "2024-03-28", "CN", True, "明前茶，香",
     "豆香明显，回甘好，叶底嫩绿。送长辈很有面子。"),
    ("tea", "zh", 2, "2024-04-02", "CN", True, "像陈茶",
     "包装写的是今年的新茶，喝起来却是去年的味道。"),
    ("tea", "en", 4, "2024-04-05", "FR", True, "Lovely nutty green",
     "Brew it at 80 °C, not hotter; the second steep is the best. Some broken leaf."),
    ("tea", "en", 5, "2024-04-10", "US", True, None,
     "My father grew up in Hangzhou. He closed his eyes and did not speak for a minute."),
    ("tea", "zh", 4, "2024-04-11", "CN", False, "包装可以更好",
     "茶不错，罐子压扁了一个角，介意的慎拍。"),
    ("chair", "en", 3, "2024-03-22", "NL", True, "Light, and feels it",
     "2.1 kg is great to carry. I am 95 kg, and it creaks like an old ship."),
    ("chair", "en", 5, "2024-04-01", "US", True, "Bought four",
     "Up in ten seconds, fits in the boot of a Mini. The bag has a strap at last."),
    ("chair", "zh", 4, "2024-04-06", "CN", True, "露营神器",
     "折叠起来很小，放后备箱不占地方。靠背再高一点就完美了。"),
    ("chair", "zh", 1, "2024-04-13", "CN", True, "坐塌了",
     "第一次坐就断了一根管，幸好没受伤。商家已退款。"),
    ("chair", "en", 2, "2024-04-15", "US", False, "Wrong colour",
     "Ordered forest green, got something the listing calls {{ color }}. Sturdy, though."),
]  # fmt: skip

SCHEMA = pa.schema(
    [
        ("review_id", pa.string()),
        ("product", pa.string()),
        ("category", pa.string()),
        ("price", pa.decimal128(8, 2)),
        ("lang", pa.string()),
        ("stars", pa.int8()),
        ("written", pa.date32()),
        ("buyer", pa.struct([("country", pa.string()), ("verified", pa.bool_())])),
        ("title", pa.string()),
        ("review", pa.string()),
    ]
)


def table() -> pa.Table:
    """The reviews as one Arrow table, in the order above."""
    rows = []
    for number, (key, lang, stars, written, country, verified, title, text) in enumerate(
        REVIEWS, 1
    ):
        english, chinese, category, price = PRODUCTS[key]
        rows.append(
            {
                "review_id": f"R{number:03d}",
                "product": chinese if lang == "zh" else english,
                "category": category,
                "price": Decimal(price),
                "lang": lang,
                "stars": stars,
                "written": dt.date.fromisoformat(written),
                "buyer": {"country": country, "verified": verified},
                "title": title,
                "review": text,
            }
        )
    return pa.Table.from_pylist(rows, schema=SCHEMA)


if __name__ == "__main__":
    target = Path(__file__).with_name("reviews.parquet")
    rows = table()
    pq.write_table(rows, target, compression="zstd")
    print(f"{target.name}: {rows.num_rows} rows, {target.stat().st_size} bytes")
