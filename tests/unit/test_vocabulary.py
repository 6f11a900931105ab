"""`engines.build.vocabulary`: a tokenizer of the catalogue's own words, the same in every process."""

from __future__ import annotations

import subprocess
import sys

from engines.build.vocabulary import UNKNOWN_TOKEN, train_tokenizer

TEXTS = ["color: Red\ntitle: Red mug", "color: Blue\ntitle: blue mug, 2-pack"]


def test_train_tokenizer_keeps_names_and_frequent_words_whole() -> None:
    """A field's name is one token with its colon, case does not matter, and rare words are spelt."""
    tokenizer = train_tokenizer(TEXTS, size=100)
    assert tokenizer.encode("color: RED\ntitle: Blue mug").tokens == ["color:", "red", "title:", "blue", "mug"]
    assert tokenizer.encode("pact").tokens == ["p", "##a", "##c", "##t"]
    assert tokenizer.encode("Ω").tokens == [UNKNOWN_TOKEN]
    assert tokenizer.token_to_id("[PAD]") == 0


def test_train_tokenizer_size_is_a_bound() -> None:
    """The rarest words are left out first."""
    full = train_tokenizer(TEXTS, size=100)
    assert train_tokenizer(TEXTS, size=full.get_vocab_size() - 1).get_vocab_size() == full.get_vocab_size() - 1


def test_train_tokenizer_is_the_same_in_every_process() -> None:
    """Ids do not depend on the order of a hash table: weights and vocabulary of two runs belong together."""
    code = (
        "from engines.build.vocabulary import train_tokenizer\n"
        "texts = [f'word{i % 50} of {chr(97 + i % 26)}{i}' for i in range(400)]\n"
        "print(train_tokenizer(texts, size=300).to_str())"
    )
    found = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(found) == 1
