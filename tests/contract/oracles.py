"""Configurations of `transformers` that every family is compared with."""

import transformers

VOCAB = 97
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHARED = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    **SPECIAL,
}
SCALINGS = [
    {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0},
    {
        "rope_type": "yarn", "rope_theta": 10_000.0, "factor": 8.0,
        "original_max_position_embeddings": 512,
    },
    {
        "rope_type": "yarn", "rope_theta": 1_000.0, "factor": 4.0, "beta_fast": 20.0,
        "original_max_position_embeddings": 1024, "mscale": 0.8, "mscale_all_dim": 1.2,
        "truncate": False,
    },
    {
        "rope_type": "llama3", "rope_theta": 5_000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 256,
    },
]  # fmt: skip
REFERENCE = {
    "llama": [
        lambda: transformers.LlamaConfig(**SHARED),
        lambda: transformers.LlamaConfig(
            **SHARED | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}
        ),
        *(
            lambda rope=rope: transformers.LlamaConfig(**SHARED, rope_parameters=rope)
            for rope in SCALINGS
        ),
    ],
    "mistral": [lambda: transformers.MistralConfig(**SHARED, sliding_window=9, head_dim=8)],
    "qwen2": [lambda: transformers.Qwen2Config(**SHARED)],
    "qwen3": [lambda: transformers.Qwen3Config(**SHARED, head_dim=16, tie_word_embeddings=True)],
    "gpt2": [
        lambda: transformers.GPT2Config(
            vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=4, n_positions=4096, **SPECIAL
        )
    ],
}
ENCODER = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 80,
}
SEQUENCES = {"vocab_size": VOCAB, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4}
STARTS = {"pad_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 0}
REFERENCE |= {
    "bert": [lambda: transformers.BertConfig(**ENCODER, max_position_embeddings=4096)],
    "roberta": [
        lambda: transformers.RobertaConfig(**ENCODER, max_position_embeddings=4098, pad_token_id=1)
    ],
    "t5": [
        lambda: transformers.T5Config(**SEQUENCES, **STARTS, num_layers=2, num_decoder_layers=3),
        lambda: transformers.T5Config(
            **SEQUENCES | STARTS, num_layers=2, feed_forward_proj="gated-gelu",
            tie_word_embeddings=False, relative_attention_num_buckets=16,
            relative_attention_max_distance=40,
        ),
    ],
    "mt5": [
        lambda: transformers.MT5Config(
            **SEQUENCES | STARTS, num_layers=2, feed_forward_proj="gated-gelu"
        )
    ],
    "bart": [
        lambda scale=scale: transformers.BartConfig(
            vocab_size=VOCAB, d_model=32, encoder_layers=2, decoder_layers=3,
            encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=64,
            decoder_ffn_dim=64, max_position_embeddings=3000, scale_embedding=scale,
            forced_eos_token_id=None, bos_token_id=1, **STARTS,
        )
        for scale in (False, True)
    ],
}  # fmt: skip
