"""Continue a greeting, drawing at a temperature.

python examples/articles/greeting.py MODEL
"""

import sys

import yantai


def main(folder: str) -> str:
    """Print a greeting and what the model makes of it."""
    model = yantai.load(folder)
    text = model.generate("Hello, my name is", max_length=100, temperature=0.7, seed=1)
    print(text)
    return text


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
