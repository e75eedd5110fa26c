"""Begin a story; no two words stand in the same order twice.

python examples/articles/story.py MODEL
"""

import sys

import yantai


def main(folder: str) -> str:
    """Print the beginning of a story."""
    model = yantai.load(folder)
    text = model.generate(
        "Once upon a time", max_length=50, num_return_sequences=1, no_repeat_ngram_size=2
    )
    print(text)
    return text


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
