// One decoding step of a decoder-only Transformer on a CPU: a token a row in, logits out.
//
// At one token a step a model is memory traffic: every weight is read once and used once. So the
// whole step is one parallel region, in which each thread reads its own part of each matrix in the
// order in which it lies in memory; what is computed between two products is too small to divide
// further. Weights are bfloat16, float32, or codes of eight or four bits (adapt/packed.py);
// everything else is float32, accumulations included.
//
// Knows: pointers and sizes that `step.py` fills in. A row's result does not depend on how many
// threads there are: every dot product has one order of additions. In float32, for tokens behind
// each other, and for a few rows, it does not depend on the other rows either (many.h).

#include "weights.h"

namespace {

constexpr int64_t BEFORE = 65536;  // bytes asked for before a barrier
constexpr int QUERIES = 4;         // tokens behind each other that look at a key together

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

// Ask memory for the beginning of what this thread reads behind the next barrier.
template <class T>
inline void fetch(const Matrix& m, int64_t from, int64_t to) {
    const int64_t row = m.bits ? m.columns * m.bits / 8 : m.columns * sizeof(T);
    const char* start = static_cast<const char*>(m.weight) + from * row;
    const int64_t bytes = std::min<int64_t>(BEFORE, (to - from) * row);
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(start + i);
}

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
    for (int64_t i = 0; i < count; i += LANES) {
        const int64_t left = std::min<int64_t>(LANES, count - i);
        float a[LANES] = {}, b[LANES] = {};
        std::memcpy(a, first + i, left * sizeof *a);
        Vec y = activation<KIND>(load(a)).value;
        if (second) {
            std::memcpy(b, second + i, left * sizeof *b);
            y *= load(b);
        }
        store(a, y);
        std::memcpy(wide + i, a, left * sizeof *a);
    }
}

void cap(float* x, int64_t count, float limit) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
        store(x + i, limit * hyperbolic_tangent(load(x + i) / limit));
    for (; i < count; i++) x[i] = limit * hyperbolic_tangent(all(x[i] / limit))[0];
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
    float most = p[0];
    for (int64_t i = 1; i < count; i++) most = std::max(most, p[i]);
    Vec totals = {};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const Vec e = exponential(load(p + i) - most);
        store(p + i, e);
        totals += e;
    }
    float total = sum(totals);
    for (; i < count; i++) {
        p[i] = exponential(all(p[i] - most))[0];
        total += p[i];
    }
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
    return s.rows * m.dim + 4 * m.head_dim + QUERIES * s.length + 4 * LANES;
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

// A token's key and value as the cache holds them.
template <class T>
void newest(const Model& m, const Step& s, const Layer& layer, int64_t row, int64_t kv,
            const Scratch& at, float* k, T* key, T* value) {
    const int64_t n = m.head_dim, turned = (place_of(s, row) - s.padding[row]) * n;
    const float* from = at.qkv + row * (m.heads + 2 * m.kv_heads) * n;
    normalise(layer.of_key, m.is_layer_norm, m.norm_eps, from + (m.heads + kv) * n, k, n);
    if (s.cos) turn(k, s.cos + turned, s.sin + turned, n);
    const float* v = from + (m.heads + m.kv_heads + kv) * n;
    for (int64_t i = 0; i < n; i++) put(key + i, k[i]), put(value + i, v[i]);
}

// Write one head's key and value of one token into the cache.
template <class T>
void keep(const Model& m, const Step& s, int64_t number, int64_t row, int64_t kv, const T* key,
          const T* value) {
    const int64_t n = m.head_dim, place = place_of(s, row) * n;
    T* keys = keys_of<T>(m, s, number, row, kv);
    std::memcpy(keys + place, key, n * sizeof(T));
    std::memcpy(keys + s.room * m.kv_heads * s.length * n + place, value, n * sizeof(T));
}

// The same for tokens behind each other: all are written before any of them looks back.
template <class T>
void keep_newest(const Model& m, const Step& s, const Layer& layer, int64_t number, int64_t row,
                 int64_t kv, const Scratch& at, float* own) {
    const int64_t n = m.head_dim;
    T *key = reinterpret_cast<T*>(own + 2 * n), *value = reinterpret_cast<T*>(own + 3 * n);
    newest<T>(m, s, layer, row, kv, at, own + n, key, value);
    keep<T>(m, s, number, row, kv, key, value);
}

// One head of one token: q and k are turned, k and v are kept, and the values seen are gathered.
template <class T>
void look_back(const Model& m, const Step& s, const Layer& layer, int64_t number, int64_t row,
               int64_t head, const Scratch& at, float* own) {
    const int64_t n = m.head_dim, group = m.heads / m.kv_heads, kv = head / group;
    const int64_t place = place_of(s, row), turned = (place - s.padding[row]) * n;
    float *q = own, *scores = own + 4 * n;
    normalise(layer.of_query, m.is_layer_norm, m.norm_eps,
              at.qkv + (row * (m.heads + 2 * m.kv_heads) + head) * n, q, n);
    if (s.cos) turn(q, s.cos + turned, s.sin + turned, n);
    for (int64_t i = 0; i < n; i++) q[i] *= m.scale;
    // made here again, not read: another thread may be writing there
    T *key = reinterpret_cast<T*>(own + 2 * n), *value = reinterpret_cast<T*>(own + 3 * n);
    newest<T>(m, s, layer, row, kv, at, own + n, key, value);
    if (!s.behind && head % group == 0) keep<T>(m, s, number, row, kv, key, value);
    const T* keys = keys_of<T>(m, s, number, row, kv);
    const T* values = keys + s.room * m.kv_heads * s.length * n;
    int64_t first = s.padding[row];
    if (m.window) first = std::max(first, place + 1 - m.window);
    const int64_t count = place - first;
    auto note = [&](int64_t, int64_t t, float score) { scores[t] = score; };
    band<1>(Plain<T>{keys + first * n, n}, nullptr, 0, count, Floats{q, n}, 0, note);
    auto note_last = [&](int64_t, int64_t, float score) { scores[count] = score; };
    band<1>(Plain<T>{key, n}, nullptr, 0, 1, Floats{q, n}, 0, note_last);
    softmax(scores, count + 1);
    float* out = at.mixed + (row * m.heads + head) * n;
    std::fill(out, out + n, 0.0f);
    gather(scores, values + first * n, count, out, n);
    gather(scores + count, value, 1, out, n);
}

#ifdef MANY_ROWS
// One head of tokens behind each other, whose keys and values are all in the cache: up to QUERIES
// of them read each key and each value once.
void look_back_together(const Model& m, const Step& s, const Layer& layer, int64_t number,
                        int64_t row, int64_t count, int64_t head, const Scratch& at, float* own) {
    const int64_t n = m.head_dim, kv = head / (m.heads / m.kv_heads), last = row + count - 1;
    thread_local Narrow queries;
    thread_local Room<float> room;
    float* q = room.of(QUERIES * n);
    std::fill(q, q + QUERIES * n, 0.0f);
    for (int64_t i = 0; i < count; i++) {
        const int64_t turned = (place_of(s, row + i) - s.padding[row]) * n;
        normalise(layer.of_query, m.is_layer_norm, m.norm_eps,
                  at.qkv + ((row + i) * (m.heads + 2 * m.kv_heads) + head) * n, q + i * n, n);
        if (s.cos) turn(q + i * n, s.cos + turned, s.sin + turned, n);
        for (int64_t j = 0; j < n; j++) q[i * n + j] *= m.scale;
    }
    queries.take(q, QUERIES, n);
    auto first_of = [&](int64_t i) {
        const int64_t most = m.window ? place_of(s, row + i) + 1 - m.window : 0;
        return std::max(s.padding[row], most);
    };
    const int64_t first = first_of(0), keys_there = place_of(s, last) + 1 - first;
    const uint16_t* keys = keys_of<uint16_t>(m, s, number, row, kv) + first * n;
    const uint16_t* values = keys + s.room * m.kv_heads * s.length * n;
    float* scores = own + 4 * n;
    auto note = [&](int64_t i, int64_t t, float score) { scores[i * s.length + t] = score; };
    band_of_many<QUERIES>(Rows{keys, n}, n, nullptr, 0, keys_there, queries, 0, note);
    for (int64_t i = 0; i < QUERIES; i++) {
        float* p = scores + i * s.length;
        const int64_t from = i < count ? first_of(i) - first : 0;
        const int64_t to = i < count ? place_of(s, row + i) + 1 - first : 0;
        if (i < count) softmax(p + from, to - from);
        std::fill(p, p + from, 0.0f);
        std::fill(p + to, p + keys_there, 0.0f);
    }
    int64_t done = 0;
    auto gather_wide = [&](auto wide) {
        constexpr int WIDE = decltype(wide)::value;
        Vec total[QUERIES][WIDE] = {};
        for (int64_t t = 0; t < keys_there; t++) {
            Vec value[WIDE];
            EACH
            for (int w = 0; w < WIDE; w++) value[w] = load(values + t * n + done + w * LANES);
            EACH
            for (int i = 0; i < QUERIES; i++) {
                const float p = scores[i * s.length + t];
                EACH
                for (int w = 0; w < WIDE; w++) total[i][w] += p * value[w];
            }
        }
        EACH
        for (int i = 0; i < QUERIES; i++)
            for (int w = 0; w < WIDE && i < count; w++)
                store(at.mixed + ((row + i) * m.heads + head) * n + done + w * LANES, total[i][w]);
        done += WIDE * LANES;
    };
    while (done + 4 * LANES <= n) gather_wide(std::integral_constant<int, 4>());
    while (done + LANES <= n) gather_wide(std::integral_constant<int, 1>());
    for (; done < n; done++)
        for (int64_t i = 0; i < count; i++) {
            float total = 0;
            for (int64_t t = 0; t < keys_there; t++)
                total += scores[i * s.length + t] * one(values[t * n + done]);
            at.mixed[((row + i) * m.heads + head) * n + done] = total;
        }
}
#endif

#define BARRIER _Pragma("omp barrier")

template <class T>
void look_back_all(const Model& m, const Step& s, const Layer& layer, int64_t number,
                   int64_t thread, int64_t threads, const Scratch& at, float* own) {
#ifdef MANY_ROWS
    if (std::is_same_v<T, uint16_t> && s.behind && !s.alone) {
        // later tokens see more keys: the blocks are dealt out in turn
        const int64_t blocks = (s.rows + QUERIES - 1) / QUERIES * m.heads;
        for (int64_t block = thread; block < blocks; block += threads) {
            const int64_t row = block / m.heads * QUERIES;
            look_back_together(m, s, layer, number, row, std::min<int64_t>(QUERIES, s.rows - row),
                               block % m.heads, at, own);
        }
        return;
    }
#endif
    const Share tasks = share(s.rows * m.heads, thread, threads, 1);
    for (int64_t task = tasks.from; task < tasks.to; task++)
        look_back<T>(m, s, layer, number, task / m.heads, task % m.heads, at, own);
}

template <class T>
void run(const Model& m, const Step& s, int64_t thread, int64_t threads) {
    const Scratch at = divide(m, s);
    float* own = at.own + thread * own_floats(m, s);
    float* heads_own = own + s.rows * m.dim;
    const int64_t inner = m.heads * m.head_dim, kv_inner = m.kv_heads * m.head_dim;
    auto normed = [&](const Norm& norm) {
        for (int64_t row = 0; row < s.rows; row++)
            normalise(norm, m.is_layer_norm, m.norm_eps, at.x + row * m.dim, own + row * m.dim,
                      m.dim);
        return own;
    };
    auto add = [&](int64_t row, int64_t i, float value) { at.x[row * m.dim + i] += value; };
    const Share dim = share(m.dim, thread, threads, LANES);
    const Share vocab = share(m.vocab, thread, threads, LANES);
    with_weights<T>(m.tokens, [&](const auto& tokens) {
        for (int64_t row = 0; row < s.rows; row++)
            for (int64_t i = dim.from; i < dim.to; i++) {
                float value = tokens.at(s.ids[row], i);
                const int64_t place = (place_of(s, row) - s.padding[row]) * m.dim + i;
                if (m.positions) value += one(static_cast<const T*>(m.positions)[place]);
                at.x[row * m.dim + i] = value;
            }
    });
    BARRIER
    for (int64_t number = 0; number < m.layers; number++) {
        const Layer& layer = m.layer[number];
        const float* x = normed(layer.before_attention);
        const Share part = share(inner + 2 * kv_inner, thread, threads, LANES);
        product<T>(layer.qkv, part.from, part.to, x, s.rows, s.alone,
                   [&](int64_t row, int64_t i, float y) {
                       at.qkv[row * (inner + 2 * kv_inner) + i] = y;
                   });
        fetch<T>(layer.out, dim.from, dim.to);
        BARRIER
        if (s.behind) {
            const Share news = share(s.rows * m.kv_heads, thread, threads, 1);
            for (int64_t task = news.from; task < news.to; task++)
                keep_newest<T>(m, s, layer, number, task / m.kv_heads, task % m.kv_heads, at,
                               heads_own);
            BARRIER
        }
        look_back_all<T>(m, s, layer, number, thread, threads, at, heads_own);
        BARRIER
        product<T>(layer.out, dim.from, dim.to, at.mixed, s.rows, s.alone, add);
        const Share wide = share(m.hidden, thread, threads, LANES);
        fetch<T>(layer.up, wide.from, wide.to);
        BARRIER
        x = normed(layer.before_mlp);
        product<T>(
            layer.up, wide.from, wide.to, x, s.rows, s.alone,
            [&](int64_t row, int64_t i, float y) { at.first[row * m.hidden + i] = y; });
        if (m.is_gated)
            product<T>(layer.up, m.hidden + wide.from, m.hidden + wide.to, x, s.rows, s.alone,
                       [&](int64_t row, int64_t i, float y) {
                           at.wide[row * m.hidden + i - m.hidden] = y;
                       });
        for (int64_t row = 0; row < s.rows; row++) {
            const int64_t from = row * m.hidden + wide.from;
            with_kind(m.activation, [&](auto kind) {
                gate<decltype(kind)::value>(at.first + from, m.is_gated ? at.wide + from : nullptr,
                                            at.wide + from, wide.to - wide.from);
            });
        }
        fetch<T>(layer.down, dim.from, dim.to);
        BARRIER
        product<T>(layer.down, dim.from, dim.to, at.wide, s.rows, s.alone, add);
        if (number + 1 < m.layers)
            fetch<T>((&layer + 1)->qkv, part.from, part.to);
        else
            fetch<T>(m.head, vocab.from, vocab.to);
        BARRIER
    }
    const float* x = normed(m.last) + (s.rows - s.said) * m.dim;
    product<T>(m.head, vocab.from, vocab.to, x, s.said, s.alone,
               [&](int64_t row, int64_t i, float y) { s.logits[row * m.vocab + i] = y; });
    if (m.softcap)
        for (int64_t row = 0; row < s.said; row++)
            cap(s.logits + row * m.vocab + vocab.from, vocab.to - vocab.from, m.softcap);
}

}  // namespace

extern "C" {

// How many floats of scratch a step needs.
int64_t scratch_floats(const Model* m, const Step* s) {
    return divide(*m, *s).own - s->scratch + s->threads * own_floats(*m, *s);
}

// Whether many rows are read faster than one after the other, and faster than torch reads them.
int64_t reads_many() {
#ifdef MANY_ROWS
    return 1;
#else
    return 0;
#endif
}

// Write the logits behind each token, and its key and value into the cache.
void decode_step(const Model* m, const Step* s) {
#ifdef _OPENMP
#pragma omp parallel num_threads(s->threads)
    {
        const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
#else
    {
        const int64_t thread = 0, threads = 1;
#endif
        if (m->is_bfloat16)
            run<uint16_t>(*m, *s, thread, threads);
        else
            run<float>(*m, *s, thread, threads);
    }
}
}
