"""generated_coin_flip and generated_last_letter: both puzzles with four people each, made from a seed.

The wording is that of the datasets in "Chain-of-Thought Prompting Elicits Reasoning in Large Language
Models" (Wei et al., 2022) as the paper uses them; the names are our own. Question *i* comes from
`Random` seeded with (seed, i) alone, so a longer list only adds to a shorter one.
"""

from __future__ import annotations

from random import Random

from cotdistill.records import Question

PEOPLE = 4

NAMES = (
    *("Abena", "Adela", "Agnes", "Akira", "Alejandro", "Amara", "Amit", "Anouk", "Arjun", "Astrid"),
    *("Baraka", "Beatriz", "Benedikt", "Bilal", "Birgit", "Bojan", "Callum", "Camila", "Cheng", "Chidi"),
    *("Dalia", "Darko", "Deepak", "Dmitri", "Ebba", "Efua", "Eilidh", "Elif", "Enzo", "Esther"),
    *("Farid", "Fatou", "Femi", "Fiona", "Gaspard", "Giulia", "Goran", "Gwen", "Hamid", "Hana"),
    *("Harald", "Hoang", "Ibrahim", "Ilse", "Imani", "Ingrid", "Isaac", "Itzel", "Jamal", "Jiho"),
    *("Joaquin", "Jovana", "Kaito", "Kamal", "Katrin", "Keanu", "Khadija", "Kofi", "Lars", "Leilani"),
    *("Ling", "Luca", "Magnus", "Malik", "Marek", "Meera", "Miguel", "Mirjam", "Nabil", "Naoko"),
    *("Ngozi", "Nils", "Noor", "Olamide", "Oskar", "Paloma", "Pavel", "Petra", "Qiang", "Quinn"),
    *("Rafael", "Rania", "Rohan", "Rosalind", "Sadia", "Salma", "Sanjay", "Seung", "Solveig", "Stefan"),
    *("Tariq", "Tala", "Thabo", "Tove", "Uma", "Viktor", "Wanjiru", "Xavier", "Yara", "Zbigniew"),
)


def make_coin_flip(seed: str, i: int) -> Question:
    """The `i`-th coin of `seed`: each of four people flips it or not, with even odds."""
    random = Random(f"coin_flip/{seed}/{i}")
    heads = True
    sentences = ["A coin is heads up."]
    for name in random.sample(NAMES, PEOPLE):
        flips = random.random() < 0.5
        heads ^= flips
        sentences.append(f"{name} flips the coin." if flips else f"{name} does not flip the coin.")
    sentences.append('Is the coin still heads up? Note that "flip" here means "reverse".')
    return Question(f"generated_coin_flip-{seed}-{i}", " ".join(sentences), "yes" if heads else "no")


def make_last_letter(seed: str, i: int) -> Question:
    """The `i`-th four names of `seed`."""
    names = Random(f"last_letter/{seed}/{i}").sample(NAMES, PEOPLE)
    # "each words" is how the dataset has it.
    text = f'Take the last letters of each words in "{" ".join(names)}" and concatenate them.'
    return Question(f"generated_last_letter-{seed}-{i}", text, "".join(name[-1] for name in names))
