// The parts between two matrix products, each with one pass over memory.
//
// Norms, the turn of queries and keys, the gate of the MLP, dropout, and their gradients. NUMBER is
// uint16_t for bfloat16, or float: computed in float32 and rounded once. Gradients of weights are summed by each
// thread over its own rows, and the threads' sums are added in their order by the caller.

#include "lanes.h"

namespace {

typedef NUMBER Number;

// Each thread gets rows one behind another; `work(from, to, thread)`.
template <class Work>
void by_rows(int64_t rows, int64_t columns, int64_t threads, Work work) {
#ifdef _OPENMP
#pragma omp parallel num_threads(threads) if (rows * columns > 16384)
    {
        const int64_t count = omp_get_num_threads(), thread = omp_get_thread_num();
        work(rows * thread / count, rows * (thread + 1) / count, thread);
    }
#else
    work(0, rows, 0);
#endif
}

// ---------------------------------------------------------------- one vector's norm

// x·r·w with r = 1/√(mean(x²)+ε); returns r.
inline float rms_scale(const Number* x, int64_t n, float eps) {
    Vec squares = {};
    for (int64_t i = 0; i < n; i += LANES) squares += load(x + i) * load(x + i);
    return 1.0f / std::sqrt(sum(squares) / n + eps);
}

}  // namespace

extern "C" {

// y = act(a)·b, or act(a) where b is null.
void gate_forward(int64_t kind, const Number* a, const Number* b, Number* y, int64_t count,
                  int64_t threads) {
    with_kind(kind, [&](auto constant) {
        by_rows(count / LANES, LANES, threads, [&](int64_t from, int64_t to, int64_t) {
            for (int64_t i = from * LANES; i < to * LANES; i += LANES) {
                Vec f = activation<decltype(constant)::value>(load(a + i)).value;
                if (b) f *= load(b + i);
                store(y + i, f);
            }
        });
    });
}

// da = g·b·act'(a) and db = g·act(a).
void gate_backward(int64_t kind, const Number* a, const Number* b, const Number* g, Number* da,
                   Number* db, int64_t count, int64_t threads) {
    with_kind(kind, [&](auto constant) {
        by_rows(count / LANES, LANES, threads, [&](int64_t from, int64_t to, int64_t) {
            for (int64_t i = from * LANES; i < to * LANES; i += LANES) {
                const Slope f = activation<decltype(constant)::value>(load(a + i));
                const Vec upstream = load(g + i);
                if (b) {
                    store(da + i, upstream * load(b + i) * f.slope);
                    store(db + i, upstream * f.value);
                } else {
                    store(da + i, upstream * f.slope);
                }
            }
        });
    });
}

// y = x·kept, by which x is also the gradient of y and y that of x.
void dropout(const Number* x, Number* y, int64_t count, int64_t seed, float rate, int64_t threads) {
    const Kept kept(seed, 0, rate);
    by_rows(count / LANES, LANES, threads, [&](int64_t from, int64_t to, int64_t) {
        for (int64_t i = from * LANES; i < to * LANES; i += LANES)
            store(y + i, load(x + i) * kept(PLACES + uint32_t(i)));
    });
}

// y = w·x·r; the scales r are kept, one a row.
void rms_forward(const Number* x, const float* w, float eps, Number* y, float* scales, int64_t rows,
                 int64_t n, int64_t threads) {
    by_rows(rows, n, threads, [&](int64_t from, int64_t to, int64_t) {
        for (int64_t row = from; row < to; row++) {
            const Number* at = x + row * n;
            const float r = scales[row] = rms_scale(at, n, eps);
            for (int64_t i = 0; i < n; i += LANES)
                store(y + row * n + i, load(at + i) * r * load(w + i));
        }
    });
}

// With u = g·w and m = x·r: dx = r·(u − m·mean(u·m)), dw = Σ g·m, a part of the sum a thread.
void rms_backward(const Number* x, const float* w, const float* scales, const Number* g, Number* dx,
                  float* dw, int64_t rows, int64_t n, int64_t threads) {
    by_rows(rows, n, threads, [&](int64_t from, int64_t to, int64_t thread) {
        float* part = dw + thread * n;
        for (int64_t row = from; row < to; row++) {
            const Number *at = x + row * n, *up = g + row * n;
            const float r = scales[row];
            Vec dots = {};
            for (int64_t i = 0; i < n; i += LANES) {
                const Vec m = load(at + i) * r, upstream = load(up + i);
                dots += upstream * load(w + i) * m;
                store(part + i, load(part + i) + upstream * m);
            }
            const float mean = sum(dots) / n;
            for (int64_t i = 0; i < n; i += LANES)
                store(dx + row * n + i, r * (load(up + i) * load(w + i) - load(at + i) * r * mean));
        }
    });
}

// y = w·(x−μ)·r + b; means and scales are kept, two a row.
void layer_norm_forward(const Number* x, const float* w, const float* b, float eps, Number* y,
                        float* kept, int64_t rows, int64_t n, int64_t threads) {
    by_rows(rows, n, threads, [&](int64_t from, int64_t to, int64_t) {
        for (int64_t row = from; row < to; row++) {
            const Number* at = x + row * n;
            Vec sums = {}, squares = {};
            for (int64_t i = 0; i < n; i += LANES) sums += load(at + i);
            const float mean = sum(sums) / n;
            for (int64_t i = 0; i < n; i += LANES) {
                const Vec d = load(at + i) - mean;
                squares += d * d;
            }
            const float r = 1.0f / std::sqrt(sum(squares) / n + eps);
            kept[2 * row] = mean, kept[2 * row + 1] = r;
            for (int64_t i = 0; i < n; i += LANES)
                store(y + row * n + i, (load(at + i) - mean) * r * load(w + i) + load(b + i));
        }
    });
}

// With u = g·w and m = (x−μ)·r: dx = r·(u − mean(u) − m·mean(u·m)), dw = Σ g·m, db = Σ g.
void layer_norm_backward(const Number* x, const float* w, const float* kept, const Number* g,
                         Number* dx, float* dw, float* db, int64_t rows, int64_t n,
                         int64_t threads) {
    by_rows(rows, n, threads, [&](int64_t from, int64_t to, int64_t thread) {
        float *part = dw + thread * n, *bias = db + thread * n;
        for (int64_t row = from; row < to; row++) {
            const Number *at = x + row * n, *up = g + row * n;
            const float mean = kept[2 * row], r = kept[2 * row + 1];
            Vec sums = {}, dots = {};
            for (int64_t i = 0; i < n; i += LANES) {
                const Vec m = (load(at + i) - mean) * r, upstream = load(up + i);
                const Vec u = upstream * load(w + i);
                sums += u;
                dots += u * m;
                store(part + i, load(part + i) + upstream * m);
                store(bias + i, load(bias + i) + upstream);
            }
            const float average = sum(sums) / n, dot = sum(dots) / n;
            for (int64_t i = 0; i < n; i += LANES) {
                const Vec m = (load(at + i) - mean) * r;
                store(dx + row * n + i, r * (load(up + i) * load(w + i) - average - m * dot));
            }
        }
    });
}

// Heads, normed by w where it is not null, then turned by the angles of their position: with n the
// normed vector, y = n·cos + swap(n)·sin, the sine signed. Position p of sequence b is row b·count+p.
void turn_forward(const Number* x, const float* w, float eps, const Number* cos, const Number* sin,
                  int64_t angle_step, Number* y, float* scales, int64_t batch, int64_t count,
                  int64_t heads, int64_t n, int64_t threads) {
    const int64_t half = n / 2;
    by_rows(batch * count, heads * n, threads, [&](int64_t from, int64_t to, int64_t) {
        for (int64_t row = from; row < to; row++) {
            const int64_t place = row / count * angle_step + row % count * n;
            const Number *c = cos + place, *s = sin + place;
            for (int64_t head = row * heads; head < (row + 1) * heads; head++) {
                const Number* at = x + head * n;
                const float r = w ? rms_scale(at, n, eps) : 1.0f;
                if (w) scales[head] = r;
                for (int64_t i = 0; i < half; i += LANES) {
                    Vec a = load(at + i), b = load(at + half + i);
                    if (w) a *= r * load(w + i), b *= r * load(w + half + i);
                    store(y + head * n + i, a * load(c + i) + b * load(s + i));
                    store(y + head * n + half + i, b * load(c + half + i) + a * load(s + half + i));
                }
            }
        }
    });
}

void turn_backward(const Number* x, const float* w, const Number* cos, const Number* sin,
                   int64_t angle_step, const float* scales, const Number* g, Number* dx, float* dw,
                   int64_t batch, int64_t count, int64_t heads, int64_t n, int64_t threads) {
    const int64_t half = n / 2;
    by_rows(batch * count, heads * n, threads, [&](int64_t from, int64_t to, int64_t thread) {
        for (int64_t row = from; row < to; row++) {
            const int64_t place = row / count * angle_step + row % count * n;
            const Number *c = cos + place, *s = sin + place;
            for (int64_t head = row * heads; head < (row + 1) * heads; head++) {
                const Number *at = x + head * n, *up = g + head * n;
                const float r = w ? scales[head] : 1.0f;
                Vec dots = {};
                float mean = 0;
                for (int pass = w ? 0 : 1; pass < 2; pass++) {
                    for (int64_t i = 0; i < half; i += LANES) {
                        const Vec p = load(up + i), q = load(up + half + i);
                        Vec a = p * load(c + i) + q * load(s + half + i);
                        Vec b = q * load(c + half + i) + p * load(s + i);
                        if (!w) {
                            store(dx + head * n + i, a);
                            store(dx + head * n + half + i, b);
                            continue;
                        }
                        const Vec m = load(at + i) * r, k = load(at + half + i) * r;
                        float *low = dw + thread * n + i, *high = low + half;
                        if (pass == 0) {
                            store(low, load(low) + a * m);
                            store(high, load(high) + b * k);
                            dots += a * load(w + i) * m + b * load(w + half + i) * k;
                            continue;
                        }
                        a = r * (a * load(w + i) - m * mean);
                        b = r * (b * load(w + half + i) - k * mean);
                        store(dx + head * n + i, a);
                        store(dx + head * n + half + i, b);
                    }
                    if (pass == 0) mean = sum(dots) / n;
                }
            }
        }
    });
}
}
