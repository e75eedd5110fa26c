// Attention to a range of keys, for training in bfloat16 on processors with AVX512-BF16.
//
// softmax(q·kᵀ·scale)·v and its gradients, a head at a time, so that all of a head stays in the
// second cache. The pattern is never kept: the forward leaves the logarithm of each row's sum, from
// which the backward makes it again (FlashAttention, arXiv 2205.14135, appendix B); what dropout
// takes out of it is made again too. Each query sees
// the keys from its first to its last: that is order, a document's borders and a window in two
// numbers. Neither may fall from one query to the next.
//
// Everything is one small product, `tile`: C[8 × 32] += A·B over pairs of numbers, as the
// instruction takes them. A is read pair by pair from anywhere; B lies as rows of pairs, packed by
// `across` (from rows) or `along` (from columns).

#include "lanes.h"

#ifdef __AVX512BF16__

namespace {

constexpr int ROWS = 8, COLUMNS = 32;

typedef uint16_t Number;  // a bfloat16
typedef int32_t Pair;     // two of them, the first in the lower half

inline int64_t whole(int64_t count, int64_t piece) { return (count + piece - 1) / piece * piece; }

// C[8 × 32] = (keep ? C : 0) + Σ a[row][pair]·b[pair][column]
inline void tile(const Pair* a, int64_t row_step, int64_t pair_step, const Pair* b, int64_t b_step,
                 int64_t pairs, float* c, int64_t c_step, bool keep) {
    __m512 left[ROWS], right[ROWS];
    for (int r = 0; r < ROWS; r++) {
        left[r] = keep ? _mm512_loadu_ps(c + r * c_step) : _mm512_setzero_ps();
        right[r] = keep ? _mm512_loadu_ps(c + r * c_step + LANES) : _mm512_setzero_ps();
    }
    for (int64_t p = 0; p < pairs; p++) {
        const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b + p * b_step);
        const __m512bh b1 = (__m512bh)_mm512_loadu_si512(b + p * b_step + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const __m512bh x = (__m512bh)_mm512_set1_epi32(a[r * row_step + p * pair_step]);
            left[r] = _mm512_dpbf16_ps(left[r], x, b0);
            right[r] = _mm512_dpbf16_ps(right[r], x, b1);
        }
    }
    for (int r = 0; r < ROWS; r++) {
        _mm512_storeu_ps(c + r * c_step, left[r]);
        _mm512_storeu_ps(c + r * c_step + LANES, right[r]);
    }
}

// Rows end to end; rows behind the last are zeros.
void rows_of(const Number* from, int64_t step, int64_t count, int64_t padded, int64_t n, Number* to) {
    for (int64_t t = 0; t < count; t++) std::memcpy(to + t * n, from + t * step, n * sizeof *to);
    std::memset(to + count * n, 0, (padded - count) * n * sizeof *to);
}

// Two numbers of a row are a pair: from rows[padded][n], to[n/2][padded].
void along(const Number* rows, int64_t padded, int64_t n, Pair* to) {
    const __m512i places = (__m512i)(PLACES * uint32_t(n / 2));
    for (int64_t t = 0; t < padded; t += LANES)
        for (int64_t p = 0; p < n / 2; p++) {
            const void* from = reinterpret_cast<const Pair*>(rows + t * n) + p;
            _mm512_storeu_si512(to + p * padded + t, _mm512_i32gather_epi32(places, from, 4));
        }
}

// Two rows are pairs: to[..][n] from rows a and b.
inline void zip(const Number* a, const Number* b, Pair* to, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) {
        const __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(a + i)));
        const __m512i y = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(b + i)));
        _mm512_storeu_si512(to + i, _mm512_or_si512(x, _mm512_slli_epi32(y, 16)));
    }
}

// Two neighbouring rows are a row of pairs: from rows[padded][n], to[padded/2][n].
void across(const Number* rows, int64_t padded, int64_t n, Pair* to) {
    for (int64_t t = 0; t < padded; t += 2) zip(rows + t * n, rows + (t + 1) * n, to + t / 2 * n, n);
}

struct Memory {  // hands out pieces of one allocation
    char* next;
    template <class T>
    T* take(int64_t count) {
        T* found = reinterpret_cast<T*>(next);
        next += whole(count * sizeof(T), 64);
        return found;
    }
};

}  // namespace

extern "C" {

struct View {  // the numbers of one vector lie side by side; steps are in numbers
    Number* data;
    int64_t batch_step, head_step, position_step;
};

struct Attention {
    int64_t batch, heads, kv_heads, queries, keys, head_dim;
    float scale;
    // what is added to a score by its distance, heads × distance_step, the distance key − query at
    // key − query + keys − 1; and its gradient, batch × heads × distance_step; both may be null
    const float* distances;
    float* d_distances;
    int64_t distance_step;
    int64_t seed;  // of dropout
    float rate;    // of dropout; 0 is none
    const int32_t *first, *last;  // batch × queries: the keys that a query sees
    View q, k, v, out, d_out, dq, dk, dv;
    float* log_sums;  // batch × heads × queries
};
}

namespace {

// Whether a place of a head's pattern is kept; place query·keys + key.
inline Kept kept_of(const Attention& x, int64_t batch, int64_t head) {
    return Kept(x.seed, batch * x.heads + head, x.rate);
}

inline Number* at(const View& view, int64_t batch, int64_t head) {
    return view.data + batch * view.batch_step + head * view.head_step;
}

// ---------------------------------------------------------------- forward

struct Keys {
    Pair *k_along, *v_across;
};

void forward_head(const Attention& x, int64_t batch, int64_t head, Keys keys, Memory memory) {
    const int64_t n = x.head_dim, count = x.queries, padded = whole(x.keys, COLUMNS);
    const int32_t *first = x.first + batch * count, *last = x.last + batch * count;
    Number* q = memory.take<Number>(whole(count, COLUMNS) * n);
    float* scores = memory.take<float>(ROWS * padded);
    Number* pattern = memory.take<Number>(ROWS * padded);
    float* mixed = memory.take<float>(ROWS * n);
    rows_of(at(x.q, batch, head), x.q.position_step, count, whole(count, COLUMNS), n, q);
    Number* out = at(x.out, batch, head);
    float* log_sums = x.log_sums + (batch * x.heads + head) * count;
    const Int lanes = (Int)PLACES;
    const Kept kept = kept_of(x, batch, head);
    for (int64_t start = 0; start < count; start += ROWS) {
        const int64_t from = first[start] / COLUMNS * COLUMNS;
        const int64_t to = whole(last[std::min(start + ROWS, count) - 1] + 1, COLUMNS);
        for (int64_t key = from; key < to; key += COLUMNS)
            tile((Pair*)(q + start * n), n / 2, 1, keys.k_along + key, padded, n / 2,
                 scores + key - from, padded, false);
        float sums[ROWS];
        for (int64_t r = 0; r < ROWS; r++) {
            const int64_t t = std::min(start + r, count - 1);
            float* row = scores + r * padded;
            const int32_t low = first[t] - from, high = last[t] - from;
            const float* added = x.distances
                ? x.distances + head * x.distance_step + from - t + x.keys - 1 : nullptr;
            Vec highest = all(-INFINITY);
            for (int64_t i = 0; i < to - from; i += LANES) {
                const Int place = lanes + int32_t(i);
                Vec s = load(row + i) * x.scale;
                if (added) s += load(added + i);
                s = (place >= low) & (place <= high) ? s : all(-INFINITY);
                highest = highest > s ? highest : s;
                store(row + i, s);
            }
            const float top = most(highest);
            Vec total = {};
            for (int64_t i = 0; i < to - from; i += LANES) {
                const Int place = lanes + int32_t(i);
                Vec e = exponential(load(row + i) - top);
                e = (place >= low) & (place <= high) ? e : Vec{};
                total += e;
                if (x.rate) e *= kept(PLACES + uint32_t(t * x.keys + from + i));
                store(pattern + r * padded + i, narrow(e));
            }
            sums[r] = sum(total);
            if (start + r < count) log_sums[t] = top + std::log(sums[r]);
        }
        for (int64_t i = 0; i < n; i += COLUMNS)
            tile((Pair*)pattern, padded / 2, 1, keys.v_across + from / 2 * n + i, n,
                 (to - from) / 2, mixed + i, n, false);
        for (int64_t r = 0; r < std::min<int64_t>(ROWS, count - start); r++)
            for (int64_t i = 0; i < n; i += LANES)
                store(out + (start + r) * x.out.position_step + i,
                      narrow(load(mixed + r * n + i) * (1.0f / sums[r])));
    }
}

void forward_group(const Attention& x, int64_t batch, int64_t kv, Memory memory) {
    const int64_t n = x.head_dim, padded = whole(x.keys, COLUMNS), group = x.heads / x.kv_heads;
    Number* rows = memory.take<Number>(padded * n);
    const Keys keys{memory.take<Pair>(padded * n / 2), memory.take<Pair>(padded * n / 2)};
    rows_of(at(x.k, batch, kv), x.k.position_step, x.keys, padded, n, rows);
    along(rows, padded, n, keys.k_along);
    rows_of(at(x.v, batch, kv), x.v.position_step, x.keys, padded, n, rows);
    across(rows, padded, n, keys.v_across);
    for (int64_t head = kv * group; head < (kv + 1) * group; head++)
        forward_head(x, batch, head, keys, memory);
}

// ---------------------------------------------------------------- backward

struct Gradients {
    Number *k, *v;       // rows
    Pair* k_across;
    float *dk, *dv;      // sums over the heads of the group
};

void backward_head(const Attention& x, int64_t batch, int64_t head, Gradients g, Memory memory) {
    const int64_t n = x.head_dim, count = x.queries, padded = whole(count, COLUMNS);
    Number* rows = memory.take<Number>(padded * n);
    Pair* q_along = memory.take<Pair>(padded * n / 2);
    Pair* q_across = memory.take<Pair>(padded * n / 2);
    Pair* d_along = memory.take<Pair>(padded * n / 2);
    Pair* d_across = memory.take<Pair>(padded * n / 2);
    float* dq = memory.take<float>(padded * n);
    float *log_sums = memory.take<float>(padded), *dots = memory.take<float>(padded);
    int32_t *first = memory.take<int32_t>(padded), *last = memory.take<int32_t>(padded);
    float *scores = memory.take<float>(ROWS * padded), *slopes = memory.take<float>(ROWS * padded);
    Number* pattern = memory.take<Number>(COLUMNS * padded);  // of a block of keys, keys × queries
    Number* d_scores = memory.take<Number>(COLUMNS * padded);
    Pair* pairs = memory.take<Pair>(COLUMNS / 2 * padded);  // d_scores, pairs of keys × queries
    // by distance the other way round, query − key, so that queries lie side by side
    const int64_t reach = 2 * x.keys - 1, margin = 2 * COLUMNS, centre = margin + x.keys - 1;
    float* added = memory.take<float>(2 * padded + 2 * margin);
    float* d_added = memory.take<float>(2 * padded + 2 * margin);
    if (x.distances) {
        std::memset(added, 0, (2 * padded + 2 * margin) * sizeof *added);
        std::memset(d_added, 0, (2 * padded + 2 * margin) * sizeof *d_added);
        for (int64_t d = 0; d < reach; d++)
            added[margin + reach - 1 - d] = x.distances[head * x.distance_step + d];
    }

    rows_of(at(x.q, batch, head), x.q.position_step, count, padded, n, rows);
    along(rows, padded, n, q_along);
    across(rows, padded, n, q_across);
    rows_of(at(x.d_out, batch, head), x.d_out.position_step, count, padded, n, rows);
    along(rows, padded, n, d_along);
    across(rows, padded, n, d_across);
    std::memset(dq, 0, padded * n * sizeof *dq);
    const Kept kept = kept_of(x, batch, head);
    const Number* out = at(x.out, batch, head);
    for (int64_t t = 0; t < padded; t++) {
        const bool there = t < count;
        first[t] = there ? x.first[batch * count + t] : INT32_MAX;  // who is not there sees nothing
        last[t] = there ? x.last[batch * count + t] : INT32_MAX;
        log_sums[t] = there ? x.log_sums[(batch * x.heads + head) * count + t] : 0.0f;
        Vec dot = {};
        for (int64_t i = 0; there && i < n; i += LANES)
            dot += load(out + t * x.out.position_step + i) * load(rows + t * n + i);
        dots[t] = sum(dot);
    }
    for (int64_t block = 0; block < x.keys; block += COLUMNS) {
        // the queries [begin, begin + width) that see any of these keys
        const int64_t begin = (std::lower_bound(last, last + count, block) - last) / COLUMNS * COLUMNS;
        const int64_t end = std::upper_bound(first, first + count, block + COLUMNS - 1) - first;
        const int64_t width = whole(end, COLUMNS) - begin;
        for (int64_t r = 0; r < COLUMNS; r += ROWS) {
            const int64_t key = block + r;
            for (int64_t t = 0; t < width; t += COLUMNS) {
                tile((Pair*)(g.k + key * n), n / 2, 1, q_along + begin + t, padded, n / 2,
                     scores + t, padded, false);
                tile((Pair*)(g.v + key * n), n / 2, 1, d_along + begin + t, padded, n / 2,
                     slopes + t, padded, false);
            }
            for (int64_t i = 0; i < ROWS; i++)
                for (int64_t t = 0; t < width; t += LANES) {
                    Int from, to;
                    std::memcpy(&from, first + begin + t, sizeof from);
                    std::memcpy(&to, last + begin + t, sizeof to);
                    const int32_t self = key + i;
                    const Int sees = (from <= self) & (to >= self);
                    Vec s = load(scores + i * padded + t) * x.scale;
                    const int64_t apart = centre + begin + t - self;
                    if (x.distances) s += load(added + apart);
                    Vec p = exponential(s - load(log_sums + begin + t));
                    p = sees ? p : Vec{};
                    Vec slope = load(slopes + i * padded + t), dropped = p;
                    if (x.rate) {
                        const Vec k = kept(PLACES * uint32_t(x.keys) +
                                           uint32_t((begin + t) * x.keys + self));
                        slope *= k, dropped *= k;
                    }
                    const Vec d = p * (slope - load(dots + begin + t));
                    if (x.distances) store(d_added + apart, load(d_added + apart) + d);
                    store(pattern + (r + i) * padded + t, narrow(dropped));
                    store(d_scores + (r + i) * padded + t, narrow(d * x.scale));
                }
        }
        for (int64_t r = 0; r < COLUMNS; r += ROWS)
            for (int64_t i = 0; i < n; i += COLUMNS) {
                const int64_t to = (block + r) * n + i, from = begin / 2 * n + i;
                tile((Pair*)(pattern + r * padded), padded / 2, 1, d_across + from, n, width / 2,
                     g.dv + to, n, true);
                tile((Pair*)(d_scores + r * padded), padded / 2, 1, q_across + from, n, width / 2,
                     g.dk + to, n, true);
            }
        for (int64_t r = 0; r < COLUMNS; r += 2)
            zip(d_scores + r * padded, d_scores + (r + 1) * padded, pairs + r / 2 * padded, width);
        for (int64_t t = 0; t < width; t += ROWS)
            for (int64_t i = 0; i < n; i += COLUMNS)
                tile(pairs + t, 1, padded, g.k_across + block / 2 * n + i, n, COLUMNS / 2,
                     dq + (begin + t) * n + i, n, true);
    }
    if (x.distances) {
        float* sums = x.d_distances + (batch * x.heads + head) * x.distance_step;
        for (int64_t d = 0; d < reach; d++) sums[d] = d_added[margin + reach - 1 - d];
    }
    Number* to = at(x.dq, batch, head);
    for (int64_t t = 0; t < count; t++)
        for (int64_t i = 0; i < n; i += LANES)
            store(to + t * x.dq.position_step + i, narrow(load(dq + t * n + i)));
}

void backward_group(const Attention& x, int64_t batch, int64_t kv, Memory memory) {
    const int64_t n = x.head_dim, padded = whole(x.keys, COLUMNS), group = x.heads / x.kv_heads;
    Gradients g;
    g.k = memory.take<Number>(padded * n);
    g.v = memory.take<Number>(padded * n);
    g.k_across = memory.take<Pair>(padded * n / 2);
    g.dk = memory.take<float>(padded * n);
    g.dv = memory.take<float>(padded * n);
    rows_of(at(x.k, batch, kv), x.k.position_step, x.keys, padded, n, g.k);
    rows_of(at(x.v, batch, kv), x.v.position_step, x.keys, padded, n, g.v);
    across(g.k, padded, n, g.k_across);
    std::memset(g.dk, 0, padded * n * sizeof *g.dk);
    std::memset(g.dv, 0, padded * n * sizeof *g.dv);
    for (int64_t head = kv * group; head < (kv + 1) * group; head++)
        backward_head(x, batch, head, g, memory);
    Number *dk = at(x.dk, batch, kv), *dv = at(x.dv, batch, kv);
    for (int64_t t = 0; t < x.keys; t++)
        for (int64_t i = 0; i < n; i += LANES) {
            store(dk + t * x.dk.position_step + i, narrow(load(g.dk + t * n + i)));
            store(dv + t * x.dv.position_step + i, narrow(load(g.dv + t * n + i)));
        }
}

template <class Work>
void each_group(const Attention& x, int64_t threads, char* memory, int64_t bytes, Work work) {
    const int64_t tasks = x.batch * x.kv_heads;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t task = 0; task < tasks; task++) {
#ifdef _OPENMP
        const int64_t thread = omp_get_thread_num();
#else
        const int64_t thread = 0;
#endif
        work(x, task / x.kv_heads, task % x.kv_heads, Memory{memory + thread * bytes});
    }
}

}  // namespace

extern "C" {

int is_supported() { return 1; }

// Bytes of memory that each thread needs, for the forward and the backward alike.
int64_t bytes_of_a_thread(const Attention* x) {
    const int64_t padded = whole(std::max(x->queries, x->keys), COLUMNS), n = x->head_dim;
    return padded * (40 * n + 4 * 4 + ROWS * 8 + COLUMNS * 6 + 16) + ROWS * n * 4 +
        16 * 2 * COLUMNS + 28 * 64;
}

void attention_forward(const Attention* x, int64_t threads, char* memory) {
    each_group(*x, threads, memory, bytes_of_a_thread(x), forward_group);
}

void attention_backward(const Attention* x, int64_t threads, char* memory) {
    each_group(*x, threads, memory, bytes_of_a_thread(x), backward_group);
}
}

#else

extern "C" int is_supported() { return 0; }

#endif
