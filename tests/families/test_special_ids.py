"""Tokens with a role, as folders name them."""

from yantai.families.folder import special_ids


def test_a_decoder_ends_where_a_turn_ends_whoever_opens_it(tokenizer):
    turn = tokenizer.control["<|im_end|>"]
    own = {"bos_token_id": tokenizer.bos_id, "pad_token_id": tokenizer.pad_id}
    ends = sorted((tokenizer.eos_id, turn))
    assert special_ids(tokenizer, "decoder") == own | {"eos_token_id": ends}
    assert special_ids(tokenizer, "encoder") == own | {"eos_token_id": tokenizer.eos_id}
    assert special_ids(None, "decoder", {9, 7}) == {"eos_token_id": [7, 9]}
    told = special_ids(None, "encoder-decoder", {7}, start_id=3)
    assert told == {"eos_token_id": 7, "decoder_start_token_id": 3}
    assert special_ids(None, "decoder") == {}
