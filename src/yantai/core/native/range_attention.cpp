// Attention to a range of keys, for training on a CPU.
//
// softmax(q·kᵀ·scale)·v and its gradients, a head at a time, so that all of a head stays in the
// second cache. The pattern is never kept: the forward leaves the logarithm of each row's sum, from
// which the backward makes it again (FlashAttention, arXiv 2205.14135, appendix B); what dropout
// takes out of it is made again too. Each query sees
// the keys from its first to its last: that is order, a document's borders and a window in two
// numbers. Neither may fall from one query to the next.
//
// NUMBER is float, or uint16_t for bfloat16. Everything is one small product, `tile`:
// C[8 × 32] += A·B over units of 32 bits: a float, or a pair of bfloat16, as AVX512-BF16 takes them.
// A is read unit by unit from anywhere; B lies as rows of units, packed by `across` (from rows) or
// `along` (from columns).

#include "lanes.h"

namespace {

typedef NUMBER Number;
typedef std::conditional_t<sizeof(Number) == 2, int32_t, float> Unit;  // a pair: the first is lower

constexpr int PER = sizeof(Unit) / sizeof(Number);  // numbers of a unit
constexpr int ROWS = 8, COLUMNS = 32;

// Rows that a product sums up at once, two vectors each, so that the sums stay in registers.
constexpr int HEIGHT = LANES == 16 ? 8 : 4;
typedef Unit Units __attribute__((vector_size(4 * LANES)));

inline int64_t whole(int64_t count, int64_t piece) { return (count + piece - 1) / piece * piece; }

inline Vec multiply_add(Vec c, Units a, Units b) {
    if constexpr (PER == 1) return c + (Vec)a * (Vec)b;
#ifdef __AVX512BF16__
    return (Vec)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#else
    const Int upper = Int{} - 0x10000;
    c += (Vec)((Int)a << 16) * (Vec)((Int)b << 16);
    return c + (Vec)((Int)a & upper) * (Vec)((Int)b & upper);
#endif
}

// C[8 × 32] = (keep ? C : 0) + Σ a[row][unit]·b[unit][column]
inline void tile(const Unit* a, int64_t row_step, int64_t unit_step, const Unit* b, int64_t b_step,
                 int64_t units, float* c, int64_t c_step, bool keep) {
    for (int row = 0; row < ROWS; row += HEIGHT)
        for (int column = 0; column < COLUMNS; column += 2 * LANES) {
            float* to = c + row * c_step + column;
            Vec left[HEIGHT] = {}, right[HEIGHT] = {};
            for (int r = 0; keep && r < HEIGHT; r++) {
                std::memcpy(&left[r], to + r * c_step, sizeof(Vec));
                std::memcpy(&right[r], to + r * c_step + LANES, sizeof(Vec));
            }
            for (int64_t u = 0; u < units; u++) {
                Units b0, b1;
                std::memcpy(&b0, b + u * b_step + column, sizeof b0);
                std::memcpy(&b1, b + u * b_step + column + LANES, sizeof b1);
#pragma GCC unroll 8
                for (int r = 0; r < HEIGHT; r++) {
                    const Units x = a[(row + r) * row_step + u * unit_step] - Units{};
                    left[r] = multiply_add(left[r], x, b0);
                    right[r] = multiply_add(right[r], x, b1);
                }
            }
            for (int r = 0; r < HEIGHT; r++) {
                std::memcpy(to + r * c_step, &left[r], sizeof(Vec));
                std::memcpy(to + r * c_step + LANES, &right[r], sizeof(Vec));
            }
        }
}

// Rows end to end; rows behind the last are zeros.
void rows_of(const Number* from, int64_t step, int64_t count, int64_t padded, int64_t n, Number* to) {
    for (int64_t t = 0; t < count; t++) std::memcpy(to + t * n, from + t * step, n * sizeof *to);
    std::memset(to + count * n, 0, (padded - count) * n * sizeof *to);
}

// From rows[padded][n] to[n/PER][padded].
void along(const Number* rows, int64_t padded, int64_t n, Unit* to) {
    const Unit* from = reinterpret_cast<const Unit*>(rows);
    const int64_t units = n / PER;
    for (int64_t t = 0; t < padded; t += LANES)
        for (int64_t u = 0; u < units; u++) {
            const Unit* first = from + t * units + u;
#ifdef __AVX512F__
            const __m512i places = (__m512i)(PLACES * uint32_t(units));
            _mm512_storeu_si512(to + u * padded + t, _mm512_i32gather_epi32(places, first, 4));
#else
            for (int lane = 0; lane < LANES; lane++)
                to[u * padded + t + lane] = first[lane * units];
#endif
        }
}

// Two rows of bfloat16 are a row of pairs.
inline void zip(const void* a, const void* b, Unit* to, int64_t n) {
    for (int64_t i = 0; i < n; i += LANES) {
        Half x, y;
        std::memcpy(&x, (const uint16_t*)a + i, sizeof x);
        std::memcpy(&y, (const uint16_t*)b + i, sizeof y);
        const Wide pairs = __builtin_convertvector(x, Wide) | __builtin_convertvector(y, Wide) << 16;
        std::memcpy(to + i, &pairs, sizeof pairs);
    }
}

// From rows[padded][n] to[padded/PER][n], two neighbouring rows as pairs.
void across(const Number* rows, int64_t padded, int64_t n, Unit* to) {
    if (PER == 1) std::memcpy(to, rows, padded * n * sizeof *to);
    for (int64_t t = 0; PER == 2 && t < padded; t += 2)
        zip(rows + t * n, rows + (t + 1) * n, to + t / 2 * n, n);
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
    Unit *k_along, *v_across;
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
            tile((Unit*)(q + start * n), n / PER, 1, keys.k_along + key, padded, n / PER,
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
                store(pattern + r * padded + i, e);
            }
            sums[r] = sum(total);
            if (start + r < count) log_sums[t] = top + std::log(sums[r]);
        }
        for (int64_t i = 0; i < n; i += COLUMNS)
            tile((Unit*)pattern, padded / PER, 1, keys.v_across + from / PER * n + i, n,
                 (to - from) / PER, mixed + i, n, false);
        for (int64_t r = 0; r < std::min<int64_t>(ROWS, count - start); r++)
            for (int64_t i = 0; i < n; i += LANES)
                store(out + (start + r) * x.out.position_step + i,
                      load(mixed + r * n + i) * (1.0f / sums[r]));
    }
}

void forward_group(const Attention& x, int64_t batch, int64_t kv, Memory memory) {
    const int64_t n = x.head_dim, padded = whole(x.keys, COLUMNS), group = x.heads / x.kv_heads;
    Number* rows = memory.take<Number>(padded * n);
    const Keys keys{memory.take<Unit>(padded * n / PER), memory.take<Unit>(padded * n / PER)};
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
    Unit* k_across;
    float *dk, *dv;      // sums over the heads of the group
};

void backward_head(const Attention& x, int64_t batch, int64_t head, Gradients g, Memory memory) {
    const int64_t n = x.head_dim, count = x.queries, padded = whole(count, COLUMNS);
    Number* rows = memory.take<Number>(padded * n);
    Unit* q_along = memory.take<Unit>(padded * n / PER);
    Unit* q_across = memory.take<Unit>(padded * n / PER);
    Unit* d_along = memory.take<Unit>(padded * n / PER);
    Unit* d_across = memory.take<Unit>(padded * n / PER);
    float* dq = memory.take<float>(padded * n);
    float *log_sums = memory.take<float>(padded), *dots = memory.take<float>(padded);
    int32_t *first = memory.take<int32_t>(padded), *last = memory.take<int32_t>(padded);
    float *scores = memory.take<float>(ROWS * padded), *slopes = memory.take<float>(ROWS * padded);
    Number* pattern = memory.take<Number>(COLUMNS * padded);  // of a block of keys, keys × queries
    Number* d_scores = memory.take<Number>(COLUMNS * padded);
    Unit* by_keys = (Unit*)d_scores;  // units of keys × queries
    if (PER == 2) by_keys = memory.take<Unit>(COLUMNS / 2 * padded);
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
                tile((Unit*)(g.k + key * n), n / PER, 1, q_along + begin + t, padded, n / PER,
                     scores + t, padded, false);
                tile((Unit*)(g.v + key * n), n / PER, 1, d_along + begin + t, padded, n / PER,
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
                    store(pattern + (r + i) * padded + t, dropped);
                    store(d_scores + (r + i) * padded + t, d * x.scale);
                }
        }
        for (int64_t r = 0; r < COLUMNS; r += ROWS)
            for (int64_t i = 0; i < n; i += COLUMNS) {
                const int64_t to = (block + r) * n + i, from = begin / PER * n + i;
                tile((Unit*)(pattern + r * padded), padded / PER, 1, d_across + from, n, width / PER,
                     g.dv + to, n, true);
                tile((Unit*)(d_scores + r * padded), padded / PER, 1, q_across + from, n, width / PER,
                     g.dk + to, n, true);
            }
        for (int64_t r = 0; PER == 2 && r < COLUMNS; r += 2)
            zip(d_scores + r * padded, d_scores + (r + 1) * padded, by_keys + r / 2 * padded, width);
        for (int64_t t = 0; t < width; t += ROWS)
            for (int64_t i = 0; i < n; i += COLUMNS)
                tile(by_keys + t, 1, padded, g.k_across + block / PER * n + i, n, COLUMNS / PER,
                     dq + (begin + t) * n + i, n, true);
    }
    if (x.distances) {
        float* sums = x.d_distances + (batch * x.heads + head) * x.distance_step;
        for (int64_t d = 0; d < reach; d++) sums[d] = d_added[margin + reach - 1 - d];
    }
    Number* to = at(x.dq, batch, head);
    for (int64_t t = 0; t < count; t++)
        for (int64_t i = 0; i < n; i += LANES)
            store(to + t * x.dq.position_step + i, load(dq + t * n + i));
}

void backward_group(const Attention& x, int64_t batch, int64_t kv, Memory memory) {
    const int64_t n = x.head_dim, padded = whole(x.keys, COLUMNS), group = x.heads / x.kv_heads;
    Gradients g;
    g.k = memory.take<Number>(padded * n);
    g.v = memory.take<Number>(padded * n);
    g.k_across = memory.take<Unit>(padded * n / PER);
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
            store(dk + t * x.dk.position_step + i, load(g.dk + t * n + i));
            store(dv + t * x.dv.position_step + i, load(g.dv + t * n + i));
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

// Bytes of memory that each thread needs, for the forward and the backward alike.
int64_t bytes_of_a_thread(const Attention* x) {
    const int64_t padded = whole(std::max(x->queries, x->keys), COLUMNS), n = x->head_dim;
    const int64_t number = sizeof(Number), float_ = sizeof(float);
    return padded * (n * (8 * number + 3 * float_) + COLUMNS * 3 * number + ROWS * 2 * float_ + 32) +
        ROWS * n * float_ + 16 * 2 * COLUMNS + 28 * 64;
}

void attention_forward(const Attention* x, int64_t threads, char* memory) {
    each_group(*x, threads, memory, bytes_of_a_thread(x), forward_group);
}

void attention_backward(const Attention* x, int64_t threads, char* memory) {
    each_group(*x, threads, memory, bytes_of_a_thread(x), backward_group);
}
}
