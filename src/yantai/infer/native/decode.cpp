// One decoding step of a decoder-only Transformer on a CPU: a token a row in, logits out.
//
// At one token a step a model is memory traffic: every weight is read once and used once. So the
// whole step is one parallel region, in which each thread reads its own part of each matrix in the
// order in which it lies in memory; what is computed between two products is too small to divide
// further. Weights are bfloat16, float32, or codes of eight or four bits (adapt/packed.py), the cache
// is of the model's type; what goes from part to part is float32, and so are the sums.
//
// Knows: pointers and sizes that `step.py` fills in. A row's result does not depend on how many
// threads there are: every dot product has one order of additions. In float32, for a few rows, and
// wherever `alone` asks for it, it does not depend on the other rows either (many.h).

#include "parts.h"
#include "prompt.h"

namespace {

constexpr int64_t BEFORE = 65536;  // bytes asked for before a barrier

// Ask memory for the beginning of what this thread reads behind the next barrier.
template <class T>
inline void fetch(const Matrix& m, int64_t from, int64_t to) {
    const int64_t row = m.bits ? m.columns * m.bits / 8 : m.columns * sizeof(T);
    const char* start = static_cast<const char*>(m.weight) + from * row;
    const int64_t bytes = std::min<int64_t>(BEFORE, (to - from) * row);
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(start + i);
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

#define BARRIER _Pragma("omp barrier")

template <class T>
void look_back_all(const Model& m, const Step& s, const Layer& layer, int64_t number,
                   int64_t thread, int64_t threads, const Scratch& at, float* own) {
#ifdef MANY_ROWS
    if (std::is_same_v<T, uint16_t> && s.behind && !s.alone) {
        // later tokens see more keys: the blocks are dealt out in turn
        const int64_t blocks = (s.rows + QUERIES - 1) / QUERIES * m.kv_heads;
        for (int64_t block = thread; block < blocks; block += threads)
            look_back_together(m, s, layer, number, block / m.kv_heads * QUERIES,
                               block % m.kv_heads, at);
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
#ifdef MANY_ROWS
    [[maybe_unused]] const Tiles tiles;
#endif
    float* own = at.own + thread * own_floats(m, s);
    float* heads_own = own + s.rows * m.dim;
    const int64_t inner = m.heads * m.head_dim, kv_inner = m.kv_heads * m.head_dim;
    auto normed = [&](const Norm& norm) {
        for (int64_t row = 0; row < s.rows; row++)
            normalise(norm, m.is_layer_norm, m.norm_eps, at.x + row * m.dim, own + row * m.dim,
                      m.dim);
        return own;
    };
    auto add = [&](int64_t row, int64_t i, auto value) { raise(at.x + row * m.dim + i, value); };
    const Way way = s.alone ? Way::ALONE : s.behind ? Way::TOGETHER : Way::AS_MANY;
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
        product<T>(layer.qkv, part.from, part.to, x, s.rows, way,
                   [&](int64_t row, int64_t i, auto y) {
                       put(at.qkv + row * (inner + 2 * kv_inner) + i, y);
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
        product<T>(layer.out, dim.from, dim.to, at.mixed, s.rows, way, add);
        const Share wide = share(m.hidden, thread, threads, LANES);
        fetch<T>(layer.up, wide.from, wide.to);
        BARRIER
        x = normed(layer.before_mlp);
        product<T>(
            layer.up, wide.from, wide.to, x, s.rows, way,
            [&](int64_t row, int64_t i, auto y) { put(at.first + row * m.hidden + i, y); });
        if (m.is_gated)
            product<T>(layer.up, m.hidden + wide.from, m.hidden + wide.to, x, s.rows, way,
                       [&](int64_t row, int64_t i, auto y) {
                           put(at.wide + row * m.hidden + i - m.hidden, y);
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
        product<T>(layer.down, dim.from, dim.to, at.wide, s.rows, way, add);
        if (number + 1 < m.layers)
            fetch<T>((&layer + 1)->qkv, part.from, part.to);
        else
            fetch<T>(m.head, vocab.from, vocab.to);
        BARRIER
    }
    const float* x = normed(m.last) + (s.rows - s.said) * m.dim;
    product<T>(m.head, vocab.from, vocab.to, x, s.said, s.behind ? Way::ALONE : way,
               [&](int64_t row, int64_t i, auto y) { put(s.logits + row * m.vocab + i, y); });
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
