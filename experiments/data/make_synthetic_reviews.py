"""Make synthetic_reviews.csv: 720 invented product reviews for the demo.

    python experiments/data/make_synthetic_reviews.py

Every review is put together from the phrases below with a fixed seed, so the file can be made again byte for
byte. It is synthetic: good for seeing the machinery run, worthless as evidence about any model. Some words
belong to several categories, praise may be negated, and half of the reviews concede a point to the other side,
so that counting words is not enough.
"""

import csv
import random
from pathlib import Path

SUBJECTS = {
    "books": ["the novel", "this paperback", "the author", "the second chapter", "the story", "the ending"],
    "camera": ["the camera", "the lens", "the battery", "the zoom", "the display", "the autofocus"],
    "dvd": ["the film", "the director", "the picture", "the bonus disc", "the story", "the ending"],
    "health": ["the razor", "this cream", "the scale", "the battery", "the charger", "the massager"],
    "music": ["the album", "the singer", "the second track", "the sound", "the guitar", "the disc"],
    "software": ["the program", "the installer", "the update", "the display", "the manual", "the licence"],
}
SETTINGS = {
    "books": ["on a long train ride", "in two evenings", "for my reading group", "after the first edition"],
    "camera": ["on a trip to the mountains", "at my sister's wedding", "in poor light", "for two weeks"],
    "dvd": ["with the whole family", "on a rainy evening", "after the cinema release", "in two evenings"],
    "health": ["every morning", "for my bad back", "for two weeks", "on a trip to the mountains"],
    "music": ["on a long train ride", "every morning", "at a party", "through good headphones"],
    "software": ["on my old laptop", "at work", "after the update", "for two weeks"],
}
GOOD = ["wonderful", "reliable", "a pleasure", "well made", "worth the price", "better than I hoped", "convincing"]
BAD = ["disappointing", "a waste of money", "badly made", "tiresome", "worse than I feared", "broken", "dull"]
PRAISE = ["I would buy it again.", "My friends want one too.", "It stays with me.", "Five stars from me."]
BLAME = ["I sent it back.", "I want my money back.", "Never again.", "One star is too many."]
NEUTRAL = ["It came in a plain box.", "I paid the usual price.", "I had read other reviews.", "It was a gift."]


def review(category: str, sentiment: str, random: random.Random) -> str:
    """Put one review together."""
    subject, other = random.sample(SUBJECTS[category], 2)
    setting = random.choice(SETTINGS[category])
    good, bad = random.choice(GOOD), random.choice(BAD)
    mine, theirs = (good, bad) if sentiment == "pos" else (bad, good)
    claim = random.choice(
        [
            f"{subject} is {mine}",
            f"{subject} is not {theirs} at all",
            f"I found {subject} {mine}",
            f"nobody could call {subject} {theirs}",
        ]
    )
    concession = random.choice([f"although {other} is {theirs}", f"even if {other} seemed {theirs} at first", "", ""])
    sentences = [f"{claim[0].upper()}{claim[1:]}{', ' if concession else ''}{concession}."]
    sentences.append(f"I tried it {setting}.")
    if random.random() < 0.5:
        sentences.append(random.choice(PRAISE if sentiment == "pos" else BLAME))
    if random.random() < 0.6:
        sentences.append(random.choice(NEUTRAL))
    first, *rest = sentences
    random.shuffle(rest)
    return " ".join([first, *rest])


def main() -> None:
    """Write the file beside this script."""
    generator = random.Random(20)
    texts: dict[str, tuple[str, str]] = {}
    labels = [(category, sentiment) for category in SUBJECTS for sentiment in ("neg", "pos")]
    for category, sentiment in labels:
        wanted = len(texts) + 60
        while len(texts) < wanted:
            texts.setdefault(review(category, sentiment, generator), (category, sentiment))
    rows = [(text, *label) for text, label in texts.items()]
    generator.shuffle(rows)
    with Path(__file__).with_name("synthetic_reviews.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["text", "category", "sentiment"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
