// Rows of weights and their dot products with vectors: bfloat16, float32, codes of 8 or 4 bits.
//
// Knows: how weights lie in memory (codes: codes.h), and which way of multiplying suits how many
// vectors. However many threads there are, a dot product has one order of additions; whatever
// stands beside it, too, as long as there are few rows or each is to be as if it were alone. Vectors
// are float32, and so are all sums; beside codes they are rounded to whole numbers, added up exactly
// a piece at a time, where the processor multiplies these.

#pragma once

#include "codes.h"
#include "many.h"

namespace {

constexpr int MOST_ROWS = 8;  // activations that share one reading of a weight
constexpr int AHEAD = 4096;   // bytes of weights that are asked for before they are read

extern "C" {

struct Matrix {
    const void* weight;      // rows × columns, row after row; or their codes
    const uint16_t* scales;  // of codes: rows × groups, bfloat16
    const float *levels, *bias;  // of the codes of four bits; one a row, or null
    int64_t rows, columns, bits, group;  // bits is 0 for weights that are no codes
};
}

// Rows of weights as they lie in memory; `dots` are those of WEIGHTS rows with ROWS vectors.
template <class T>
struct Plain {
    const T* weight;
    int64_t columns;

    template <int WEIGHTS, int ROWS>
    void dots(int64_t from, const float* x, int64_t stride, float out[ROWS][WEIGHTS]) const {
        const T* row = weight + from * columns;
        Vec total[ROWS][WEIGHTS] = {};
        const int64_t whole = columns / LANES * LANES;
        if constexpr (ROWS == 1) {  // one behind another, as memory is read ahead
            for (int w = 0; w < WEIGHTS; w++) {
                Vec sum = {};
                for (int64_t at = 0; at < whole; at += LANES) {
                    __builtin_prefetch(row + w * columns + at + AHEAD / sizeof(T));
                    sum += load(row + w * columns + at) * load(x + at);
                }
                total[0][w] = sum;
            }
        } else {
            for (int64_t at = 0; at < whole; at += LANES) {
                Vec read[WEIGHTS];
                EACH
                for (int w = 0; w < WEIGHTS; w++) {
                    read[w] = load(row + w * columns + at);
                    __builtin_prefetch(row + (WEIGHTS + w) * columns + at);
                }
                EACH
                for (int r = 0; r < ROWS; r++) {
                    const Vec value = load(x + r * stride + at);
                    EACH
                    for (int w = 0; w < WEIGHTS; w++) total[r][w] += read[w] * value;
                }
            }
        }
        EACH
        for (int r = 0; r < ROWS; r++) {
            sums<WEIGHTS>(total[r], out[r]);
            EACH
            for (int w = 0; w < WEIGHTS; w++) {
                float rest = 0;
                for (int64_t c = whole; c < columns; c++)
                    rest += one(row[w * columns + c]) * x[r * stride + c];
                out[r][w] += rest;
            }
        }
    }

#ifdef MANY_ROWS
    Rows narrow_rows(int64_t from, int64_t, Narrow&) const {
        return {reinterpret_cast<const uint16_t*>(weight) + from * columns, columns};
    }
#endif

    float at(int64_t row, int64_t column) const { return one(weight[row * columns + column]); }
    int64_t row_bytes() const { return columns * sizeof(T); }
    const char* bytes_at(int64_t row) const {
        return reinterpret_cast<const char*>(weight) + row * row_bytes();
    }
};

// `body(weights)` with the weights of a matrix in their own form.
template <class T, class Body>
inline void with_weights(const Matrix& m, Body body) {
    const uint8_t* codes = static_cast<const uint8_t*>(m.weight);
    switch (m.bits) {
        case 4: return body(Packed<4>{codes, m.scales, m.levels, m.columns, m.group});
        case 8: return body(Packed<8>{codes, m.scales, m.levels, m.columns, m.group});
        default: return body(Plain<T>{static_cast<const T*>(m.weight), m.columns});
    }
}

// A vector as it is: rows of floats one behind another.
struct Floats {
    const float* x;
    int64_t stride;
};

template <int WEIGHTS, int ROWS, class Weights>
inline void dots(const Weights& weights, int64_t from, const Floats& x, int64_t first,
                 float out[ROWS][WEIGHTS]) {
    weights.template dots<WEIGHTS, ROWS>(from, x.x + first * x.stride, x.stride, out);
}

#ifdef WHOLE_NUMBERS
template <int WEIGHTS, int ROWS, int BITS>
inline void dots(const Packed<BITS>& weights, int64_t from, const Rounded& x, int64_t first,
                 float out[ROWS][WEIGHTS]) {
    weights.template dots<WEIGHTS, ROWS>(from, x, first, out);
}
#endif

template <int WEIGHTS, int ROWS, class Weights, class Vectors, class Use>
inline int64_t some(const Weights& weights, const float* bias, int64_t from, int64_t to,
                    const Vectors& x, int64_t first_row, Use& use) {
    float out[ROWS][WEIGHTS];
    for (; from + WEIGHTS <= to; from += WEIGHTS) {
        dots<WEIGHTS, ROWS>(weights, from, x, first_row, out);
        EACH
        for (int r = 0; r < ROWS; r++)
            EACH
            for (int w = 0; w < WEIGHTS; w++)
                use(first_row + r, from + w, out[r][w] + (bias ? bias[from + w] : 0.0f));
    }
    return from;
}

template <int ROWS, class Weights, class Vectors, class Use>
inline void band(const Weights& weights, const float* bias, int64_t from, int64_t to,
                 const Vectors& x, int64_t first_row, Use& use) {
    constexpr int WEIGHTS = ROWS >= 4 ? 2 : 8 / ROWS;  // about as many sums as hide the latency
    from = some<WEIGHTS, ROWS>(weights, bias, from, to, x, first_row, use);
    some<1, ROWS>(weights, bias, from, to, x, first_row, use);
}

template <class Weights, class Vectors, class Use>
inline void bands(const Weights& weights, const float* bias, int64_t from, int64_t to,
                  const Vectors& x, int64_t rows, Use& use) {
    // a band of weights stays in the nearest cache while all rows use it
    const int64_t step = rows > 1 ? std::max<int64_t>(1, 16384 / weights.row_bytes() / 8) * 8 : to;
    for (int64_t start = from; start < to; start += step) {
        const int64_t stop = std::min(start + step, to);
        for (int64_t row = 0; row < rows;) {
            switch (std::min<int64_t>(rows - row, MOST_ROWS)) {
                case 1: band<1>(weights, bias, start, stop, x, row, use); row += 1; break;
                case 2: band<2>(weights, bias, start, stop, x, row, use); row += 2; break;
                case 3: band<3>(weights, bias, start, stop, x, row, use); row += 3; break;
                case 4: case 5: case 6: case 7:
                    band<4>(weights, bias, start, stop, x, row, use); row += 4; break;
                default: band<8>(weights, bias, start, stop, x, row, use); row += 8;
            }
        }
    }
}

// How rows are multiplied: each as if there were no others, as many as there are, or all as if there
// were many. The first and the last give a row the same numbers whatever stands beside it.
enum class Way { ALONE, AS_MANY, TOGETHER };

// Outputs [from, to) of y = W·x + b for each row; `use(row, output, value)` says where they go.
template <class T, class Use>
inline void product(const Matrix& m, int64_t from, int64_t to, const float* x, int64_t rows,
                    Way way, Use use) {
#ifdef MANY_ROWS
    const bool many = way == Way::TOGETHER ||
                      (way == Way::AS_MANY && rows >= (m.bits ? MANY_OF_CODES : MANY));
    if (std::is_same_v<T, uint16_t> && many)
        return with_weights<T>(m, [&](const auto& weights) {
            product_of_many(weights, m.bias, from, to, x, rows, m.columns, way == Way::TOGETHER, use);
        });
#endif
#ifdef WHOLE_NUMBERS
    if (m.bits) {
        Rounded& rounded = own_rounded();
        rounded.take(x, rows, m.columns, m.bits == 4);
        return with_weights<T>(m, [&](const auto& weights) {
            if constexpr (!std::is_same_v<std::decay_t<decltype(weights)>, Plain<T>>)
                bands(weights, m.bias, from, to, rounded, rows, use);
        });
    }
#endif
    with_weights<T>(m, [&](const auto& weights) {
        bands(weights, m.bias, from, to, Floats{x, m.columns}, rows, use);
    });
}

}  // namespace
