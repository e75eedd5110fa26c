// What a decoding step is given, and its small parts: norms, turns, softmax, where things lie.
//
// Knows: pointers and sizes that `step.py` fills in, and numbers. The cache and learned positions
// are of the weights' type; all that is computed is float32.

#pragma once

#include "weights.h"

namespace {

// ---------------------------------------------------------------- what step.py fills in

extern "C" {

struct Norm {
    const float *weight, *bias;  // the bias is null for RMS norms; both are null for no norm
};

struct Layer {
    Norm before_attention, before_mlp, of_query, of_key;
    Matrix qkv, out, up, down;
};

struct Model {
    int64_t layers, dim, heads, kv_heads, head_dim, hidden, vocab, window;
    int64_t is_bfloat16, is_layer_norm, is_gated, activation;
    float norm_eps, scale, softcap;
    Matrix tokens;
    const void* positions;  // null unless they are learned
    Norm last;
    Matrix head;
    const Layer* layer;
};

struct Step {
    int64_t rows, room, filled, length, threads;  // rows that are read, and that the cache holds
    int64_t behind;  // whether the rows stand behind each other in the cache's first row
    int64_t alone;   // whether each row must be as if there were no others
    int64_t said;    // of so many rows, the last ones, the logits are wanted
    const int64_t *ids, *padding;  // one a row; padding counts the unseen places at its beginning
    const float *cos, *sin;        // length × head_dim, or null; the sine is signed
    void* cache;                   // layers × 2 × room × kv_heads × length × head_dim
    float *scratch, *logits;
};
}

// ---------------------------------------------------------------- the small parts

void normalise(const Norm& norm, bool centred, float eps, const float* x, float* y, int64_t n) {
    if (!norm.weight) {
        std::memcpy(y, x, n * sizeof *y);
        return;
    }
    float mean = 0, square = 0;
    if (centred) {
        for (int64_t i = 0; i < n; i++) mean += x[i];
        mean /= n;
    }
    int64_t i = 0;
    Vec squares = {};
    for (; i + LANES <= n; i += LANES) {
        const Vec d = load(x + i) - mean;
        squares += d * d;
    }
    for (; i < n; i++) square += (x[i] - mean) * (x[i] - mean);
    const float scale = 1.0f / std::sqrt((sum(squares) + square) / n + eps);
    for (i = 0; i < n; i++)
        y[i] = (x[i] - mean) * scale * norm.weight[i] + (norm.bias ? norm.bias[i] : 0.0f);
}

// wide[i] = act(first[i]) · second[i], for `count` numbers; `second` may be null.
template <int KIND>
void gate(const float* first, const float* second, float* wide, int64_t count) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vec y = activation<KIND>(load(first + i)).value;
        store(wide + i, second ? y * load(second + i) : y);
    }
    if (i == count) return;
    const Vec y = activation<KIND>(load_some(first + i, count - i)).value;
    store_some(wide + i, second ? y * load_some(second + i, count - i) : y, count - i);
}

void cap(float* x, int64_t count, float limit) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        store(x + i, limit * hyperbolic_tangent(load(x + i) / limit));
    if (i == count) return;
    const Vec rest = load_some(x + i, count - i);
    store_some(x + i, limit * hyperbolic_tangent(rest / limit), count - i);
}

void turn(float* x, const float* cos, const float* sin, int64_t n) {
    const int64_t half = n / 2;
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cos[i] + b * sin[i];
        x[i + half] = b * cos[i + half] + a * sin[i + half];
    }
}

// p = softmax(p) in place.
void softmax(float* p, int64_t count) {
    int64_t i = 0;
    Vec tops = all(p[0]);
    for (; i + LANES <= count; i += LANES) {
        const Vec x = load(p + i);
        tops = x > tops ? x : tops;
    }
    float top = most(tops);
    for (; i < count; i++) top = std::max(top, p[i]);
    Vec totals = {};
    i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vec e = exponential(load(p + i) - top);
        store(p + i, e);
        totals += e;
    }
    if (i < count) {
        store_some(p + i, exponential(load_some(p + i, count - i) - top), count - i);
        totals += load_some(p + i, count - i);
    }
    const float total = sum(totals);
    for (i = 0; i < count; i++) p[i] /= total;
}

// out += Σ p[t]·values[t], vectors of n numbers one behind another.
template <class T>
void gather(const float* p, const T* values, int64_t count, float* out, int64_t n) {
    constexpr int WIDE = 4;
    int64_t at = 0;
    for (; at + WIDE * LANES <= n; at += WIDE * LANES) {
        Vec total[WIDE] = {};
        for (int64_t t = 0; t < count; t++)
            for (int w = 0; w < WIDE; w++) total[w] += p[t] * load(values + t * n + at + w * LANES);
        for (int w = 0; w < WIDE; w++)
            store(out + at + w * LANES, load(out + at + w * LANES) + total[w]);
    }
    for (; at + LANES <= n; at += LANES) {
        Vec total = {};
        for (int64_t t = 0; t < count; t++) total += p[t] * load(values + t * n + at);
        store(out + at, load(out + at) + total);
    }
    for (; at < n; at++)
        for (int64_t t = 0; t < count; t++) out[at] += p[t] * one(values[t * n + at]);
}

struct Share {
    int64_t from, to;
};

// The part of [0, count) of one thread, in whole pieces.
inline Share share(int64_t count, int64_t thread, int64_t threads, int64_t piece) {
    const int64_t pieces = (count + piece - 1) / piece;
    return {std::min(count, pieces * thread / threads * piece),
            std::min(count, pieces * (thread + 1) / threads * piece)};
}

// ---------------------------------------------------------------- the step

struct Scratch {  // shared by all threads, then each thread's own
    float *x, *qkv, *mixed, *first, *wide, *own;
};

int64_t own_floats(const Model& m, const Step& s) {
    return s.rows * m.dim + 4 * m.head_dim + s.length + 4 * LANES;
}

Scratch divide(const Model& m, const Step& s) {
    Scratch to;
    to.x = s.scratch;
    to.qkv = to.x + s.rows * m.dim;
    to.mixed = to.qkv + s.rows * (m.heads + 2 * m.kv_heads) * m.head_dim;
    to.first = to.mixed + s.rows * m.heads * m.head_dim;
    to.wide = to.first + s.rows * m.hidden;
    to.own = to.wide + s.rows * m.hidden;
    return to;
}

// Where a token comes to stand in the cache.
int64_t place_of(const Step& s, int64_t row) { return s.behind ? s.filled + row : s.filled; }

// The keys of one head of the row of the cache that a token belongs to; the values lie behind them.
template <class T>
T* keys_of(const Model& m, const Step& s, int64_t number, int64_t row, int64_t kv) {
    const int64_t own = s.behind ? 0 : row, step = s.length * m.head_dim;
    return static_cast<T*>(s.cache) + ((2 * number * s.room + own) * m.kv_heads + kv) * step;
}

}  // namespace
