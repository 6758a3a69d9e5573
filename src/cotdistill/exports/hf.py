"""A Hugging Face folder of each student, which transformers and vLLM use as it is.

Its chat template wraps the question in the form that the student was trained on, so that a chat with one user
message has the token ids of training. Its generation config ends a text where evaluation did: at the student's
end-of-sequence tokens, at a stop string that is one token, and at the most tokens. Not by `stop_strings`:
`generate` refuses those without `tokenizer=`, and vLLM does not read them.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

from cotdistill import models
from cotdistill.errors import DataError
from cotdistill.exports.check import Trained, greedy
from cotdistill.exports.job import Job, Made
from cotdistill.methods import Method
from cotdistill.models import import_training
from cotdistill.progress import say
from cotdistill.records import Question
from cotdistill.reports.cards import OTHER_EPOCH
from cotdistill.reports.markdown import block
from cotdistill.runs import Run

COPIED = {".json", ".jinja", ".safetensors", ".txt", ".model", ".py"}  # .py: of a base model with code of its own
OURS = {"complete.json", "generation_config.json"}  # not copied: a mark of the run's folder; written anew
TEMPLATE = (
    "{{% if messages | length > 2 or messages[0]['role'] != 'user' or messages[0]['content'] is not string %}}"
    "{{{{ raise_exception('This student reads one question: one user message, text, and no system message.') }}}}"
    "{{% endif %}}"
    "{{{{ {before} + (messages[0]['content'] | trim) + {after} }}}}"
    "{{% if messages | length == 2 %}}{{{{ messages[1]['content'] + eos_token }}}}{{% endif %}}"
)
WHERE = "{question}"
ONE_ANSWER = (
    "from transformers import AutoModelForSeq2SeqLM as M, AutoTokenizer as T; t = T.from_pretrained({folder!r}); "
    "m = M.from_pretrained({folder!r}); "
    "print(t.decode(m.generate(**t('a question', return_tensors='pt'))[0], skip_special_tokens=True))"
)


def to_hf(job: Job) -> Made:
    """A folder for each student, in `job.folder`, checked."""
    commands, checks = [], {}
    for student in job.students:
        trained = Trained.load(student, job.this)
        folder = job.folder / student.name
        write_folder(trained, job.this, folder)
        checks[student.name] = found = check_folder(trained, job.this, folder)
        write_card(trained, job.this, folder, found)
        commands.append(command(trained, job.this, job.out / student.name))
    return Made(commands, checks)


def write_folder(trained: Trained, this: Run, folder: Path) -> None:
    """The model, its tokenizer and configs; not the card."""
    import_training()
    from transformers import GenerationConfig

    folder.mkdir(parents=True)
    for path in sorted(trained.student.folder.iterdir()):
        if path.is_file() and path.suffix in COPIED and path.name not in OURS:
            shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / "config.json").read_text())
    if "use_cache" in config:  # training leaves it off, and a server may read it
        config["use_cache"] = True
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(chat_template(trained.loaded.tokenizer, trained.student.method))
    kept = {k: v for k, v in trained.loaded.model.generation_config.to_diff_dict().items() if not k.startswith("_")}
    sampled = dict.fromkeys(("temperature", "top_p", "top_k", "max_length"))
    ends = {"eos_token_id": trained.end_ids(), "pad_token_id": trained.loaded.pad_id}
    settings = {**kept, **sampled, **ends, "do_sample": False, "max_new_tokens": trained.max_tokens, "use_cache": True}
    GenerationConfig(**settings).save_pretrained(folder)


def chat_template(tokenizer: Any, method: Method) -> str:
    """The template by which one user message becomes the prompt that a student of `method` was trained on."""
    if method.chat:
        return str(tokenizer.chat_template)
    before, _, after = method.prompt(Question("", WHERE, "")).partition(WHERE)
    first, last = specials(tokenizer)
    return TEMPLATE.format(before=_quoted(first + before), after=_quoted(after + last))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)  # as Jinja's strings are written too


def specials(tokenizer: Any) -> tuple[str, str]:
    """The special tokens that a tokenizer puts around a text by itself, which it does not around a chat."""
    plain, whole = (list(tokenizer.encode("a", add_special_tokens=added)) for added in (False, True))
    at = next((i for i in range(len(whole)) if whole[i : i + len(plain)] == plain), 0)
    return tokenizer.decode(whole[:at]), tokenizer.decode(whole[at + len(plain) :])


def check_folder(trained: Trained, this: Run, folder: Path) -> dict[str, int]:
    """Load a folder as others do, and compare it. Raises `DataError` where it is not the trained student."""
    _, torch, transformers = import_training()
    trust = this.config.student.trust_remote_code
    kind = transformers.AutoModelForSeq2SeqLM if trained.loaded.seq2seq else transformers.AutoModelForCausalLM
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
    model = kind.from_pretrained(folder, dtype=torch.float32, trust_remote_code=trust).eval()
    trained.refuse_other_weights("the folder", model)
    method = trained.student.method
    if not method.chat:
        trained.refuse_other_prompts("the plain prompt", lambda q: tokenizer(method.prompt(q)).input_ids)
    trained.refuse_other_prompts("the chat template", lambda question: chat_ids(tokenizer, question))
    written = greedy(f"{trained.student.name}: the folder", model, trained.asked, trained.loaded.pad_id)
    found = trained.compare("generate() of the folder", written)
    if found["ended"] < found["to_end"]:
        say(
            f"warning: {trained.student.name}: {found['to_end'] - found['ended']} of {found['to_end']} texts go on "
            f"behind their end, up to the most tokens. Ask with stop={list(method.stop)}."
        )
    return found


def chat_ids(tokenizer: Any, question: Question) -> list[int]:
    messages = [{"role": "user", "content": question.text.strip()}]
    encoded = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return list(encoded["input_ids"])


def write_card(trained: Trained, this: Run, folder: Path, found: dict[str, int]) -> None:
    """The student's card, with how to use the folder before its results."""
    student = trained.student
    path = this.folder / "student" / student.name / "README.md"
    if not path.is_file():
        raise DataError(f"{path}: the student has no card. Finish the run first: cotdistill report CONFIG.")
    head, mark, rest = path.read_text(encoding="utf-8").partition("\n## ")
    text = head + "\n## Use\n\n" + "\n\n".join(use(trained, found)) + "\n" + mark + rest
    (folder / "README.md").write_text(re.sub(OTHER_EPOCH.format(r"\d+"), "", text), encoding="utf-8")


def use(trained: Trained, found: dict[str, int]) -> list[str]:
    """The section of the card that says how to ask the folder, and what was checked."""
    student, kind = trained.student, "Seq2SeqLM" if trained.loaded.seq2seq else "CausalLM"
    written = "output[0]" if trained.loaded.seq2seq else 'output[0, inputs["input_ids"].shape[1] :]'
    lines = [
        f"from transformers import AutoModelFor{kind}, AutoTokenizer",
        "",
        f'model, tokenizer = (kind.from_pretrained("FOLDER_OR_REPO") for kind in (AutoModelFor{kind}, AutoTokenizer))',
        'chat = [{"role": "user", "content": "a question"}]',
        "inputs = tokenizer.apply_chat_template(",
        '    chat, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ")",
        "output = model.generate(**inputs)",
        f"print(tokenizer.decode({written}, skip_special_tokens=True))",
    ]
    stops = [stop for stop in student.method.stop if stop.strip()]
    return [
        "One user message, with the question alone, becomes the prompt that the student was trained on.",
        block("\n".join(lines), "python"),
        "It was trained to answer greedily: where a server samples by default, ask with temperature 0. "
        f"The generation config ends a text by itself, after at most {trained.max_tokens} tokens"
        + (
            f"; what stands behind {' or '.join(f'`{s.strip()}`' for s in stops)} counts for nothing." if stops else "."
        ),
        *(
            [f"The weights are those of `epochs/{student.folder.name}` of the run."]
            if student.folder.name != student.name
            else []
        ),
        f"Checked when it was exported, in fp32 on a CPU: the prompts of {len(trained.prompts):,} test questions have "
        f"the token ids of training; of {found['questions']} greedy texts {found['same']} are the same as the trained "
        f"student's, and {found['ties']} part where two tokens are as likely; of {found['to_end']} that have an end "
        f"{found['ended']} end by themselves.",
    ]


def command(trained: Trained, this: Run, out: Path) -> str:
    """What serves a folder; vLLM has no encoder-decoder models of text."""
    if trained.loaded.seq2seq:
        return shlex.join(["python", "-c", ONE_ANSWER.format(folder=str(out.absolute()))])
    dtype = "bfloat16" if models.has_bf16() else "float32"  # as evaluation here
    words = ["vllm", "serve", str(out.absolute()), "--served-model-name", trained.student.name, "--dtype", dtype]
    return shlex.join(words + ["--trust-remote-code"] * this.config.student.trust_remote_code)
