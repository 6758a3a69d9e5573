"""The tasks that have a name: one entry each, with what is listed of it without loading it.

A test loads every one of them and compares the numbers. Published files are pinned by commit where
they have one, and by SHA-256 always.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cotdistill.config import TaskConfig
from cotdistill.tasks import paper, symbolic, word_problems
from cotdistill.tasks.generated import TEST, TRAIN, endless
from cotdistill.tasks.paper import published
from cotdistill.tasks.raw import Raw
from cotdistill.tasks.splits import Split


@dataclass(frozen=True)
class Entry:
    """One named task: its answer type, how it is loaded, and what `cotdistill tasks` lists.

    `train` and `test` count its questions. `options` is the most that a question has. `random` and
    `majority` are accuracies in percent: of guessing among the options, 0 for open answers, and of giving
    always that answer which is most often right on the test split.
    """

    answer_type: str
    load: Callable[[TaskConfig], tuple[Split, Split]]
    train: int = TRAIN
    test: int = TEST
    random: float = 0.0
    majority: float = 0.0
    options: int = 0
    licence: str = "not stated"
    source: str = ""


GITHUB = "https://raw.githubusercontent.com"
AQUA = f"{GITHUB}/google-deepmind/AQuA/6e99097ff2e05b406f4ddca8cbf25e7e9efb7cb5"
COMMONSENSE_QA = "https://s3.amazonaws.com/commensenseqa"  # spelled so
GSM8K = f"{GITHUB}/openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data"
SVAMP = f"{GITHUB}/arkilpatel/SVAMP/78e727689e1c1bebfc4be39c446898e8e10b0518"
ZERO_SHOT_COT = f"{GITHUB}/kojima-takeshi188/zero_shot_cot/5ef330fcdeec0cd26aee27943504f91f8ec1c33c/dataset"


def at(folder: str, path: str, sha256: str) -> Raw:
    """A file that has the last part of its `path` in a folder of the web."""
    return Raw(path, f"{folder}/{path.rpartition('/')[2]}", sha256)


def collected(path: str, sha256: str) -> Raw:
    """A file as Kojima et al. 2022 collected it, whose copies the authors use."""
    return Raw(path, f"{ZERO_SHOT_COT}/{path}", sha256)


TASKS: dict[str, Entry] = {
    "word_problems": Entry(
        "number", endless(word_problems.make_question), majority=11.33, licence="Apache-2.0", source="this package"
    ),
    "generated_coin_flip": Entry(
        "yes_no",
        endless(symbolic.make_coin_flip),
        random=50.0,
        majority=54.0,
        licence="Apache-2.0",
        source="this package",
    ),
    "generated_last_letter": Entry(
        "text", endless(symbolic.make_last_letter), majority=1.33, licence="Apache-2.0", source="this package"
    ),
    "single_eq": Entry(
        "number",
        published(
            paper.math_word_problems,
            collected("SingleEq/questions.json", "051507bd2b489c257057b485774a83d2710c23a4bc0f4a58e1822ae2773ef05e"),
        ),
        train=356,
        test=152,
        majority=3.95,
        licence="MIT, in MAWPS",
        source="Koncel-Kedziorski et al. 2015",
    ),
    "addsub": Entry(
        "number",
        published(
            paper.math_word_problems,
            collected("AddSub/AddSub.json", "21930fa90385c72b5a15f4b9a4dda27276b889ae9ff44285505cdd9fa0a20df8"),
        ),
        train=276,
        test=119,
        majority=3.36,
        licence="MIT, in MAWPS",
        source="Hosseini et al. 2014",
    ),
    "multiarith": Entry(
        "integer",
        published(
            paper.multiarith,
            collected("MultiArith/MultiArith.json", "dc9db1b6cc68b1ecc2dec830d15aaf8c9a0932aa31d5ffce88ef3628179d36f4"),
            template=paper.without_numbers_and_names,
        ),
        train=420,
        test=180,
        majority=6.11,
        licence="MIT, in MAWPS",
        source="Roy and Roth 2015",
    ),
    "gsm8k": Entry(
        "integer",
        published(
            paper.gsm8k,
            at(
                GSM8K,
                "grade-school-math/train.jsonl",
                "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
            ),
            at(
                GSM8K,
                "grade-school-math/test.jsonl",
                "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
            ),
        ),
        train=7473,
        test=1319,
        majority=3.03,
        licence="MIT",
        source="Cobbe et al. 2021",
    ),
    "aqua": Entry(
        "choice",
        published(
            paper.aqua,
            # As Hugging Face's datasets had it in datasets/aqua_rat/dataset_infos.json, with that of test.json.
            at(AQUA, "AQuA/train.json", "35b70c7cb1660c34d302bb932dfd3656ce3d05e8c982c797767fec31d7d1e0ba"),
            at(AQUA, "AQuA/test.json", "de41581881ef95c5588c44ddc701c77fd480839241dd422a0d181262af24520c"),
            most_train=10_000,
        ),
        train=10_000,
        test=254,
        random=20.0,
        majority=24.8,
        options=5,
        licence="Apache-2.0",
        source="Ling et al. 2017",
    ),
    "svamp": Entry(
        "number",
        published(
            paper.svamp,
            at(SVAMP, "SVAMP/SVAMP.json", "5be77703a6d891ae476d7c082787ad361392aa02453b132516cdd5f4e7934e3e"),
        ),
        train=700,
        test=300,
        majority=10.0,
        licence="MIT",
        source="Patel et al. 2021",
    ),
    "date_understanding": Entry(
        "choice",
        published(
            paper.date_understanding,
            collected("Bigbench_Date/task.json", "ff716f0e399109146db3a998281c39954907b78268a9b633a95582d63847822f"),
            template=paper.before_what_is_the_date,
        ),
        train=258,
        test=111,
        random=17.12,
        majority=27.93,
        options=6,
        licence="Apache-2.0",
        source="BIG-bench",
    ),
    "tracking_shuffled_objects": Entry(
        "choice",
        published(
            paper.tracking_shuffled_objects,
            collected(
                "Bigbench_object_tracking/task.json", "74b74d3c8827c0387a3f24ee9efa7edd90b2d53af3daacb9961341af66f750a0"
            ),
        ),
        train=525,
        test=225,
        random=33.33,
        majority=33.78,
        options=3,
        licence="Apache-2.0",
        source="BIG-bench",
    ),
    "last_letter_concatenation": Entry(
        "text",
        published(
            paper.symbolic,
            collected(
                "last_letters/last_letters.json", "60e8d092d0a6423d3256e87e0c249b69aefea4cd27985082095fa4e93931fb02"
            ),
        ),
        train=350,
        test=150,
        majority=1.33,
        source="Kojima et al. 2022",
    ),
    "coin_flip": Entry(
        "yes_no",
        published(
            paper.symbolic,
            collected("coin_flip/coin_flip.json", "68cf201737a1463ef6bed5419622805a8934d92bff6a28a9dfbf83be3135ba5a"),
        ),
        train=350,
        test=150,
        random=50.0,
        majority=55.33,
        source="Kojima et al. 2022",
    ),
    "commonsense_qa": Entry(
        "choice",
        published(
            paper.commonsense_qa,
            at(
                COMMONSENSE_QA,
                "CommonsenseQA/train_rand_split.jsonl",
                "58ffa3c8472410e24b8c43f423d89c8a003d8284698a6ed7874355dedd09a2fb",
            ),
            at(
                COMMONSENSE_QA,
                "CommonsenseQA/dev_rand_split.jsonl",
                "3210497fdaae614ac085d9eb873dd7f4d49b6f965a93adadc803e1229fd8a02a",
            ),
        ),
        train=9741,
        test=1221,
        random=20.0,
        majority=20.88,
        options=5,
        licence="MIT",
        source="Talmor et al. 2019",
    ),
    "strategy_qa": Entry(
        "yes_no",
        published(
            paper.strategy_qa,
            collected("StrategyQA/task.json", "60af9081fed20102fd8bb1e02dc7d9f12238efcba33e4c1a56b4d61cb6409803"),
        ),
        train=1603,
        test=687,
        random=50.0,
        majority=52.55,
        licence="MIT",
        source="Geva et al. 2021, in BIG-bench",
    ),
}
