"""How LLaVA-Gemma's own training code writes and labels a dialogue: written anew from its description.

Rounds are found by splitting the text, and their lengths by tokenizing each part again and counting. Padding is
`<unk>`, so that it is not counted in a text either.
"""

from __future__ import annotations

IMAGE, SEPARATOR, ANSWER = "<image>", "<end_of_turn>\n", "<start_of_turn>model\n"
OPENINGS = {"human": "<start_of_turn>user\n", "gpt": ANSWER}


def original(conversation: list[dict[str, str]], tokenizer, image_tokens: int) -> tuple[list[int], list[int]]:
    """Ids and labels, before anything is cut; labels are all -100 where the counts do not agree."""
    if conversation[0]["from"] != "human":
        conversation = conversation[1:]
    text = ""
    for index, turn in enumerate(conversation):
        assert turn["from"] == ("human", "gpt")[index % 2]
        value = turn["value"]
        if IMAGE in value:
            value = f"{IMAGE}\n{value.replace(IMAGE, '').strip()}".strip()
        text += OPENINGS[turn["from"]] + (value + SEPARATOR if value else "")

    def ids_of(part: str) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(part.split(IMAGE)):
            tokens = tokenizer(piece)["input_ids"]
            assert tokens[0] == tokenizer.bos_token_id
            if number:
                ids += [tokenizer.convert_tokens_to_ids(IMAGE)] * image_tokens
            ids += tokens[1:] if number else tokens
        return ids

    ids = ids_of(text)
    labels = list(ids)
    pieces = text.split(SEPARATOR)
    at = 1
    labels[0] = -100
    for index in range(0, len(pieces), 2):
        round_ = SEPARATOR.join(pieces[index : index + 2])
        parts = round_.split(SEPARATOR + ANSWER)
        if round_ == "" or len(parts) != 2:
            break
        length = len(ids_of(round_)) - 1 + 2  # beginning of text out, end of turn and newline in
        instruction = len(ids_of(parts[0] + SEPARATOR + ANSWER)) - 1
        labels[at : at + instruction] = [-100] * len(labels[at : at + instruction])
        at += length
    labels[at:] = [-100] * len(labels[at:])
    counted = sum(token != tokenizer.unk_token_id for token in ids)
    return ids, labels if at == counted else [-100] * len(ids)
