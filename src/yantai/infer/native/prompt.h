// Attention for tokens behind each other, whose keys and values are all in the cache.
//
// A block of tokens, and all heads that share keys, look at a band of keys together: the scores are
// products of many rows, and so are the values that are gathered (many.h). Queries, and the shares
// of the values, are rounded to bfloat16, as torch's own attention rounds them.

#pragma once

#include "parts.h"

#ifdef MANY_ROWS

namespace {

constexpr int64_t QUERIES = 32;  // tokens of a block

// Values so that a register holds those of two tokens, in HALF dimensions.
inline const __m512i* turned_values(const uint16_t* values, int64_t count, int64_t n,
                                    Room<__m512i>& room) {
    const int64_t pairs = padded(count) / 2, halves = (n + HALF - 1) / HALF;
    __m512i* to = room.of(halves * pairs);
    for (int64_t half = 0; half < halves; half++) {
        const int64_t left = std::min(n - half * HALF, HALF);
        const __mmask16 there = (1u << left) - 1;
        const uint16_t* from = values + half * HALF;
        for (int64_t t = 0; t < count; t += 2) {
            const __m256i even = _mm256_maskz_loadu_epi16(there, from + t * n);
            const __m256i odd =
                _mm256_maskz_loadu_epi16(t + 1 < count ? there : 0, from + (t + 1) * n);
            to[half * pairs + t / 2] =
                _mm512_or_si512(_mm512_cvtepu16_epi32(even),
                                _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
        }
        for (int64_t pair = (count + 1) / 2; pair < pairs; pair++)  // read by whole squares
            to[half * pairs + pair] = _mm512_setzero_si512();
    }
    return to;
}

// The heads of one key head, of QUERIES tokens from `row` on, or as many as there are.
void look_back_together(const Model& m, const Step& s, const Layer& layer, int64_t number,
                        int64_t row, int64_t kv, const Scratch& at) {
    thread_local Narrow queries, shares;
    thread_local Room<float> turned_queries, room;
    Room<__m512i>& squares = own_buffers().squares;
    const int64_t n = m.head_dim, group = m.heads / m.kv_heads;
    const int64_t tokens = std::min(QUERIES, s.rows - row), rows = tokens * group;
    float* q = turned_queries.of(rows * n);
    for (int64_t i = 0; i < rows; i++) {
        const int64_t token = row + i / group, head = kv * group + i % group;
        const int64_t angle = (place_of(s, token) - s.padding[token]) * n;
        normalise(layer.of_query, m.is_layer_norm, m.norm_eps,
                  at.qkv + (token * (m.heads + 2 * m.kv_heads) + head) * n, q + i * n, n);
        if (s.cos) turn(q + i * n, s.cos + angle, s.sin + angle, n);
        for (int64_t j = 0; j < n; j++) q[i * n + j] *= m.scale;
    }
    queries.take(q, rows, n);
    auto first_of = [&](int64_t token) {
        const int64_t most = m.window ? place_of(s, token) + 1 - m.window : 0;
        return std::max(s.padding[token], most);
    };
    // pairs of keys are added up together: the same ones, wherever a block begins
    const int64_t least = s.padding[row], first = least + (first_of(row) - least) / 2 * 2;
    const int64_t count = place_of(s, row + tokens - 1) + 1 - first;
    const uint16_t* keys = keys_of<uint16_t>(m, s, number, row, kv) + first * n;
    const uint16_t* values = keys + s.room * m.kv_heads * s.length * n;
    float* scores = room.of(rows * count);
    auto note = [&](int64_t i, int64_t t, auto score) { put(scores + i * count + t, score); };
    for (int64_t start = 0; start < count; start += BAND) {
        const int64_t stop = std::min(start + BAND, count);
        const __m512i* band = turned(Rows{keys + start * n, n}, stop - start, n, squares);
        if (stop - start > HALF)
            turned_band<2>(band, n, nullptr, start, stop, queries, rows, note);
        else
            turned_band<1>(band, n, nullptr, start, stop, queries, rows, note);
    }
    for (int64_t i = 0; i < rows; i++) {
        const int64_t token = row + i / group;
        const int64_t from = first_of(token) - first, to = place_of(s, token) + 1 - first;
        float* p = scores + i * count;
        std::fill(p, p + from, 0.0f);
        softmax(p + from, to - from);
        std::fill(p + to, p + count, 0.0f);
    }
    shares.take(scores, rows, count);
    const __m512i* band = turned_values(values, count, n, squares);
    const int64_t pairs = padded(count) / 2;
    auto gathered = [&](int64_t i, int64_t j, auto value) {
        put(at.mixed + ((row + i / group) * m.heads + kv * group + i % group) * n + j, value);
    };
    int64_t done = 0;
    for (; done + HALF < n; done += 2 * HALF)
        turned_band<2>(band + done / HALF * pairs, count, nullptr, done, n, shares, rows, gathered);
    if (done < n)
        turned_band<1>(band + done / HALF * pairs, count, nullptr, done, n, shares, rows, gathered);
}

}  // namespace
#endif
