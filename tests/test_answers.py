"""What is read as an answer, by the typed rule and by the authors' rule, and what counts as equal.

The rows have the shapes of what the 175B teacher and a small model wrote, and of what may come to harm.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cotdistill import math_answers
from cotdistill.answers import PAPER, RULES, TYPED, answer_type
from cotdistill.errors import ConfigError
from cotdistill.evaluate import score
from cotdistill.methods import METHODS
from cotdistill.readers import number_equal
from cotdistill.reading import UNFINISHED
from cotdistill.records import Generation, Question

SHARED = Path(__file__).parents[2] / "shared"
ABC = ("red ball", "blue ball", "green ball")

# type, answer step, choices, the answer, a known answer that it equals
TYPED_ROWS: list[tuple[str, str, tuple[str, ...], str | None, str | None]] = [
    ("number", " 39.", (), "39", "39"),
    ("number", "5 + 3 = 8 apples.", (), "8", "8"),
    ("number", "10-5", (), None, None),
    ("number", "9**9**9", (), None, None),
    ("number", "9^9^9^9", (), None, None),
    ("number", "2 x 3", (), None, None),
    ("number", "3 * 3", (), None, None),
    ("number", "5 + 5", (), None, None),
    ("number", "10 - 5 = 5", (), "5", "5"),
    ("number", "8 or 9", (), None, None),
    ("number", "5-6", (), None, None),
    ("number", "5 to 6", (), None, None),
    ("number", "between 5 and 6", (), None, None),
    ("number", "4 hours and 30 minutes", (), None, None),
    ("number", "5 hours and 5 minutes", (), None, None),
    ("number", "5 feet 5 inches", (), None, None),
    ("number", "39pieces", (), "39", "39"),
    ("number", "$1,234.50", (), "1234.50", "1,234.5"),
    ("number", "\\boxed{20}", (), "20", "20.0"),
    ("number", "\\(\\boxed{20}\\).", (), "20", "20.0"),
    ("number", "$\\boxed{17}$. \nThis tests 3 things", (), "17", "17"),
    ("number", "3/4", (), "3/4", "0.75"),
    ("number", "2 1/2 cups", (), "2 1/2", "2.5"),
    ("number", "\\frac{3}{4}", (), "3/4", "0.75"),
    ("number", "2\\frac{1}{2}", (), "2 1/2", "2.5"),
    ("number", "-\\frac{3}{4}", (), "-3/4", "-3/4"),
    ("number", "50%", (), "50", "50"),
    ("number", "**42**.", (), "42", "42"),
    ("number", "*42*", (), "42", "42"),
    ("number", " eleven.", (), "11", "11"),
    ("number", "twenty-five", (), "25", "25"),
    ("number", "one hundred", (), None, None),
    ("number", "two hundred four", (), None, None),
    ("number", "one", (), "1", "1"),
    ("number", "the other one", (), None, None),
    ("number", "no one", (), None, None),
    ("number", "3 million", (), None, None),
    ("number", "two and a half", (), None, None),
    ("number", "2 and 1/2", (), None, None),
    ("number", "negative seven (-7)", (), "-7", "-7.0"),
    ("number", "eight (8)", (), "8", "8"),
    ("number", "39 (74 - 35)", (), "39", "39"),
    ("number", "15,828,48", (), None, None),
    ("number", "1.000,50", (), None, None),
    ("number", "3:46", (), None, None),
    ("number", "05/05/2021", (), None, None),
    ("number", "x=-5", (), "-5", "-5"),
    ("number", "y = 9", (), "9", "9"),
    ("number", "29 + y = 38", (), None, None),
    ("number", "2x = 10", (), None, None),
    ("number", "2x + 3y = 60", (), None, None),
    ("number", "sqrt(16)", (), None, None),
    ("number", "\\sqrt{16}", (), None, None),
    ("number", "5!", (), "5", "5"),
    ("number", "10^6", (), None, None),
    ("number", "1e999999", (), None, None),
    ("number", "1e5", (), None, None),
    ("number", "2\xb2", (), None, None),
    ("number", "16\\pi", (), None, None),
    ("number", "not 5", (), None, None),
    ("number", "It isn't 5", (), None, None),
    ("number", "at least 5", (), None, None),
    ("number", "less than 5", (), None, None),
    ("number", "about .5 of it", (), ".5", "1/2"),
    ("number", "so...5", (), "5", "5"),
    ("number", "Is it 5?", (), None, None),
    ("number", "5 apples, because 2 + 3 = 5", (), "5", "5"),
    ("number", "26 + 36 - 48 = 14. The answer (words) is fourteen.", (), "14", "14"),
    ("number", "18 ducks. The answer is 10.", (), None, None),
    ("number", "\\boxed{1}. Let's recheck. She has 6 - 2 = 4.", (), "4", "4"),
    ("number", "8. Wait, 9.", (), "9", "9"),
    ("number", "A. 18 ducks.", (), "18", "18"),
    ("number", "A. Let's think step by step. First, we start with 10 turtles.", (), None, None),
    ("number", "B: 18. The number of frogs is 18.", (), "18", "18"),
    ("number", "1. We start with 12.\n2. Then 5 leave.", (), None, None),
    ("number", "7 \n 8", (), None, None),
    ("number", "5 END Q: 7", (), "5", "5"),
    ("number", "$0. B: She gets $7", (), "0", "0"),
    ("number", "8\n\nQ: What is 2 + 2?\nA: The answer is 4.", (), "8", "8"),
    ("number", "(5)-3", (), None, None),
    ("number", "-$5", (), "-5", "-5"),
    ("number", "$-5", (), "-5", "-5"),
    ("number", "\u22124 degrees", (), "-4", "-4"),
    ("number", "007", (), "007", "7"),
    ("number", "It is -3 degrees", (), "-3", "-3"),
    ("number", "8, 9", (), None, None),
    ("number", "the sum =\n8", (), "8", "8"),
    ("number", "5 apples.", (), "5", "5"),
    ("number", "12 games on the shelf now.", (), "12", "12"),
    ("number", "5. tomatoes.", (), "5", "5"),
    ("number", "After 6 days they have 390 sacks.", (), None, None),
    ("number", "3 dozen", (), None, None),
    ("number", "the 5th", (), None, None),
    ("number", "5k", (), None, None),
    ("number", "US$5", (), None, None),
    ("number", "5 km/h", (), "5", "5"),
    ("number", "5\u20ac", (), "5", "5"),
    ("number", "10 minus 5", (), None, None),
    ("number", "minus 5", (), "-5", "-5"),
    ("number", "5\u20136", (), None, None),
    ("number", "~5", (), "5", "5"),
    ("number", "> 5", (), None, None),
    ("number", "1 000", (), None, None),
    ("number", "8,000 or 8000", (), "8000", "8,000"),
    ("number", "5 = 5", (), "5", "5"),
    ("number", "32 + 42 = 74 and 74 - 35 = 39", (), "39", "39"),
    ("number", "2 + 2 = 4 and 3 + 3 = 6", (), None, None),
    ("number", "none", (), None, None),
    ("number", "n/a", (), None, None),
    ("number", "5/0", (), None, None),
    ("number", "= 5", (), "5", "5"),
    ("number", "The answer is not 5 but 8.", (), None, None),
    ("number", "8 apples. Sorry, 9 apples.", (), "9", "9"),
    ("number", "39 - 35", (), None, None),
    ("number", "5 squared", (), None, None),
    ("number", "half", (), None, None),
    ("number", "20 less than 30", (), None, None),
    ("number", "3 times 5", (), None, None),
    ("number", "5 apples and 3 pears", (), None, None),
    ("number", "She has 5 apples left.", (), "5", "5"),
    ("number", "5.", (), "5", "5"),
    ("number", "5\u2026", (), None, None),
    ("number", "5 apples\u2026", (), "5", "5"),
    ("number", "Tom has 5 apples and Ann has 5 apples.", (), None, None),
    ("number", "<think>8 or 9?</think> 9.", (), "9", "9"),
    ("number", " <answer>9</answer>.", (), "9", "9"),
    ("number", "She has 32 pieces now. The answer is 39.", (), "39", "39"),
    ("number", "She has 32 pieces at first. She eats 3, so 32 - 3 = 29 are left.", (), None, None),
    ("number", ": \n\n51", (), "51", "51"),
    ("number", " 12 games on the shelf now. A library shelf holds 9 games.", (), "12", "12"),
    ("number", "8 (or 9)", (), None, None),
    ("number", "It could be 8 (or maybe 9).", (), None, None),
    ("number", "8/9 or 3/4", (), None, None),
    ("number", "8 dollars (not 9)", (), "8", "8"),
    ("number", "-5 or 5", (), None, None),
    ("number", "5.5.5", (), None, None),
    ("number", "192.168.1.1", (), None, None),
    ("number", "8.\n\n9.", (), None, None),
    ("number", "8 = 9", (), None, None),
    ("number", "5 + 3 = 8, not 9", (), None, None),
    ("number", "12:30 pm", (), None, None),
    ("number", "3-year-old", (), "3", "3"),
    ("number", "2024-05-06", (), None, None),
    ("number", "10:5", (), None, None),
    ("number", "4:1", (), None, None),
    ("number", "5x", (), None, None),
    ("number", "5m", (), None, None),
    ("number", "5 m", (), "5", "5"),
    ("number", "5%", (), "5", "5"),
    ("number", "5 percent", (), "5", "5"),
    ("number", "5 per cent", (), "5", "5"),
    ("number", "No.5", (), None, None),
    ("number", "Room 5B", (), None, None),
    ("number", "100,00", (), None, None),
    ("number", "1,00,000", (), None, None),
    ("number", "0", (), "0", "0"),
    ("number", "zero", (), "0", "0"),
    ("number", "-0.5", (), "-0.5", "-0.5"),
    ("number", "1.5 hours", (), "1.5", "1.5"),
    ("number", "the answer is 5", (), "5", "5"),
    ("number", "answer: -5.", (), "-5", "-5"),
    ("number", "I don't know, maybe 5", (), None, None),
    ("number", "approximately 5", (), "5", "5"),
    ("number", "5 x 3 = 15", (), "15", "15"),
    ("number", "5 \xd7 3 = 15", (), "15", "15"),
    ("number", "(5 + 3) * 2 = 16", (), "16", "16"),
    ("number", "5 + 3 = 8 + 2 = 10", (), "10", "10"),
    ("number", "5+3=8+2=10", (), "10", "10"),
    ("number", "\\$5", (), "5", "5"),
    ("number", "\\(8\\)", (), "8", "8"),
    ("number", "$$8$$", (), "8", "8"),
    ("number", "8 apples and 8 pears", (), None, None),
    ("number", "eight or nine", (), None, None),
    ("number", "twenty one", (), "21", "21"),
    ("number", "one apple", (), "1", "1"),
    ("number", "one of 8", (), None, None),
    ("number", "five-year plan", (), None, None),
    ("number", "1st", (), None, None),
    ("number", "5\xa0000", (), None, None),
    ("number", "5 000", (), None, None),
    ("number", "6 = 3 x 2", (), None, None),
    ("number", "Total = 5", (), "5", "5"),
    ("number", "5 -> 8", (), None, None),
    ("number", "[8]", (), "8", "8"),
    ("number", "{8}", (), "8", "8"),
    ("number", '"8"', (), "8", "8"),
    ("number", "8\u2026", (), None, None),
    ("number", "The answer is 8, but I am not sure.", (), None, None),
    ("number", "The answer is 8? No, 9.", (), None, None),
    ("number", "10 % of 50", (), None, None),
    ("number", "half of 10", (), None, None),
    ("number", "double 5", (), None, None),
    ("number", "5 more than 3", (), None, None),
    ("number", "8 less than before", (), "8", "8"),
    ("number", "5 times", (), "5", "5"),
    ("number", "She has 5 times as many", (), "5", "5"),
    ("number", "0x10", (), None, None),
    ("number", "1_000", (), None, None),
    ("number", "\u0665", (), None, None),
    ("number", "\uff15", (), None, None),
    ("number", "5 or so", (), "5", "5"),
    ("number", "8 to 1", (), None, None),
    ("number", "-5--3", (), None, None),
    ("number", "5 and a half", (), None, None),
    ("number", "5\xbd", (), None, None),
    ("number", "|5|", (), None, None),
    ("choice", "(B)", ABC, "B", "b"),
    ("choice", "C.", ABC, "C", "C"),
    ("choice", "**B**", ABC, "B", "b"),
    ("choice", "A", ABC, "A", "A"),
    ("choice", "I think A.", tuple("jklmnopqrs"), "A", "A"),
    ("choice", "A man holds it, so B.", ABC, "B", "b"),
    ("choice", "A is right", ABC, "A", "A"),
    ("choice", "Alice, Bob and Claire swap; Claire has C", ABC, "C", "C"),
    ("choice", "Bob has the Green Ball.", ABC, "C", "C"),
    ("choice", "Bob", ABC, None, None),
    ("choice", "(D) or (B)", ABC, None, None),
    ("choice", "E", ABC, None, None),
    ("choice", "it is 10", ("1", "10"), "B", "b"),
    ("choice", "it is 12", ("1", "2"), None, None),
    ("choice", "05/01/2021.", ("04/29/2021", "05/01/2021 "), "B", "b"),
    ("choice", "May 1, 2021", ("04/29/2021", "05/01/2021"), "B", "b"),
    ("choice", "not B", ABC, None, None),
    ("choice", "The answer is not B.", ABC, None, None),
    ("choice", "not B but C", ABC, "C", "C"),
    ("choice", "B, not C", ABC, "B", "b"),
    ("choice", "A or B", ABC, None, None),
    ("choice", "A and B", ABC, None, None),
    ("choice", "Neither A nor B", ABC, None, None),
    ("choice", "A: green ball", ABC, None, None),
    ("choice", "A: red ball.", ABC, "A", "A"),
    ("choice", "B) blue ball", ABC, "B", "b"),
    ("choice", "A) red ball B) blue ball C) green ball", ABC, None, None),
    ("choice", "Because of this", ABC, None, None),
    ("choice", "Claire has it", ABC, None, None),
    ("choice", "A ball", ABC, None, None),
    ("choice", "a red ball", ABC, "A", "A"),
    ("choice", "Vitamin C", ABC, None, None),
    ("choice", "Vitamin C is good.", tuple("xyz"), None, None),
    ("choice", "b", ABC, "B", "b"),
    ("choice", "(b)", ABC, "B", "b"),
    ("choice", "object(s)", ABC, None, None),
    ("choice", "\\boxed{B}", ABC, "B", "b"),
    ("choice", "\\boxed{\\text{(B)}}", ABC, "B", "b"),
    ("choice", "C. I hope this helps!", ABC, "C", "C"),
    ("choice", "B. Because (A) is red.", ABC, None, None),
    ("choice", "B because C is green", ABC, "B", "b"),
    ("choice", "the red ball, not the blue ball", ABC, "A", "A"),
    ("choice", "not the red ball", ABC, None, None),
    ("choice", "red ball or blue ball", ABC, None, None),
    ("choice", "the answer is B END", ABC, "B", "b"),
    ("choice", "Option B", ABC, "B", "b"),
    ("choice", "The correct option is (B).", ABC, "B", "b"),
    ("choice", "A man", ABC, None, None),
    ("choice", "I am not sure.", tuple("klmnopqrst"), None, None),
    ("choice", "D.\nThe date is 09/09/2020", tuple("abcd"), "D", "D"),
    ("choice", "B is wrong", ABC, None, None),
    ("choice", "B is wrong, so C", ABC, "C", "C"),
    ("choice", "B\u2026", ABC, None, None),
    ("choice", "Bob has the red ball first. The answer is C.", ABC, "C", "C"),
    ("choice", "A) ", ABC, "A", "A"),
    ("choice", "AB", ABC, None, None),
    ("choice", "A, B", ABC, None, None),
    ("choice", "The answer is A or B", ABC, None, None),
    ("choice", "Both (A) and (B)", ABC, None, None),
    ("choice", "(A), (B)", ABC, None, None),
    ("choice", "A and B are wrong, so C", ABC, None, None),
    ("choice", "It cannot be A.", ABC, None, None),
    ("choice", "not (A)", ABC, None, None),
    ("choice", "I choose (B).", ABC, "B", "b"),
    ("choice", "I'd pick C", ABC, "C", "C"),
    ("choice", "(A) is incorrect; (B)", ABC, "B", "b"),
    ("choice", "Answer: B", ABC, "B", "b"),
    ("choice", "none of the above", ABC, None, None),
    ("choice", "D", ABC, None, None),
    ("choice", "Bob has B", ABC, "B", "b"),
    ("choice", "B) or C)", ABC, None, None),
    ("choice", "A\nB", ABC, None, None),
    ("choice", "The red ball is not with Bob", ABC, None, None),
    ("choice", "All of them", ABC, None, None),
    ("choice", "blue", ABC, None, None),
    ("choice", "Blue ball is B", ABC, "B", "b"),
    ("choice", "neither the red ball nor the blue ball", ABC, None, None),
    ("choice", "The answer is A man", ABC, None, None),
    ("choice", "Is it B?", ABC, None, None),
    ("choice", "B?", ABC, None, None),
    ("choice", "The options are (A), (B), (C).", ABC, None, None),
    ("choice", "Step A. Do it", ABC, None, None),
    ("choice", "grade A", ABC, None, None),
    ("choice", "U.S.A.", ABC, None, None),
    ("choice", "As Claire", ABC, None, None),
    ("choice", "It's B12", ("x", "y"), None, None),
    ("choice", "either A", ABC, None, None),
    ("choice", "A+", ABC, None, None),
    ("choice", "B-", ABC, None, None),
    ("choice", "B vitamins", ABC, None, None),
    ("choice", "A's", ABC, None, None),
    ("choice", "except B", ABC, None, None),
    ("choice", "everything but B", ABC, None, None),
    ("choice", "anything other than B", ABC, None, None),
    ("choice", "B instead of A", ABC, None, None),
    ("choice", "All but A", ABC, None, None),
    ("yes_no", ": Yes", (), "yes", "Yes"),
    ("yes_no", ' "Yes".', (), "yes", "Yes"),
    ("yes_no", "YES!", (), "yes", "Yes"),
    ("yes_no", "most likely No.", (), "no", "NO"),
    ("yes_no", "Unknown.", (), None, None),
    ("yes_no", "Yes, but it depends.", (), "yes", "Yes"),
    ("yes_no", "No, not yes", (), "no", "NO"),
    ("yes_no", "I know nothing", (), None, None),
    ("yes_no", "not sure", (), None, None),
    ("yes_no", "There is no evidence", (), None, None),
    ("yes_no", "no information", (), None, None),
    ("yes_no", "no one", (), None, None),
    ("yes_no", "No one knows.", (), None, None),
    ("yes_no", "both Yes and No.", (), None, None),
    ("yes_no", "yes or no", (), None, None),
    ("yes_no", "Yes/No", (), None, None),
    ("yes_no", "maybe yes", (), None, None),
    ("yes_no", "3. Yes, it is.", (), "yes", "Yes"),
    ("yes_no", "not yes", (), None, None),
    ("yes_no", "It depends.", (), None, None),
    ("yes_no", 'likely to be "Yes."', (), "yes", "Yes"),
    ("yes_no", "Yes - it does", (), "yes", "Yes"),
    ("yes_no", "no-one", (), None, None),
    ("yes_no", "No", (), "no", "NO"),
    ("yes_no", "No doubt, yes.", (), "yes", "Yes"),
    ("yes_no", "Yes, there is no doubt.", (), "yes", "Yes"),
    ("yes_no", "no\u2026", (), None, None),
    ("yes_no", "I can't say yes or no", (), None, None),
    ("yes_no", "Yes. No.", (), None, None),
    ("yes_no", "Is the answer yes?", (), None, None),
    ("yes_no", "The answer would be yes if it rained", (), None, None),
    ("yes_no", "There is frost, so yes. The answer is no.", (), "no", "NO"),
    ("yes_no", "Not necessarily yes", (), None, None),
    ("yes_no", "yes yes yes", (), "yes", "Yes"),
    ("yes_no", "nope", (), None, None),
    ("yes_no", "Noah", (), None, None),
    ("yes_no", "yesterday", (), None, None),
    ("yes_no", "No way", (), None, None),
    ("yes_no", "It is not true that the answer is yes", (), None, None),
    ("yes_no", "The answer is not no", (), None, None),
    ("yes_no", "Yes and no", (), None, None),
    ("yes_no", "yes?", (), None, None),
    ("yes_no", "If yes, then", (), None, None),
    ("yes_no", "no, yes", (), None, None),
    ("yes_no", "there is no", (), None, None),
    ("yes_no", "I would say no", (), "no", "NO"),
    ("yes_no", "I wouldn't say no", (), None, None),
    ("yes_no", "say yes", (), "yes", "Yes"),
    ("yes_no", "No, the answer is yes.", (), "yes", "Yes"),
    ("yes_no", "Yes\n\nNo", (), None, None),
    ("yes_no", "True", (), None, None),
    ("yes_no", "no problem", (), None, None),
    ("yes_no", "Absolutely yes", (), "yes", "Yes"),
    ("date", "May 5, 2021", (), "2021-05-05", "May 5, 2021"),
    ("date", "05/05/2021", (), "2021-05-05", "May 5, 2021"),
    ("date", "2021-05-05", (), "2021-05-05", "May 5, 2021"),
    ("date", "5th of May, 2021", (), "2021-05-05", "May 5, 2021"),
    ("date", "the 5 May 2021.", (), "2021-05-05", "May 5, 2021"),
    ("date", "Sept. 1st, 2021", (), "2021-09-01", "09/01/2021"),
    ("date", "31/12/2021", (), "2021-12-31", "2021-12-31"),
    ("date", "13/13/2021", (), None, None),
    ("date", "02/30/2021", (), None, None),
    ("date", "05/05/2021 or 05/06/2021", (), None, None),
    ("date", "5/4/21", (), None, None),
    ("date", "May 5", (), None, None),
    ("date", "05/05/2021 (May 5, 2021)", (), "2021-05-05", "May 5, 2021"),
    ("date", "not 05/05/2021", (), None, None),
    ("date", "5/6/2021", (), "2021-05-06", "2021-05-06"),
    ("date", "Monday, June 7, 2021", (), "2021-06-07", "2021-06-07"),
    ("date", "05/05/20211", (), None, None),
    ("date", "05/05/2021 is not the date", (), None, None),
    ("date", "before May 5, 2021", (), None, None),
    ("date", "May 5, 2021 to May 7, 2021", (), None, None),
    ("date", "2021/05/05", (), "2021-05-05", "May 5, 2021"),
    ("date", "5-5-2021", (), "2021-05-05", "May 5, 2021"),
    ("date", "May 2021", (), None, None),
    ("date", "2021", (), None, None),
    ("date", "00/00/2021", (), None, None),
    ("date", "Feb 29, 2021", (), None, None),
    ("date", "5 may 2021", (), "2021-05-05", "May 5, 2021"),
    ("date", "05.05.2021", (), None, None),
    ("date", "the 5th of May 2021", (), "2021-05-05", "May 5, 2021"),
    ("date", "May the 5th, 2021", (), None, None),
    ("date", "05/05/2021\u2026", (), None, None),
    ("text", ' "nsty".', (), "nsty", "NSTY"),
    ("text", " is: 'nsty'\nbecause", (), "nsty", "NSTY"),
    ("text", "isaac", (), "isaac", "isaac"),
    ("text", "\n  new   york ", (), "new   york", "New York"),
    ("text", ' "." ', (), None, None),
    ("text", '"yajo". I hope this helps', (), "yajo", "yajo"),
    ("text", "yajo is the answer", (), "yajo", "yajo"),
    ("text", 'The answer is "yajo".', (), "yajo", "yajo"),
    ("text", "St. Louis", (), "St. Louis", "St. Louis"),
    ("text", "U.S. Army", (), "U.S. Army", "U.S. Army"),
    ("text", "nsty END", (), "nsty", "NSTY"),
    ("text", '"a" or "b"', (), None, None),
    ("text", 'we have "y" + "a" = "ya".', (), "ya", "ya"),
    ("text", "nst\u2026", (), None, None),
]

# type, whole text, choices, the answer
FIND_ROWS: list[tuple[str, str, tuple[str, ...], str | None]] = [
    ("number", "They eat 35 pieces, so they have 74 - 35 = 39 pieces left.", (), "39"),
    ("number", "2 + 2 = 4. The answer is 8.", (), "8"),
    ("number", "#### 8", (), "8"),
    ("number", "First 5. Then 8.\n#### 8", (), "8"),
    ("number", "It is \\boxed{8}.", (), "8"),
    ("number", "The answer is 8. The answer is 9.", (), "9"),
    ("number", "The answer is 8. The answer is correct.", (), "8"),
    ("number", "A wrong answer is 8.", (), None),
    ("number", "If the answer is 8, we win. It rains.", (), None),
    ("number", "The answer is 8. Wait, that's wrong. It should be more.", (), None),
    ("number", "<think>The answer is 8.</think> The answer is 9.", (), "9"),
    ("number", "<think>Maybe <answer>8</answer></think> 4 + 5 = 9. <answer>9</answer>", (), "9"),
    ("number", "So it is nine.\n<answer>\n9\n</answer>", (), "9"),
    ("number", "<answer>8</answer> Wait, that is wrong. <answer>There are 9 left.</answer>", (), "9"),
    ("number", "It goes between <answer> and </answer>. He has 8 left.", (), None),
    ("choice", "<answer>(B)</answer>", ("red", "blue"), "B"),
    ("number", "They had 5. They ate 3.", (), None),
    ("number", "They had 5.\nTherefore, there are 8 books on the shelf now.", (), "8"),
    ("number", "So 9 dollars. We can use Python code to verify this.\n", (), "9"),
    ("number", "He had 5.\nSo he has 9 dollars. We can use Python code to verify this.\n", (), "9"),
    ("number", "4 pastries remained.\nShe sold 5. 4 pastries remained.", (), None),
    ("number", "x\nSo we need to subtract 336 from it.", (), None),
    ("number", " 39.", (), "39"),
    ("number", " 56. \n\nI hope this helps!", (), "56"),
    ("number", "Answer: 8", (), "8"),
    ("number", "**Answer:** 8", (), "8"),
    ("number", "**Final answer:** 8 dollars", (), "8"),
    ("number", "The final answer is $\\boxed{8}$.", (), "8"),
    ("number", "The answer (arabic numerals) is 8.", (), "8"),
    ("number", "The answer is unclear.", (), None),
    ("number", "The answer is 8 or 9.", (), None),
    ("number", "It is cut. 2 + 3 = 5. So\u2026", (), None),
    ("number", "2 + 3 = 5.\u2026", (), None),
    ("number", "I don't think the answer is 8.", (), None),
    ("number", "The answer is 1\u2026", (), None),
    ("number", "The answer is: 8", (), "8"),
    ("number", "8 is the answer.", (), "8"),
    ("number", "The answer to the question is 8.", (), "8"),
    ("number", "Q: x? The answer is 8.\nQ: y? The answer is 9.", (), "8"),
    ("choice", "The answer is (B).", ABC, "B"),
    ("choice", "Answer: (B)", ABC, "B"),
    ("choice", "Answer Choices: (A) red ball (B) blue ball", ABC, None),
    ("choice", "He swaps.\nAt the end, Bob has the blue ball.", ABC, "B"),
    ("choice", "x. So, the answer is the green ball.", ABC, "C"),
    ("choice", "Therefore, the answer is (B) red ball.", ABC, None),
    ("choice", "so the answer is B.", ABC, "B"),
    ("choice", "x\nThe correct answer is C.", ABC, "C"),
    ("choice", "(A) is wrong. (B) is correct.", ABC, "B"),
    ("choice", "Bob has the red ball. Claire has the blue ball.", ABC, None),
    ("yes_no", "So, the answer is yes, the coin is still heads up.", (), "yes"),
    ("yes_no", "The final answer is that the coin is tails up.", (), None),
    ("yes_no", "x\nYes, the coin is still heads up.", (), "yes"),
    ("yes_no", "There is no frost. So no.", (), "no"),
    ("yes_no", "Is it? Yes. But it is tails up.", (), None),
    ("text", 'So the final answer would be "neen".', (), "neen"),
    ("text", 'x\nIf we put all these letters together, we get "eole".', (), "eole"),
    ("text", 'The last letter of "Jill" is "l".', (), None),
    ("date", "x\nTherefore, the date today is 05/01/2021.", (), "2021-05-01"),
    ("date", "The date is 02/03/2020. \n\nThe date 24 hours later is 02/04/2020.", (), None),
    ("date", "So, the answer is 09/16/2003.", (), "2003-09-16"),
]

PAPER_ROWS = [
    ("number", "10-5=5", (), "10", "10"),
    ("number", " 1,234.50 dollars", (), "1234.50", "1234.5"),
    ("number", "5 + 3 = 8", (), "5", "5.0"),
    ("number", "-$5", (), "5", "5"),
    ("number", "9**9**9", (), "9", "9"),
    ("number", "none", (), None, None),
    ("integer", " 1,234.", (), "1234", "1,234"),
    ("choice", "Bob has (C)", ABC, "B", "B"),
    ("choice", "D then C", ABC, "C", "C"),
    ("choice", "F", tuple("abcdef"), "F", "F"),
    ("choice", "F", tuple("abcde"), None, None),
    ("choice", "E", (), "E", "E"),
    ("yes_no", " 'Yes.'", (), "yes", "Yes"),
    ("yes_no", "yes!", (), None, None),
    ("text", ' "n s t y".\n', (), "nsty", "nsty"),
    ("text", ' "." ', (), None, None),
    ("date", " 05/05/2021.", (), "05/05/2021", "05/05/2021"),
    ("math", r" \frac{1}{2}.", (), r"\frac{1}{2}", r"\frac{1}{2}"),
]

PAPER_FIND_ROWS = [
    ("integer", "2 + 3 = 5. He had 7", (), "7"),
    ("choice", "Alice has A", ABC, "A"),
    ("choice", "the answer is (B). Claire", ABC, "C"),
    ("yes_no", "Yes. No.", (), "no"),
    ("text", "all of it.", (), "allofit"),
    ("number", "none", (), None),
]


@pytest.mark.parametrize(
    ("rule", "row"), [("typed", row) for row in TYPED_ROWS] + [("paper", row) for row in PAPER_ROWS], ids=repr
)
def test_the_answer_of_a_step(rule: str, row: tuple[str, str, tuple[str, ...], str | None, str | None]) -> None:
    kind, text, choices, expected, gold = row
    reader = RULES[rule][kind]
    first = next(iter(reader.candidates(text, choices)), None)
    assert first == expected
    if first is not None and gold is not None:
        assert reader.equal(first, gold)


def test_the_authors_look_for_the_letters_of_the_tasks_longest_list() -> None:
    date = answer_type("paper", "choice", 6)
    assert date.candidates("From E", ABC) == ["F", "E"]
    assert date.find("E or F", ABC) == "F"
    assert answer_type("paper", "choice", 3).candidates("From E, so A", tuple("uvwxyz")) == ["A"]
    assert answer_type("typed", "choice", 6) is TYPED["choice"]
    assert answer_type("paper", "number", 6) is PAPER["number"]


@pytest.mark.parametrize(
    ("rule", "row"), [("typed", row) for row in FIND_ROWS] + [("paper", row) for row in PAPER_FIND_ROWS], ids=repr
)
def test_the_answer_of_a_whole_text(rule: str, row: tuple[str, str, tuple[str, ...], str | None]) -> None:
    kind, text, choices, expected = row
    assert RULES[rule][kind].find(text, choices) == expected


@pytest.mark.parametrize(
    ("rule", "kind", "a", "b", "equal"),
    [
        ("typed", "number", "8.0000001", "8", True),
        ("typed", "number", "8.01", "8", False),
        ("typed", "number", "1/3", "0.3333333", True),
        ("typed", "number", "5/0", "5", False),
        ("typed", "number", "9" * 40, "9" * 39 + "8", False),
        ("typed", "number", "-0", "0", True),
        ("typed", "number", "eight", "8", False),
        ("typed", "number", "NaN", "NaN", False),
        ("typed", "integer", "39.0", "39", True),
        ("typed", "text", "a  b", "A b", True),
        ("typed", "text", "n s t y", "nsty", True),
        ("typed", "text", "n-s-t-y", "NSTY", True),
        ("typed", "text", "n s t y", "n st y", False),
        ("typed", "text", "ns ty", "nsty", False),
        ("typed", "yes_no", "yes", "no", False),
        ("typed", "date", "2021-05-06", "5/6/2021", True),
        ("typed", "date", "2021-05-06", "6 May 2021", True),
        ("typed", "date", "2021-05-06", "June 5, 2021", False),
        ("typed", "date", "never", "never", False),
        ("paper", "integer", "5.0", "5", False),
        ("paper", "number", "5.0", "5", True),
        ("paper", "number", "5.00001", "5", False),
        ("paper", "text", "nsty", "Nsty", False),
        ("paper", "choice", "A", "a", False),
    ],
)
def test_equal(rule: str, kind: str, a: str, b: str, equal: bool) -> None:
    assert RULES[rule][kind].equal(a, b) is equal


@pytest.mark.parametrize("kind", ["number", "choice", "yes_no", "date", "text"])
def test_what_a_cut_text_ends_in_may_not_be_all(kind: str) -> None:
    whole = {"number": "39", "choice": "B", "yes_no": "no", "date": "05/05/2021", "text": "nsty"}[kind]
    for text in (f" {whole}", f"So the answer is {whole}"):
        assert TYPED[kind].candidates(text, ABC)
        assert not TYPED[kind].candidates(text + UNFINISHED, ABC)
        assert TYPED[kind].find(text + UNFINISHED, ABC) is None
    assert TYPED[kind].candidates(f" {whole}.\n\nAnother" + UNFINISHED, ABC)


MATH_ROWS = [
    (r" $\frac{3}{4}$.", r"\frac{3}{4}", "0.75"),
    (r" The answer is $x = 5$. I hope this helps!", "x = 5", "5"),
    (r"We have $a = 3$. Then $$\boxed{\frac{3}{4}}$$", r"\frac{3}{4}", "3/4"),
    ("(x+1)^2", "(x+1)^2", "x^2 + 2x + 1"),
    (r"2\sqrt{2}", r"2\sqrt{2}", r"\sqrt{8}"),
    ("There are 39 pieces left.", "39", "39"),
    ("$a$ and $b$", None, None),
    ("((((", None, None),
]


@pytest.mark.parametrize(("text", "expected", "gold"), MATH_ROWS)
def test_formulas(text: str, expected: str | None, gold: str | None) -> None:
    pytest.importorskip("math_verify")
    assert next(iter(TYPED["math"].candidates(text, ())), None) == expected
    if expected is not None and gold is not None:
        assert TYPED["math"].equal(expected, gold)
        assert not TYPED["math"].equal(expected, "77")


def test_a_formula_that_takes_for_ever_costs_a_second_and_the_next_one_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify")
    assert math_answers.math_equal("1/2", "0.5")
    before = math_answers._worker
    monkeypatch.setattr(math_answers, "TOO_MUCH", re.compile("(?!)"))  # else none comes to the worker
    start = time.perf_counter()
    assert not math_answers.math_equal("(" * 250, "5")
    assert time.perf_counter() - start < 30  # one second on a machine that has nothing else to do; else it never ends
    assert math_answers._worker is not before
    assert before is not None
    assert before.poll() is not None
    assert math_answers.math_equal("1/2", "0.5")


def test_a_worker_that_somebody_ended_is_replaced() -> None:
    pytest.importorskip("math_verify")
    assert math_answers.math_equal("1/2", "0.5")
    assert math_answers._worker is not None
    math_answers._worker.kill()
    math_answers._worker.wait()
    math_answers.math_equal("1/2", "0.5")
    assert math_answers.math_equal("1/2", "0.5")


ASKING = """
import os, signal, threading, time
from cotdistill.math_answers import math_equal
def wrong():  # of questions of which every other one is true
    return sum(math_equal("1/2", ("2/4", "3/4")[i % 2]) != (i % 2 == 0) for i in range(40))
assert wrong() == 0
"""
INTERRUPTED = """
for _ in range(4):
    threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
    try:
        while True:
            wrong()
    except KeyboardInterrupt:  # as a notebook does
        assert wrong() == 0
"""
FORKED = """
children = []
for _ in range(3):
    if (child := os.fork()) == 0:
        os._exit(wrong())
    children.append(child)
assert wrong() == 0
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [INTERRUPTED, FORKED], ids=["interrupted", "forked"])
def test_a_reply_is_never_read_as_another_questions(code: str) -> None:
    pytest.importorskip("math_verify")
    subprocess.run([sys.executable, "-c", ASKING + code], check=True, timeout=120)


def test_no_worker_outlives_its_process() -> None:
    pytest.importorskip("math_verify")
    code = (
        "from cotdistill import math_answers as m\n"
        "assert m.math_equal('1/2', '0.5')\n"
        "print(m._worker.pid, flush=True)\n"
    )
    for end in ("", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"):
        done = subprocess.run([sys.executable, "-c", code + end], capture_output=True, text=True, check=False)
        worker = int(done.stdout)
        for _ in range(100):
            try:
                os.kill(worker, 0)
            except ProcessLookupError:
                break
            if Path(f"/proc/{worker}/stat").exists() and ") Z " in Path(f"/proc/{worker}/stat").read_text():
                break  # ended; nobody has asked how
            time.sleep(0.05)
        else:
            pytest.fail(f"process {worker} is still there")


def test_without_math_verify_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"cotdistill\[math\]"):
        TYPED["math"].candidates("x", ())


HOSTILE = {
    "200,000 digits": "1" * 200_000,
    "100,000 spaces": " " * 100_000,
    "20,000 numbers": "1 " * 20_000,
    "commas": "1,111" + ",111" * 50_000 + ",1",
    "minuses": "-" * 200_000,
    "equals": "=" * 200_000,
    "brackets": "(A" * 100_000,
    "letters": "A " * 200_000,
    "letter and spaces": ("A" + " " * 300) * 300,
    "empty lines": "\n" * 100_000,
    "is": "is " * 50_000,
    "quotes": "\"'" * 100_000,
    "power": "9^9^9^9",
    "python power": "9**9**9",
    "a\u0308": "a\u0308" * 50_000,
    "100,000 brackets": "(" * 100_000,
    "braces": "\\boxed{" * 20_000,
    "fractions": "\\frac{1}{" * 20_000,
    "answers": "the answer to x " * 20_000,
    "stated answers": "the answer is " * 20_000,
    "words": "two hundred and " * 20_000,
    "sentences": "a. " * 50_000,
    "stars": "*" * 100_000,
    "dates": "1/1/2021 " * 20_000,
    "yes or no": "not yes or no " * 20_000,
    "slashes": "1/" * 50_000,
    "backslashes": "\\" * 100_000,
    "JSON": "[" * 100_000,
    "exponent": "1e999999",
    "overflow": "1e999999999999999999",
    "code": "__import__('os').system('true')",
    "NUL and half a character": "\0\ud800 5",
    "Arabic digits": "\u0665" * 1000,
}


@pytest.mark.parametrize("kind", sorted(TYPED.keys() - {"integer"}))  # read as a number is
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_ends_soon(text: str, kind: str) -> None:
    if kind == "math":
        pytest.importorskip("math_verify")
        math_answers.math_equal("1/2", "0.5")  # the worker is there, as in the middle of a run
    for rule in RULES.values():
        for read in (rule[kind].candidates, rule[kind].find):
            start = time.process_time()
            read(text, ABC)
            read(" 39. The answer is 5" + text, ABC)
            assert time.process_time() - start < 2
        start = time.process_time()
        for a, b in [(text, "5"), ("5", text), ("-" + text, text)]:
            rule[kind].equal(a, b)
        assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "name", ["200,000 digits", "power", "python power", "100,000 brackets", "exponent", "overflow"]
)
@pytest.mark.parametrize("kind", sorted(TYPED.keys() - {"text"}))
def test_hostile_text_is_no_answer(name: str, kind: str) -> None:
    if kind == "math":
        pytest.importorskip("math_verify")
    if (kind, name) in (("math", "exponent"), ("math", "overflow")):
        return  # the formula 1 times e times 999999
    assert TYPED[kind].candidates(HOSTILE[name], ()) == []
    assert TYPED[kind].find(HOSTILE[name], ()) is None


def test_rules_know_the_same_types() -> None:
    assert set(TYPED) == set(PAPER)
    assert number_equal("1,000", "1000")


# By the paper's rule: as counted in the specification, section 7. By ours, over the same answers: see
# the rows above for where the two differ, such as "5*5=25" and "eleven".
TEACHER = [
    ("multiarith", "integer", 0, 332, 337, 420),
    ("svamp", "number", 0, 432, 435, 700),
    ("date_understanding", "choice", 6, 176, 176, 258),
    ("tracking_shuffled_objects", "choice", 3, 282, 282, 525),
    ("last_letter_concatenation", "text", 0, 205, 209, 350),
    ("coin_flip", "yes_no", 0, 320, 320, 350),
    ("strategy_qa", "yes_no", 0, 875, 875, 1603),
]


@pytest.mark.parametrize(("dataset", "kind", "options", "paper", "typed", "of"), TEACHER)
def test_the_175b_teachers_answers_count_as_in_the_paper(
    dataset: str, kind: str, options: int, paper: int, typed: int, of: int
) -> None:
    path = SHARED / "data" / "teacher" / f"{dataset}.jsonl"
    if not path.is_file():
        pytest.skip(f"the teacher's logs are not here ({path})")
    with path.open(encoding="utf-8") as file:
        rows = [row for row in map(json.loads, file) if row["split"] == "train"]
    right = dict.fromkeys(RULES, 0)
    for row in rows:
        generation = Generation("q", 0, row["rationale"], row["answer_extraction_output"], "stop")
        question = Question("q", row["question"], row["gold"], ("",) * options)
        for rule in RULES:
            right[rule] += score(generation, question, METHODS["zero_shot_cot"], RULES[rule][kind]).correct
    assert (right, len(rows)) == ({"paper": paper, "typed": typed}, of)
